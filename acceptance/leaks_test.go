package acceptance

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestNothingSecretLeaks uses the whole surface of the engine at log level trace, with a Pipedream that repeats secrets
// in every wrong answer. No secret may appear in what Vault writes or returns, except where a credential was asked for.
func TestNothingSecretLeaks(t *testing.T) {
	t.Parallel()
	m := onOwnVault(t)
	s := &surface{mount: m, T: t, said: &strings.Builder{}}
	// The key contains characters of every kind, so that it looks different in each encoding.
	m.apiKey = `pdkey_<>&"'+/=?%~\{}_of_the_user`
	m.sim.SetAPIKey(m.apiKey)
	const clientSecret = `pdsecret_<>&"'+/=?%~\{}_of_the_client`
	m.sim.SetOAuthClient("client_1", clientSecret, time.Hour)

	s.workspace()
	s.connect(clientSecret)
	s.faults()
	s.processes()

	secrets := slices.DeleteFunc(m.sim.Secrets(), func(secret string) bool { return len(secret) < 8 })
	for _, want := range []string{m.apiKey, clientSecret, "pdrefresh_", "pdworkspace_", "pdtok_", "ctok_"} {
		require.True(t, slices.ContainsFunc(secrets, func(secret string) bool { return strings.HasPrefix(secret, want) }), "no %s was handed out", want)
	}
	snapshot := readFile(t, m.vault.snapshot(t))
	require.NoError(t, m.vault.process.stop())
	places := map[string]string{"what was said": s.said.String(), "the snapshot": snapshot, "the snapshot, unpacked": unpack(t, snapshot)}
	maps.Copy(places, filesBelow(t, m.vault.dir))
	require.Contains(t, places[m.vault.logPath()], "credentials could not be fetched", "the plugin's log")
	require.Contains(t, places[m.vault.auditPath()], "creds/"+githubID)
	if !onOpenBao { // OpenBao's snapshots are not compressed
		require.Greater(t, len(places["the snapshot, unpacked"]), len(snapshot))
	}
	require.NotEmpty(t, places["the snapshot, unpacked"])
	for where, text := range places {
		for _, secret := range secrets {
			for encoding, form := range formsOf(secret) {
				if strings.Contains(text, form) {
					t.Errorf("%s holds %q (%s)", where, secret, encoding)
				}
			}
		}
	}
}

// surface uses everything that a mount offers, and keeps what it returns except credentials.
type surface struct {
	*mount
	*testing.T
	said *strings.Builder
}

func (s *surface) note(secret *api.Secret, err error) {
	if err != nil {
		fmt.Fprintln(s.said, err)
	}
	if secret != nil {
		text, err := json.Marshal(secret)
		require.NoError(s, err)
		s.said.Write(text)
		for _, warning := range secret.Warnings {
			s.said.WriteString(warning)
		}
	}
}

// everything calls each path. For paths that return credentials it keeps only the errors.
func (s *surface) everything(names ...string) {
	client := s.vault.root.Logical()
	for _, name := range names {
		for _, path := range []string{"creds/", "static-creds/"} {
			_, err := client.Read(s.in(path + name))
			s.note(nil, err)
			_, err = client.Write(s.in(path+name), map[string]any{"min_ttl": "10h"})
			s.note(nil, err)
		}
		s.note(client.Write(s.in("refresh/"+name), nil))
		_, err := client.Write(s.in("connect/"+name), map[string]any{"new": true})
		s.note(nil, err)
		if strings.HasPrefix(name, "apn_") {
			// The metadata shows why an account is dead, in Pipedream's own words.
			_, err := client.Read(s.in("accounts/" + name))
			s.note(nil, err)
		}
	}
	s.note(client.List(s.in("accounts")))
	s.note(client.List(s.in("roles")))
	s.note(client.Read(s.in("roles/one")))
	s.note(client.Read(s.in("config")))
	s.note(client.Read(s.in("status")))
	_, metrics := s.raw(s.T, http.MethodGet, "metrics", "")
	s.said.WriteString(metrics)
}

