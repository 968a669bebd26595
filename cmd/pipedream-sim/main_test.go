package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// asProgram makes the test binary run the program, so that a test can send it signals.
const asProgram = "PIPEDREAM_SIM_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// announced reads what the program prints once it is running.
func announced(t *testing.T, stdout io.Reader, lines int) map[string]string {
	t.Helper()
	values := map[string]string{}
	scanner := bufio.NewScanner(stdout)
	for len(values) < lines && scanner.Scan() {
		if name, value, ok := strings.Cut(scanner.Text(), "="); ok {
			values[name] = value
		}
	}
	require.NoError(t, scanner.Err())
	require.Len(t, values, lines)
	return values
}

// running is the program inside this process.
type running struct {
	announced map[string]string
	stderr    *bytes.Buffer // to read after stop
	stop      func()
}

// start runs the program and waits until it is running and has announced that many values.
func start(t *testing.T, lines int, args ...string) running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	var stderr bytes.Buffer
	done := make(chan error, 1)
	go func() {
		err := run(ctx, args, write, &stderr)
		_ = write.CloseWithError(io.EOF)
		done <- err
	}()
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(stop)
	return running{announced(t, read, lines), &stderr, stop}
}

// get sends a request to an announced address, on a new connection.
func get(t *testing.T, url, bearer string, header ...string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	return do(t, req, bearer, header...)
}

func do(t *testing.T, req *http.Request, bearer string, header ...string) (status int, body string) {
	t.Helper()
	req.Close = true
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(raw)
}

func TestRun(t *testing.T) {
	t.Setenv(keyVariable, "")
	ready := filepath.Join(t.TempDir(), "ready")
	require.NoError(t, os.WriteFile(ready, []byte("of an earlier run"), 0o600))
	p := start(t, 4, "-ready-file", ready, "-limit", "2", "-log")
	base, key := p.announced["base_url"], p.announced["api_key"]
	require.Regexp(t, `^http://127\.0\.0\.1:[0-9]+/v1$`, base)

	raw, err := os.ReadFile(ready) //nolint:gosec // the test's own file
	require.NoError(t, err)
	require.Equal(t, base+"\n", string(raw))
	files, err := os.ReadDir(filepath.Dir(ready))
	require.NoError(t, err)
	require.Len(t, files, 1)

	status, body := get(t, base+"/accounts/apn_github?include_credentials=1", key)
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "pdtok_apn_github_1_")
	status, _ = get(t, base+"/accounts/apn_github", "wrong_key")
	require.Equal(t, http.StatusUnauthorized, status)
	status, _ = get(t, base+"/accounts", key)
	require.Equal(t, http.StatusTooManyRequests, status)

	// The printed client opens the Connect project.
	status, _ = get(t, base+"/connect/proj_demo/accounts", p.accessToken(t, ""), "x-pd-environment: production")
	require.Equal(t, http.StatusTooManyRequests, status, "authorized, but past the limit")

	p.stop()
	require.NoFileExists(t, ready)
	lines := strings.Split(strings.TrimSpace(p.stderr.String()), "\n")
	require.Len(t, lines, 5)
	require.Regexp(t, `^20\S+Z GET /v1/accounts/apn_github 200$`, lines[0])
	require.NotContains(t, p.stderr.String(), key)
}

func TestRunWithEverythingGiven(t *testing.T) {
	t.Setenv(keyVariable, "key_of_the_environment")
	file := filepath.Join(t.TempDir(), "accounts.json")
	require.NoError(t, os.WriteFile(file, []byte(`[{"id":"apn_own","credentials":{"n":1152921504606846976}}]`), 0o600))
	p := start(t, 1, "-accounts", file, "-client-id", "client", "-client-secret", "client_secret", "-listen", "127.0.0.1:0")
	base := p.announced["base_url"]
	status, body := get(t, base+"/accounts/apn_own?include_credentials=1", "key_of_the_environment")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, `"credentials":{"n":1152921504606846976}`)
	status, _ = get(t, base+"/accounts/apn_github", "key_of_the_environment")
	require.Equal(t, http.StatusNotFound, status)
	p.stop()
	require.Empty(t, p.stderr.String())
}

// accessToken requests a workspace access token with the announced client.
func (p *running) accessToken(t *testing.T, scope string) string {
	t.Helper()
	body, err := json.Marshal(map[string]string{
		"grant_type": "client_credentials", "client_id": p.announced["client_id"], "client_secret": p.announced["client_secret"], "scope": scope,
	})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.announced["base_url"]+"/oauth/token", bytes.NewReader(body))
	require.NoError(t, err)
	status, answer := do(t, req, "", "Content-Type: application/json")
	require.Equal(t, http.StatusOK, status)
	var token struct {
		AccessToken string `json:"access_token"`
	}
	require.NoError(t, json.Unmarshal([]byte(answer), &token))
	return token.AccessToken
}

func TestRunConnectLink(t *testing.T) {
	t.Setenv(keyVariable, "")
	p := start(t, 4)
	base := p.announced["base_url"]
	post, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/connect/proj_demo/tokens", strings.NewReader(`{"external_user_id":"carol"}`))
	require.NoError(t, err)
	status, body := do(t, post, p.accessToken(t, "connect:tokens:create"), "Content-Type: application/json", "x-pd-environment: production")
	require.Equal(t, http.StatusOK, status)
	var token struct {
		Link string `json:"connect_link_url"`
	}
	require.NoError(t, json.Unmarshal([]byte(body), &token))
	require.True(t, strings.HasPrefix(token.Link, strings.TrimSuffix(base, "v1")+"_static/connect.html?"), token.Link)

	link := token.Link + "&app=github&oauthAppId=oa_demo"
	status, body = get(t, link, "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, `name="result" value="connect"`)
	click, err := http.NewRequestWithContext(t.Context(), http.MethodPost, link, strings.NewReader("result=connect"))
	require.NoError(t, err)
	status, _ = do(t, click, "", "Content-Type: application/x-www-form-urlencoded")
	require.Equal(t, http.StatusOK, status)

	reader := p.accessToken(t, "connect:accounts:read")
	status, body = get(t, base+"/connect/proj_demo/accounts?external_user_id=carol&app=github&include_credentials=true", reader, "x-pd-environment: production")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "oauth_access_token")
}

