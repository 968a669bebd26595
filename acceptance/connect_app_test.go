package acceptance

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// exampleApp is the application of docs/connect-app.md.
type exampleApp struct {
	url, user, password string
}

// startExampleApp builds the application and starts it for the users of a userpass method.
func startExampleApp(t *testing.T, p *people) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "connect-app")
	built, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../docs/examples/connect-app").CombinedOutput() //nolint:gosec // into a directory of the test's own
	require.NoError(t, err, string(built))
	output, err := os.Create(filepath.Join(t.TempDir(), "output"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = output.Close() })
	app, err := startProcess(output, []string{"VAULT_ADDR=" + p.m.vault.addr, "VAULT_TOKEN=of_whoever_started_it"}, program,
		"-listen", "127.0.0.1:0", "-auth", p.path, "-mount", p.m.path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, app.stop()) })
	var url string
	require.NoError(t, poll(readyTimeout, "the application to listen", func() (bool, error) {
		first, _, whole := strings.Cut(readFile(t, output.Name()), "\n")
		url = first
		return whole, nil
	}))
	return url
}

// ask sends a request as the user's browser does. It follows no redirects.
func (a *exampleApp) ask(t *testing.T, method, path string, header map[string]string) (code int, answered http.Header, page string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, a.url+path, nil)
	require.NoError(t, err)
	if a.user != "" {
		request.SetBasicAuth(a.user, a.password)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, response.Header, string(text)
}

// TestConnectExampleApplication runs the application of docs/connect-app.md with two users.
func TestConnectExampleApplication(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	p := c.people(t, c.rules("github"), fmt.Sprintf("path %q { capabilities = [\"read\", \"update\", \"delete\"] }\n", c.in("connect/github")))
	c.write(t, "roles/github", map[string]any{
		"app": "github", "external_user_id": p.name(), "oauth_app_id": ourClient, "allowed_redirect_hosts": "127.0.0.1",
	})
	a := exampleApp{url: startExampleApp(t, p)}
	code, _, _ := a.ask(t, http.MethodGet, "/", nil)
	require.Equal(t, http.StatusUnauthorized, code)

	accounts := map[string]string{}
	for _, name := range []string{"carol", "dave"} {
		a.user, a.password = name, rand.Text()
		_, err := c.vault.root.Logical().Write("auth/"+p.path+"/users/"+name, map[string]any{"password": a.password, "token_policies": p.policies})
		require.NoError(t, err)
		_, _, page := a.ask(t, http.MethodGet, "/", nil)
		require.Contains(t, page, "Connect your GitHub account")

		code, _, _ = a.ask(t, http.MethodPost, "/connect", map[string]string{"Sec-Fetch-Site": "cross-site"})
		require.Equal(t, http.StatusForbidden, code, "a link requested by another site")
		code, header, _ := a.ask(t, http.MethodPost, "/connect", nil)
		require.Equal(t, http.StatusSeeOther, code)
		require.Equal(t, "no-store", header.Get("Cache-Control"))
		link := header.Get("Location")
		_, _, page = a.ask(t, http.MethodGet, "/?failed", nil)
		require.Contains(t, page, "Connect your GitHub account")
		id, err := c.sim.Click(link)
		require.NoError(t, err)
		cookie, _, _ := strings.Cut(header.Get("Set-Cookie"), ";")
		_, _, page = a.ask(t, http.MethodGet, "/?connected", map[string]string{"Cookie": cookie})
		require.Contains(t, page, id)
		accounts[name] = id
	}
	code, _, _ = a.ask(t, http.MethodPost, "/disconnect?account="+accounts["carol"], nil)
	require.Equal(t, http.StatusBadGateway, code, "dave disconnects carol's account")
	code, _, _ = a.ask(t, http.MethodPost, "/disconnect?account="+accounts["dave"], map[string]string{"Sec-Fetch-Site": "cross-site"})
	require.Equal(t, http.StatusForbidden, code, "a disconnection requested by another site")
	code, _, _ = a.ask(t, http.MethodPost, "/disconnect?account="+accounts["dave"], nil)
	require.Equal(t, http.StatusSeeOther, code)
	_, _, page := a.ask(t, http.MethodGet, "/", nil)
	require.Contains(t, page, "Connect your GitHub account")
	assert.NotEqual(t, accounts["carol"], accounts["dave"])
	for _, body := range c.tokenRequests() {
		assert.Contains(t, body, `"success_redirect_uri":"`+a.url+`/?connected"`)
	}
	a.user = "../../carol"
	code, _, _ = a.ask(t, http.MethodGet, "/", nil)
	assert.Equal(t, http.StatusUnauthorized, code)
}
