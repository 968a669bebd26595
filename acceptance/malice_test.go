package acceptance

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestOddNamesOverHTTP sends paths, byte for byte, that no Vault client would send. None of them reaches Pipedream or a
// credential, and none breaks anything.
func TestOddNamesOverHTTP(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.read(t, "creds/"+githubID)
	m.sim.ResetRequests()

	names := []string{
		"..", "../config", "%2e%2e", "%2e%2e%2fconfig", "..%2fconfig", "..%252fconfig", "%2f", "apn_a%2fb", "apn_a%2f..%2f..%2fusers%2fme",
		"apn_a/b", "apn_%20", "apn%20github", "apn_github%20", "%20apn_github", "apn_a%00", "apn_a%0a", "apn_a%0d%0aX-Key:%20y", "apn_a%3finclude=1",
		"apn_a%23", "apn_a;b", "apn_a:b", "apn_a@b", "apn_%c3%a9", "apn_a%5c..", "apn_", "apn_.", "apn_a.", "-", "~", "*", "+", "%25",
		"apn_github/", "{{identity.entity.id}}", "%7b%7bidentity.entity.id%7d%7d", "apn_" + strings.Repeat("x", 10_000), strings.Repeat("x", 10_000),
		"APN_github", "Apn_github", "cache%2fapn_github", "config",
	}
	for _, name := range names {
		for _, request := range []struct{ method, path, body string }{
			{http.MethodGet, "creds/", ""},
			{http.MethodPut, "creds/", "{}"},
			{http.MethodGet, "static-creds/", ""},
			{http.MethodGet, "accounts/", ""},
			{http.MethodPut, "refresh/", "{}"},
		} {
			status, body := m.raw(t, request.method, request.path+name, request.body)
			what := fmt.Sprintf("%s %s%.60s: %d %.200s", request.method, request.path, name, status, body)
			assert.GreaterOrEqual(t, status, 300, what)
			assert.Less(t, status, 500, what)
			lacks(t, what, body, m.sim.Secrets()...)
		}
	}
	for _, name := range append(names, githubID, "a/b") {
		if name != "config" && name != "-" && name != strings.Repeat("x", 10_000) && !strings.HasPrefix(strings.ToLower(name), "apn_github") {
			status, body := m.raw(t, http.MethodPut, "roles/"+name, `{"account_id":"apn_github"}`)
			assert.GreaterOrEqual(t, status, 300, "a role named %.60s: %.200s", name, body)
		}
	}
	assert.Empty(t, m.sim.Requests())

	// Needless escapes do not change the name.
	status, body := m.raw(t, http.MethodGet, "creds/%61pn_github", "")
	assert.Equal(t, http.StatusOK, status, body)
}

// raw sends a request with its path unchanged. It follows no redirects.
func (m *mount) raw(t *testing.T, method, path, body string) (status int, answer string) {
	t.Helper()
	return m.rawAs(t, m.vault.rootToken, method, path, body)
}

// rawAs is like raw, with another token.
func (m *mount) rawAs(t *testing.T, vaultToken, method, path, body string) (status int, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, m.vault.addr, strings.NewReader(body))
	require.NoError(t, err)
	request.URL.Opaque = "/v1/" + m.in(path)
	request.Header.Set("X-Vault-Token", vaultToken)
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close() //nolint:errcheck // it was read
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(content)
}

// TestTwoMountsShareNothing has two mounts in one process. Each has its own key, and both have an account with the same
// id.
func TestTwoMountsShareNothing(t *testing.T) {
	t.Parallel()
	vault := newVault(t)
	one, two := enable(t, vault, "one"), enable(t, vault, "two")
	for i, m := range []*mount{one, two} {
		m.configure(t, nil)
		m.sim.SetAccount(github())
		m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID = fmt.Sprintf("apn_only_%d", i) }))
	}
	vault.pluginPID(t) // asserts that there is only one

	first, second := one.read(t, "creds/"+githubID), two.read(t, "creds/"+githubID)
	assert.Equal(t, one.sim.Token(githubID), first.Data["oauth_access_token"])
	assert.Equal(t, two.sim.Token(githubID), second.Data["oauth_access_token"])
	one.read(t, "creds/apn_only_0")
	refused(t, two.errorOf(t, "creds/apn_only_0"), http.StatusBadRequest, "apn_only_0")
	refused(t, one.errorOf(t, "creds/apn_only_1"), http.StatusBadRequest, "apn_only_1")

	// A hold-off of the whole mount, an emptied cache and a deleted config affect one mount only.
	one.sim.AddFault(pipedreamtest.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"300"}}})
	one.sim.SetAccount(stripe())
	refused(t, one.errorOf(t, "creds/"+stripeID), http.StatusTooManyRequests)
	two.sim.SetAccount(stripe())
	two.read(t, "creds/"+stripeID)
	one.deleteConfig(t)
	refused(t, one.errorOf(t, "creds/"+githubID), http.StatusBadRequest, "not configured")
	requests := len(two.sim.Requests())
	assert.Equal(t, second.Data, two.read(t, "creds/"+githubID).Data)
	assert.Len(t, two.sim.Requests(), requests)

	for _, m := range []*mount{one, two} {
		for _, request := range m.sim.Requests() {
			assert.True(t, request.Authorized, "a request with the key of another mount: %s", request.Path)
		}
	}
}