// TestRunConnectTokens: where they lead, and whether they read credentials, is for the options to say.
func TestRunConnectTokens(t *testing.T) {
	t.Setenv(keyVariable, "")
	for want, args := range map[bool][]string{false: nil, true: {"-connect-token-credentials", "-link-origin", "https://connect.example.com"}} {
		p := start(t, 4, args...)
		base := p.announced["base_url"]
		post, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/connect/proj_demo/tokens", strings.NewReader(`{"external_user_id":"alice"}`))
		require.NoError(t, err)
		status, body := do(t, post, p.accessToken(t, "connect:tokens:create"), "Content-Type: application/json", "x-pd-environment: production")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, want, strings.Contains(body, `"https://connect.example.com/_static/connect.html?`))
		var token struct {
			Token string `json:"token"`
		}
		require.NoError(t, json.Unmarshal([]byte(body), &token))
		status, body = get(t, base+"/connect/proj_demo/accounts/apn_alice1?include_credentials=true", token.Token, "x-pd-environment: production")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, want, strings.Contains(body, "oauth_access_token"))
	}
}

func TestRunWithTheWorkspaceOpenToConnect(t *testing.T) {
	t.Setenv(keyVariable, "")
	for status, args := range map[int][]string{http.StatusForbidden: nil, http.StatusOK: {"-connect-scopes"}} {
		p := start(t, 4, args...)
		got, _ := get(t, p.announced["base_url"]+"/accounts", p.accessToken(t, "connect:accounts:read"))
		require.Equal(t, status, got)
	}
}

func TestRunWithAnOrg(t *testing.T) {
	t.Setenv(keyVariable, "")
	p := start(t, 4, "-org-id", "o_demo")
	list := p.announced["base_url"] + "/accounts"
	status, _ := get(t, list, p.announced["api_key"])
	require.Equal(t, http.StatusBadRequest, status)
	status, _ = get(t, list+"?org_id=o_demo", p.announced["api_key"])
	require.Equal(t, http.StatusOK, status)
}

func TestRunHelp(t *testing.T) {
	t.Setenv(keyVariable, "key_of_the_environment")
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-h"}, &out, io.Discard))
	require.Contains(t, out.String(), "for tests and demos only")
	require.Contains(t, out.String(), "-ready-file")
	require.Contains(t, out.String(), "token_life")
	require.NotContains(t, out.String(), "key_of_the_environment")
}

func TestRunRefuses(t *testing.T) {
	l, err := pipedreamtest.ListenLoopback("127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	nameless := filepath.Join(t.TempDir(), "accounts.json")
	require.NoError(t, os.WriteFile(nameless, []byte(`[{}]`), 0o600))
	full := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(full, "file"), nil, 0o600))
	for name, args := range map[string][]string{
		"not a loopback address": {"-listen", "0.0.0.0:0"},
		"no host":                {"-listen", ":0"},
		"a taken address":        {"-listen", l.Addr().String()},
		"no such accounts":       {"-accounts", filepath.Join(t.TempDir(), "none")},
		"accounts without ids":   {"-accounts", nameless},
		"no such folder":         {"-ready-file", filepath.Join(t.TempDir(), "none", "ready")},
		"a folder as ready file": {"-ready-file", full},
		"an unknown flag":        {"-nonsense"},
		"an argument":            {"nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Error(t, run(t.Context(), args, io.Discard, io.Discard))
		})
	}
}

func TestRunWithoutReader(t *testing.T) {
	read, write := io.Pipe()
	_ = read.Close()
	ready := filepath.Join(t.TempDir(), "ready")
	require.ErrorIs(t, run(t.Context(), []string{"-ready-file", ready}, write, io.Discard), io.ErrClosedPipe)
	require.NoFileExists(t, ready)
}

// TestRunStopsWithAnIdleConnection has a client that connects and sends nothing.
func TestRunStopsWithAnIdleConnection(t *testing.T) {
	p := start(t, 4)
	var d net.Dialer
	addr := strings.TrimSuffix(strings.TrimPrefix(p.announced["base_url"], "http://"), "/v1")
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	p.stop()
}

func TestSignalsStopTheProgram(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			ready := filepath.Join(t.TempDir(), "ready")
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-ready-file", ready) //nolint:gosec // this very program
			cmd.Env = append(os.Environ(), asProgram+"=1", keyVariable+"=key_of_the_environment")
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			announced(t, stdout, 3)
			require.FileExists(t, ready)
			require.NoError(t, cmd.Process.Signal(signal))
			require.NoError(t, cmd.Wait())
			require.NoFileExists(t, ready)
		})
	}
}

func TestProgramFails(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-listen", "0.0.0.0:0") //nolint:gosec // this very program
	cmd.Env = append(os.Environ(), asProgram+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode())
	require.Equal(t, "pipedream-sim: 0.0.0.0:0 is not a loopback address\n", string(out))
}