func (s *surface) workspace() {
	s.sim.SetAccount(github())
	s.sim.SetAccount(stripe())
	dead := githubWith(func(a *pipedreamtest.Account) {
		a.ID, a.Dead, a.Error = "apn_dead", true, "invalid_grant: "+s.apiKey+" "+s.sim.Token(githubID)
	})
	s.sim.SetAccount(dead)
	odd := stripe()
	odd.ID, odd.Credentials = "apn_odd", map[string]any{
		"nested": map[string]any{"in": []any{`deep_<>&"'+/=?%~\{}_secret`}}, "ttl": "ttl_that_is_a_secret", "http_raw_body": "body_that_is_a_secret",
	}
	s.sim.SetAccount(odd)
	s.configure(s.T, map[string]any{"max_retries": 0, "rate_limit": 0, "expose_refresh_token": true})
	s.sim.SetLimit(0)
	s.write(s.T, "roles/one", map[string]any{"account_id": githubID, "fields": "oauth_access_token"})
	s.everything(githubID, stripeID, "apn_odd", "apn_dead", "apn_nobody", "one", "none", "a b")

	client := s.vault.root.Logical()
	for _, fields := range []map[string]any{
		{"api_key": s.apiKey + " "},
		{"api_key": s.apiKey + "\n" + s.apiKey},
		{"api_key": s.apiKey, "base_url": "https://user:" + url.QueryEscape(s.apiKey) + "@127.0.0.1:1/v1"},
		{"base_url": "https://127.0.0.1:1/" + s.apiKey},
		{"api_key": s.apiKey, "client_secret": s.apiKey},
		{"client_secret": s.apiKey},
		{"client_id": "x", "client_secret": s.apiKey, "project_id": "proj_x"},
		{"api_key": s.apiKey + "_wrong"},
		{"api_key": s.apiKey, "base_url": "http://127.0.0.1:1/v1"},
		{"api_key": s.apiKey, "base_url": "https://127.0.0.1:1/v1"},
		{"api_key": s.apiKey, "min_ttl": "soon"},
		{"api_key": s.apiKey, "ca_cert": s.apiKey},
	} {
		s.note(client.Write(s.in("config"), fields))
	}
	s.configure(s.T, map[string]any{"max_retries": 0, "rate_limit": 0, "expose_refresh_token": true})
}

func (s *surface) connect(clientSecret string) {
	s.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID, a.Project, a.ExternalUserID = "apn_alice", "proj_1", "alice" }))
	s.write(s.T, "config", map[string]any{"client_id": "client_1", "client_secret": clientSecret, "project_id": "proj_1", "base_url": s.apiURL})
	s.write(s.T, "roles/alices", map[string]any{"app": "github", "external_user_id": "alice"})
	s.write(s.T, "roles/mine", map[string]any{"app": "github", "external_user_id": "{{identity.entity.id}}"})
	s.write(s.T, "config", map[string]any{"allow_access_tokens": true})
	s.write(s.T, "roles/connects", map[string]any{"credential_type": "connect_token", "scope": "connect:proxy", "app": "github", "external_user_id": "alice"})
	s.write(s.T, "roles/accesses", map[string]any{"credential_type": "access_token", "scope": "connect:proxy"})
	s.everything("apn_alice", "alices", "mine", "apn_nobody", "connects", "accesses")
	for role, field := range map[string]string{"connects": "connect_token", "accesses": "access_token"} {
		require.NotEmpty(s, s.read(s.T, "static-creds/"+role).Data[field])
	}
	s.sim.RevokeAccessTokens()
	s.everything("apn_alice")
	for _, f := range s.wordyFaults() {
		s.write(s.T, "config", map[string]any{"max_retries": 0}) // ends all tokens that are kept
		f.Kind = pipedreamtest.KindConnectToken
		remove := s.sim.AddFault(f)
		_, err := s.vault.root.Logical().Write(s.in("connect/alices"), map[string]any{"reconnect": true})
		s.note(nil, err)
		s.everything("connects")
		remove()
		f.Kind = pipedreamtest.KindToken
		remove = s.sim.AddFault(f)
		s.note(s.vault.root.Logical().Write(s.in("config"), map[string]any{"client_secret": clientSecret}))
		s.everything("apn_alice", "alices", "accesses")
		remove()
	}
	s.write(s.T, "config", map[string]any{"api_key": s.apiKey, "project_id": "", "base_url": s.apiURL})
}

