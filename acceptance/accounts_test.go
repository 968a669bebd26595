package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestAccountsAreListed(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	ill := stripe()
	ill.ID, ill.Unhealthy, ill.Error = "apn_ill", true, "the key was deleted"
	m.sim.SetAccount(ill)

	keys, info := m.list(t, "accounts", nil)
	assert.ElementsMatch(t, []string{githubID, stripeID, "apn_ill"}, keys)

	about := asType[map[string]any](t, info[githubID])
	assert.Equal(t, "octocat", about["name"])
	assert.Equal(t, "github", about["app"])
	assert.Equal(t, true, about["healthy"])
	expiresAt, err := time.Parse(time.RFC3339, asType[string](t, about["expires_at"]))
	require.NoError(t, err)
	assert.WithinDuration(t, m.sim.ExpiresAt(githubID), expiresAt, time.Second)

	assert.NotContains(t, asType[map[string]any](t, info[stripeID]), "expires_at")
	assert.Equal(t, false, asType[map[string]any](t, info["apn_ill"])["healthy"])

	keys, _ = m.list(t, "accounts", map[string][]string{"app": {"stripe"}})
	assert.ElementsMatch(t, []string{stripeID, "apn_ill"}, keys)
	m.neverAskedForCredentials(t)
}

func TestEveryPageOfAccountsIsListed(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	const accounts = 230
	for i := range accounts {
		account := stripe()
		account.ID = fmt.Sprintf("apn_%03d", i)
		m.sim.SetAccount(account)
	}
	keys, info := m.list(t, "accounts", nil)
	assert.Len(t, keys, accounts)
	assert.Len(t, info, accounts)
	assert.Equal(t, 3, m.sim.Count(pipedreamtest.KindList), "pages of 100")
}

func TestNoAccounts(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	secret, err := m.vault.root.Logical().List(m.in("accounts"))
	require.NoError(t, err)
	if secret != nil {
		assert.Empty(t, secret.Data["keys"])
	}
}

func TestAccountIsReadWithoutItsCredentials(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	account := github()
	account.Unhealthy, account.Error = true, "the token was refused"
	m.sim.SetAccount(account)

	secret := m.read(t, "accounts/"+githubID)
	assert.Empty(t, secret.LeaseID)
	assert.Equal(t, "octocat", secret.Data["name"])
	assert.Equal(t, false, secret.Data["healthy"])
	assert.Contains(t, secret.Data, "expires_at")
	text, err := json.Marshal(secret.Data)
	require.NoError(t, err)
	assert.Contains(t, string(text), "github")
	assert.Contains(t, string(text), "the token was refused")
	assert.NotContains(t, string(text), m.sim.Token(githubID))
	m.neverAskedForCredentials(t)

	refused(t, m.errorOf(t, "accounts/apn_nobody"), http.StatusBadRequest, "apn_nobody")
}

// neverAskedForCredentials asserts that Pipedream was only asked for metadata. What is never requested cannot leak.
func (m *mount) neverAskedForCredentials(t *testing.T) {
	t.Helper()
	for _, request := range m.sim.Requests() {
		assert.False(t, request.WithCredentials, "%s %s?%s", request.Method, request.Path, request.RawQuery)
	}
}
