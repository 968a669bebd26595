package acceptance

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestConsulTemplateKeepsTokensAlive runs consul-template on its own. It reads, and writes if a template has arguments,
// because consul-template passes arguments in a write.
func TestConsulTemplateKeepsTokensAlive(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t, pipedreamtest.WithLimit(0))
	m.write(t, "config", map[string]any{"rate_limit": 0})
	m.watch(t)
	both := []string{"creds", "static-creds"}
	lives := []time.Duration{4 * time.Second, 10 * time.Second}

	read := m.keepers(t.TempDir(), "read", both, lives...)
	put := m.keepers(t.TempDir(), "put", both, lives...)
	m.startConsulTemplate(t, m.templates(read)+m.templates(put, "min_ttl=2s"))
	m.stayAlive(t, append(read, put...))
}

// startConsulTemplate runs consul-template until the test ends.
func (m *mount) startConsulTemplate(t *testing.T, config string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "consul-template.hcl")
	token := m.vault.login(t, slug(t.Name()), m.mayRead("creds/*", "static-creds/*")).Token()
	// By default it ends only on SIGINT, so it would not stop with the tests.
	writeFile(t, path, fmt.Sprintf(`
kill_signal = "SIGTERM"
vault {
  address     = %q
  token       = %q
  renew_token = false
}
%s`, m.vault.addr, token, config))
	m.startConsumer(t, consulTemplate(t), "-config="+path)
}

// TestLeasesAreLongEnoughForTemplates reads throughout the lives of credentials. The templates of consul-template and
// Agent read again after at least 0.85 of a lease, and ignore an answer that arrives in the same second as the one
// before. With a lease of one second they could miss the next token for all of its life.
func TestLeasesAreLongEnoughForTemplates(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.configure(t, map[string]any{"static_ttl": "3s"})
	m.sim.SetAccount(stripe())
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.RefreshBefore = 4*time.Second, time.Millisecond }))

	const enough = 2
	tokens := map[any]bool{}
	require.NoError(t, poll(time.Minute, "three tokens", func() (bool, error) {
		for _, id := range []string{githubID, stripeID} {
			assert.GreaterOrEqual(t, m.read(t, "creds/"+id).LeaseDuration, enough, "lease of %s", id)
		}
		tokens[m.read(t, "creds/"+githubID).Data["oauth_access_token"]] = true
		return len(tokens) == 3 || t.Failed(), nil
	}))
}

// TestStaticCredsAreReadAgainInTime reads throughout the lives of tokens that Pipedream refreshes late. The templates
// of consul-template and Agent read a secret without a lease again a second after its ttl. The token must last until
// then.
func TestStaticCredsAreReadAgainInTime(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.RefreshBefore = 5*time.Second, 500*time.Millisecond }))

	tokens := map[any]bool{}
	require.NoError(t, poll(time.Minute, "three tokens", func() (bool, error) {
		before, token, end := time.Now(), m.sim.Token(githubID), m.sim.ExpiresAt(githubID)
		secret := m.read(t, "static-creds/"+githubID)
		if got := secret.Data["oauth_access_token"]; got == token {
			tokens[got] = true
			again := before.Add(time.Duration(number(t, secret.Data["ttl"])+1) * time.Second)
			assert.False(t, again.After(end), "the token ends %s before it is read again", again.Sub(end))
		}
		return len(tokens) == 3 || t.Failed(), nil
	}))
}

// TestStaticCredsTTLIsNotTooShortInAnOutage reads a due credential while Pipedream is down. With a ttl of a second,
// every template would read again and again until Pipedream is back. The Vault Secrets Operator takes a ttl of up to
// two seconds for a rotation in progress, waits for it to end, and reports a failure.
func TestStaticCredsTTLIsNotTooShortInAnOutage(t *testing.T) {
	t.Parallel()
	for name, account := range map[string]pipedreamtest.Account{
		"of a token that lives on": githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.RefreshBefore = 30*time.Second, 28*time.Second }),
		"of a key":                 stripe(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := onSharedVault(t)
			m.configure(t, map[string]any{"static_ttl": "5s", "max_retries": 0})
			m.sim.SetAccount(account)
			first := m.read(t, "static-creds/"+account.ID)
			due := time.Now().Add(time.Duration(number(t, first.Data["ttl"])+1) * time.Second)
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: http.StatusServiceUnavailable})

			require.NoError(t, poll(readyTimeout, "a fetch to fail", func() (bool, error) {
				m.read(t, "static-creds/"+account.ID)
				// A background pass may have failed earlier.
				return number(t, m.read(t, "status").Data["failures"]) > 0 && time.Now().After(due), nil
			}))
			assert.Greater(t, number(t, m.read(t, "static-creds/"+account.ID).Data["ttl"]), 2)
		})
	}
}

// TestStaticCredsTTLIsNotTooShortWhenDue reads a token that Pipedream has just refreshed. It may be served until the
// next background pass of the engine, so readers must wait that long too.
func TestStaticCredsTTLIsNotTooShortWhenDue(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.configure(t, map[string]any{"static_ttl": "2s"})
	m.sim.SetAccount(stripe())
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.RefreshBefore = 400*time.Second, 399*time.Second }))
	m.read(t, "creds/"+stripeID)
	first := m.read(t, "static-creds/"+githubID)
	due := time.Now().Add(time.Duration(number(t, first.Data["ttl"])) * time.Second)
	require.NoError(t, poll(3*time.Minute, "a pass, and the token to be due", func() (bool, error) {
		fetched := m.sim.Count(pipedreamtest.KindAccount) + m.sim.Count(pipedreamtest.KindList)
		return fetched > 2 && time.Now().After(due), nil
	}))
	assert.Greater(t, number(t, m.read(t, "static-creds/"+githubID).Data["ttl"]), 2)
}