// wordyFaults repeat secrets wherever an answer has room for text.
func (s *surface) wordyFaults() []pipedreamtest.Fault {
	words := s.apiKey + " " + s.sim.Token(githubID) + " " + s.sim.Token("apn_alice")
	body, err := json.Marshal(map[string]any{"error": words, "details": []string{words}})
	require.NoError(s, err)
	faults := []pipedreamtest.Fault{
		{Redirect: "https://127.0.0.1:1/" + url.PathEscape(words)},
		{Status: 200, Body: `{"data":{"id":` + strconv.Quote(words) + `,"credentials":{"a":"b"}}}`},
		{Status: 200, Body: `{"data":{"id":"apn_github","expires_at":` + strconv.Quote(words) + `,"credentials":` + strconv.Quote(words) + `}}`},
		{Status: 200, Body: words},
		{Status: 429, Header: http.Header{"Retry-After": {words}}, Body: string(body)},
		{TruncatedJSON: true},
		{CutBody: true},
		// net/http logs what follows an answer on the connection, through the standard logger.
		{Leftover: words},
		{LengthOff: -40},
		{LengthOff: 40},
		{Trailer: http.Header{"X-Words": {words}}},
		{Informational: []int{http.StatusProcessing, http.StatusEarlyHints}, Status: http.StatusInternalServerError, Header: http.Header{"X-Words": {words}}},
	}
	for _, status := range []int{400, 401, 403, 404, 418, 500, 503} {
		faults = append(faults, pipedreamtest.Fault{Status: status, Body: string(body), Header: http.Header{"X-Words": {words}}})
	}
	return faults
}

func (s *surface) faults() {
	for _, f := range s.wordyFaults() {
		remove := s.sim.AddFault(f)
		s.write(s.T, "config", map[string]any{"max_retries": 0}) // ends every hold-off
		s.everything(githubID, stripeID, "apn_nobody", "one")
		remove()
	}

	echo := startEcho(s.T)
	for range echoForms {
		s.note(s.vault.root.Logical().Write(s.in("config"), map[string]any{"api_key": s.apiKey, "base_url": echo, "request_timeout": "2s"}))
	}
	s.write(s.T, "config", map[string]any{"api_key": s.apiKey, "base_url": echo, "verify": false})
	s.everything(githubID, stripeID)
	s.write(s.T, "config", map[string]any{"api_key": s.apiKey, "base_url": s.apiURL})
	s.everything(githubID, stripeID)
}

func (s *surface) processes() {
	for _, pid := range []int{s.vault.process.pid(), s.vault.pluginPID(s.T)} {
		for _, file := range []string{"cmdline", "environ"} {
			s.said.WriteString(readFile(s.T, fmt.Sprintf("/proc/%d/%s", pid, file)))
		}
	}
	s.reload(s.T)
	s.killPlugin(s.T)
	s.everything(githubID, stripeID)
	require.NoError(s, s.vault.root.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: s.in("creds/" + githubID), Prefix: true, Sync: true}))
}

// echoForms are answers that are not valid HTTP. %s stands for the authorization of the request.
var echoForms = []string{
	"%s\r\n\r\n",
	"HTTP/1.1 %s\r\n\r\n",
	"HTTP/1.1 200 OK\r\n%s\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 500\r\n\r\n%s",
	"HTTP/1.1 302 Found\r\nLocation: ://%s\r\nContent-Length: 0\r\n\r\n",
}