// TestKeyIsSentOnlyToItsURL has an attacker who may write config but does not know the key. The attacker tries to have
// the stored key sent to a host of their own.
func TestKeyIsSentOnlyToItsURL(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	attacker := pipedreamtest.New()
	t.Cleanup(attacker.Close)
	attackerURL, err := attacker.Start()
	require.NoError(t, err)
	host := strings.TrimSuffix(strings.TrimPrefix(attackerURL, "http://"), "/v1")
	ours := strings.TrimSuffix(strings.TrimPrefix(m.apiURL, "http://"), "/v1")
	writer := m.vault.login(t, slug(t.Name()), fmt.Sprintf(`path %q { capabilities = ["create", "update", "read"] }`, m.in("config")))

	for _, base := range []string{
		attackerURL, attackerURL + "/", "http://" + ours + "@" + host + "/v1", "http://" + ours + "\\@" + host + "/v1", m.apiURL + "/../../" + host,
		"http://" + ours + "#@" + host, "http://" + ours + "?@" + host, "//" + host + "/v1", host, "http:" + host, "http:///" + host, "https://" + host,
		" " + attackerURL + " ", strings.ToUpper(attackerURL), "file:///etc/passwd", "gopher://" + host, "http://0.0.0.0/v1", "http://localhost.attacker.example/v1",
		"http://127.0.0.1.attacker.example/v1", "http://[::ffff:203.0.113.1]/v1", "http://0x7f000001@attacker.example", "", "\x00", "http://%31%32%37.0.0.1/v1",
	} {
		for _, extra := range []map[string]any{{}, {"verify": false}, {"api_key": ""}, {"api_key": "", "verify": false}, {"client_id": "x"}, {"client_secret": ""}} {
			fields := map[string]any{"base_url": base}
			for name, value := range extra {
				fields[name] = value
			}
			_, err := writer.Logical().Write(m.in("config"), fields)
			refused(t, err, http.StatusBadRequest)
			assert.NotContains(t, err.Error(), m.apiKey)
		}
	}
	// Other fields cannot redirect the key either, with the URL unchanged.
	for _, fields := range []map[string]any{
		{"project_id": "../../" + host}, {"project_id": "proj_a/../../x"}, {"environment": "production\r\nX: y"}, {"scope": "a\nb"}, {"ca_cert": "-----BEGIN"},
	} {
		_, err := writer.Logical().Write(m.in("config"), fields)
		refused(t, err, http.StatusBadRequest)
	}
	assert.Empty(t, attacker.Requests())
	assert.Equal(t, m.apiURL, m.read(t, "config").Data["base_url"])
	m.read(t, "creds/"+githubID)

	// With a key of their own the attacker gets what they ask for, but only with that key.
	_, err = writer.Logical().Write(m.in("config"), map[string]any{"base_url": attackerURL, "api_key": "pd_test_key"})
	require.NoError(t, err)
	for _, request := range attacker.Requests() {
		assert.True(t, request.Authorized, "a request with another key")
	}
}

// TestErrorsRevealNothingAboutOtherAccounts puts another account into every possible state. A reader who may read only
// one account gets the same answers each time, so nothing shows whether the other exists or what state it is in.
func TestErrorsRevealNothingAboutOtherAccounts(t *testing.T) {
	t.Parallel()
	const other = "apn_somebody_elses"
	m := onSharedVault(t)
	m.write(t, "config", map[string]any{"max_retries": 0})
	m.sim.SetAccount(github())
	client := m.vault.login(t, slug(t.Name()), fmt.Sprintf(`path %q { capabilities = ["read"] }`, m.in("creds/"+githubID)))
	ask := func(path string) string {
		_, err := client.Logical().Read(m.in(path))
		if err == nil {
			return ""
		}
		return strings.ReplaceAll(err.Error(), url.PathEscape(other), "")
	}
	otherPaths := []string{"creds/" + other, "static-creds/" + other, "accounts/" + other, "roles/" + other, "status"}
	var denied []string
	for _, path := range otherPaths {
		denied = append(denied, ask(path))
	}

	for name, arrange := range map[string]func(){
		"absent": func() {},
		"cached": func() {
			m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID, a.Name = other, "another's name" }))
			m.read(t, "creds/"+other)
		},
		"dead": func() {
			m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID, a.Name, a.Dead = other, "another's name", true }))
		},
		"forbidden": func() { m.sim.AddFault(pipedreamtest.Fault{AccountID: other, Status: 403, Times: 1}) },
		"throttled": func() { m.sim.AddFault(pipedreamtest.Fault{AccountID: other, Status: 429, Times: 1}) },
		"refused":   func() { m.sim.AddFault(pipedreamtest.Fault{AccountID: other, Status: 401, Times: 1}) },
		"down":      func() { m.sim.AddFault(pipedreamtest.Fault{AccountID: other, Status: 500, Times: 1}) },
		"another's": func() { m.sim.AddFault(pipedreamtest.Fault{AccountID: other, WrongAccount: githubID, Times: 1}) },
	} {
		m.write(t, "config", map[string]any{"min_ttl": "5m"}) // ends every hold-off
		arrange()
		_, _ = m.vault.root.Logical().Read(m.in("creds/" + other))
		for i, path := range otherPaths {
			assert.Equal(t, denied[i], ask(path), "%s: %s", name, path)
		}
		// The reader's own account may be held off with the rest of the mount, but the error must not mention the other
		// account.
		m.sim.SetAccount(github())
		own := ask("creds/" + githubID)
		assert.NotContains(t, own, "somebody", name)
		assert.NotContains(t, own, "another's name", name)
		m.deleteConfig(t)
		m.configure(t, map[string]any{"max_retries": 0})
	}
}