// startEcho listens for requests, and answers each with the next of the forms.
func startEcho(t *testing.T) (baseURL string) {
	t.Helper()
	listener, err := pipedreamtest.ListenLoopback("127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for i := 0; ; i++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go answerOdd(conn, echoForms[i%len(echoForms)])
		}
	}()
	return "http://" + listener.Addr().String() + "/v1"
}

func answerOdd(conn net.Conn, form string) {
	defer conn.Close() //nolint:errcheck // nothing more is read
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	_, _ = fmt.Fprintf(conn, form, strings.TrimPrefix(request.Header.Get("Authorization"), "Bearer "))
}

// TestASecretOfTheWrongTypeIsNotRepeated writes secrets with the wrong type, as a faulty program might.
func TestASecretOfTheWrongTypeIsNotRepeated(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	const secret = "pdkey_of_the_wrong_type"
	for _, field := range []string{"api_key", "client_secret"} {
		for name, value := range map[string]any{
			"a list": []string{secret}, "a list in a list": [][]string{{secret}}, "a map": map[string]any{"is": secret},
		} {
			_, err := m.vault.root.Logical().Write(m.in("config"), map[string]any{field: value})
			refused(t, err, http.StatusBadRequest, field)
			lacks(t, "the error for "+field+" as "+name, err.Error(), secret)
		}
	}
	lacks(t, "the audit log", m.audit(t), secret)
	lacks(t, "the server's log", m.log(t), secret)
}

// formsOf returns a secret in each encoding in which it might be written down.
func formsOf(secret string) map[string]string {
	quoted, _ := json.Marshal(secret) // strings always marshal
	forms := map[string]string{
		"in clear":   secret,
		"as a query": url.QueryEscape(secret),
		"as a path":  url.PathEscape(secret),
		"as JSON":    strings.Trim(string(quoted), `"`),
		"quoted":     strings.Trim(strconv.Quote(secret), `"`),
		"as hex":     hex.EncodeToString([]byte(secret)),
	}
	for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "URL base64": base64.RawURLEncoding} {
		for shift := range 3 {
			// The first and last characters depend on what is next to the secret.
			encoded := encoding.EncodeToString(append(make([]byte, shift), secret...))
			forms[fmt.Sprintf("%s after %d bytes", name, shift)] = encoded[(shift*8+5)/6 : (shift+len(secret))*8/6]
		}
	}
	return forms
}

func TestFormsOfASecret(t *testing.T) {
	t.Parallel()
	const secret = `pd_<>&+/=_secret`
	for _, around := range []string{"", "a", "bc", "def"} {
		text := around + secret + around
		forms := formsOf(secret)
		std, urls := base64.StdEncoding.EncodeToString([]byte(text)), base64.URLEncoding.EncodeToString([]byte(text))
		shift := len(around) % 3
		assert.Contains(t, std, forms[fmt.Sprintf("base64 after %d bytes", shift)])
		assert.Contains(t, urls, forms[fmt.Sprintf("URL base64 after %d bytes", shift)])
	}
}

// unpack returns the contents of a snapshot.
func unpack(t *testing.T, snapshot string) string {
	t.Helper()
	zipped, err := gzip.NewReader(strings.NewReader(snapshot))
	require.NoError(t, err)
	var all strings.Builder
	archive := tar.NewReader(zipped)
	for {
		_, err := archive.Next()
		if err == io.EOF { //nolint:errorlint // the end is never wrapped
			return all.String()
		}
		require.NoError(t, err)
		_, err = io.Copy(&all, archive) //nolint:gosec // as large as this test made it
		require.NoError(t, err)
	}
}

func filesBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path) //nolint:gosec // below a directory of the test's own
		files[path] = string(content)
		return err
	}))
	return files
}
