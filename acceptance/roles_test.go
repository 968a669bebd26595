package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func (m *mount) deleteRole(t *testing.T, name string) {
	t.Helper()
	_, err := m.vault.root.Logical().Delete(m.in("roles/" + name))
	require.NoError(t, err)
}

func (s *vaultServer) revoke(lease string) error {
	return s.root.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: lease, Sync: true})
}

// leased reads credentials, and asserts how long their lease lasts.
func (m *mount) leased(t *testing.T, path string, ttl time.Duration) *api.Secret {
	t.Helper()
	sent := time.Now()
	secret := m.read(t, path)
	assert.NotEmpty(t, secret.LeaseID)
	lasts(t, ttl, sent, secret.LeaseDuration)
	return secret
}

func TestRolesAreWrittenReadListedAndDeleted(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())

	secret, err := m.vault.root.Logical().List(m.in("roles"))
	require.NoError(t, err)
	if secret != nil {
		assert.Empty(t, secret.Data["keys"])
	}
	secret, err = m.vault.root.Logical().Read(m.in("roles/billing"))
	require.NoError(t, err)
	assert.Nil(t, secret)

	m.write(t, "roles/billing", map[string]any{"account_id": stripeID, "fields": "api_key,other", "ttl": "15m", "min_ttl": "1m"})
	m.write(t, "roles/ci", map[string]any{"account_id": githubID})
	assert.Equal(t, map[string]any{
		"account_id": stripeID, "app": "", "oauth_app_id": "", "external_user_id": "", "fields": []any{"api_key", "other"},
		"ttl": json.Number("900"), "min_ttl": json.Number("60"), "allowed_redirect_hosts": []any{},
		"oauth_scope_profile": "", "app_override_id": "", "required_scopes": []any{}, "enforce_scopes": false,
		"allowed_external_user_ids": []any{}, "credential_type": "account", "scope": "", "token_ttl": json.Number("0"), "allowed_origins": []any{},
	}, m.read(t, "roles/billing").Data)
	keys, _ := m.list(t, "roles", nil)
	assert.Equal(t, []string{"billing", "ci"}, keys)

	// A write changes only the fields that it names.
	m.write(t, "roles/billing", map[string]any{"ttl": 0})
	data := m.read(t, "roles/billing").Data
	assert.Equal(t, 0, number(t, data["ttl"]))
	assert.Equal(t, stripeID, data["account_id"])
	assert.Equal(t, []any{"api_key", "other"}, data["fields"])

	m.read(t, "creds/ci")
	m.deleteRole(t, "ci")
	keys, _ = m.list(t, "roles", nil)
	assert.Equal(t, []string{"billing"}, keys)
	for _, path := range []string{"creds/ci", "static-creds/ci"} {
		refused(t, m.errorOf(t, path), http.StatusBadRequest, `no role "ci"`)
	}
	_, err = m.vault.root.Logical().Write(m.in("refresh/ci"), nil)
	refused(t, err, http.StatusBadRequest, `no role "ci"`)
}

func TestRoleIsRefused(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	for name, test := range map[string]struct {
		role   string
		fields map[string]any
		words  []string
	}{
		"no account":                   {"r", nil, []string{"account_id"}},
		"both an account and an app":   {"r", map[string]any{"account_id": githubID, "app": "github", "external_user_id": "alice"}, []string{"account_id", "app"}},
		"an invalid account id":        {"r", map[string]any{"account_id": "apn_a/../b"}, []string{"account_id"}},
		"a user without an app":        {"r", map[string]any{"external_user_id": "alice"}, []string{"app"}},
		"an app without a user":        {"r", map[string]any{"app": "github"}, []string{"external_user_id"}},
		"a user of 251 characters":     {"r", map[string]any{"app": "github", "external_user_id": strings.Repeat("é", 251)}, []string{"external_user_id", "250"}},
		"braces that do not match":     {"r", map[string]any{"app": "github", "external_user_id": "{{identity.entity.id"}, []string{"external_user_id", "braces"}},
		"a template for the time":      {"r", map[string]any{"app": "github", "external_user_id": "{{time.now}}"}, []string{"external_user_id", "template"}},
		"a ttl that is not a duration": {"r", map[string]any{"account_id": githubID, "ttl": "soon"}, []string{"ttl"}},
		"a name like an account id":    {githubID, map[string]any{"account_id": stripeID}, []string{"apn_"}},
		"a name that is too long":      {strings.Repeat("r", 200), map[string]any{"account_id": githubID}, []string{"name"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := m.vault.root.Logical().Write(m.in("roles/"+test.role), test.fields)
			refused(t, err, http.StatusBadRequest, test.words...)
			secret, err := m.vault.root.Logical().Read(m.in("roles/" + test.role))
			require.NoError(t, err)
			assert.Nil(t, secret)
		})
	}
}

func TestRoleGivesChosenFieldsAndAShorterLease(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	m.write(t, "roles/ci", map[string]any{"account_id": githubID, "fields": "oauth_access_token", "ttl": "10m"})
	m.write(t, "roles/all", map[string]any{"account_id": githubID, "ttl": "10h"})
	m.write(t, "roles/billing", map[string]any{"account_id": stripeID, "ttl": "90s"})
	m.write(t, "roles/misspelt", map[string]any{"account_id": githubID, "fields": "acess_token"})

	direct := m.read(t, "creds/"+githubID)
	narrow := m.leased(t, "creds/ci", 10*time.Minute)
	assert.Equal(t, map[string]any{
		"oauth_access_token": m.sim.Token(githubID), "expires_at": direct.Data["expires_at"],
		"pipedream_account_id": githubID, "pipedream_app": "github", "pipedream_account_name": "octocat",
	}, narrow.Data)
	assert.False(t, narrow.Renewable)
	assert.Empty(t, narrow.Warnings)
	assert.True(t, strings.HasPrefix(narrow.LeaseID, m.in("creds/ci/")), narrow.LeaseID)
	found, err := m.vault.root.Sys().Lookup(narrow.LeaseID)
	require.NoError(t, err)
	assert.LessOrEqual(t, number(t, found.Data["ttl"]), 600)
	assert.Positive(t, number(t, found.Data["ttl"]))

	sent := time.Now()
	wide := m.read(t, "creds/all")
	lasts(t, m.sim.ExpiresAt(githubID).Sub(sent), sent, wide.LeaseDuration) // a ttl above the token's life changes nothing
	assert.Equal(t, direct.Data, wide.Data)
	assert.Empty(t, wide.Warnings)

	static := m.read(t, "static-creds/ci").Data
	assert.NotContains(t, static, "oauth_uid")
	assert.Equal(t, 600, number(t, static["ttl"]))
	billing := m.leased(t, "creds/billing", 90*time.Second)
	assert.Equal(t, stripeKey, billing.Data["api_key"])

	refused(t, m.errorOf(t, "creds/misspelt"), http.StatusBadRequest, "fields", githubID)
	assert.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount), "one request for each account, however many roles it has")
}

// TestRoleCannotExposeARefreshToken shows that a role gives out a refresh token only if config allows that.
func TestRoleCannotExposeARefreshToken(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.write(t, "roles/refresh-token", map[string]any{"account_id": githubID, "fields": "oauth_refresh_token"})
	refused(t, m.errorOf(t, "creds/refresh-token"), http.StatusBadRequest, "fields", githubID)
	m.write(t, "config", map[string]any{"expose_refresh_token": true})
	assert.NotEmpty(t, m.read(t, "creds/refresh-token").Data["oauth_refresh_token"])
	m.write(t, "config", map[string]any{"expose_refresh_token": false})
	refused(t, m.errorOf(t, "creds/refresh-token"), http.StatusBadRequest, "fields", githubID)
}

func TestRoleLeaseIsCappedByTheMount(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.tune(t, "1m", "5m")
	m.sim.SetAccount(github())
	m.write(t, "roles/ci", map[string]any{"account_id": githubID, "ttl": "10m"})
	secret := m.leased(t, "creds/ci", 5*time.Minute)
	assert.Empty(t, secret.Warnings)
}

// TestRoleLeaseEnds waits for the end of a short lease that only the role limits. The token lives on.
func TestRoleLeaseEnds(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.write(t, "roles/brief", map[string]any{"account_id": githubID, "ttl": "2s"})
	secret := m.leased(t, "creds/brief", 2*time.Second)
	require.NoError(t, poll(30*time.Second, "the lease to end", func() (bool, error) {
		_, err := m.vault.root.Sys().Lookup(secret.LeaseID)
		return err != nil, nil
	}))
	assert.Equal(t, secret.Data, m.read(t, "creds/brief").Data)
}

func TestRoleMinTTLReplacesTheMounts(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.write(t, "config", map[string]any{"min_ttl": "10m"})
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.OmitNextRefresh = 40*time.Second, true }))
	m.write(t, "roles/patient", map[string]any{"account_id": githubID, "min_ttl": "1s"})
	m.write(t, "roles/ordinary", map[string]any{"account_id": githubID})

	// The token is due for one role long before it is for the other. After a fetch both wait for a quarter of its life. The
	// background pass of each minute may fetch the token first, which proves nothing, so there are several rounds.
	read := func(role string) any { return m.read(t, "creds/"+role).Data["oauth_access_token"] }
	for range 5 {
		first, left := read("patient"), true
		m.sim.Rotate(githubID)
		require.NoError(t, poll(readyTimeout, "the current token", func() (bool, error) {
			left = read("patient") == first
			return !left || read("ordinary") == m.sim.Token(githubID), nil
		}))
		if left {
			return
		}
	}
	assert.Fail(t, "the role with the short min_ttl got a new token in every round")
}

func TestRoleChangeTakesEffectAtOnce(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	for range 5 {
		for _, id := range []string{githubID, stripeID} {
			m.write(t, "roles/r", map[string]any{"account_id": id})
			assert.Equal(t, id, m.read(t, "creds/r").Data["pipedream_account_id"])
		}
	}
}

func TestOnlyRolesWorkIfAccountIDsAreNotAllowed(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.write(t, "roles/ci", map[string]any{"account_id": githubID})
	m.read(t, "creds/"+githubID)
	m.write(t, "config", map[string]any{"allow_account_ids": false})
	assert.Equal(t, false, m.read(t, "config").Data["allow_account_ids"])

	for _, path := range []string{"creds/", "static-creds/"} {
		refused(t, m.errorOf(t, path+githubID), http.StatusBadRequest, "allow_account_ids")
		_, err := m.vault.root.Logical().Write(m.in(path+githubID), map[string]any{"name": "ci"})
		refused(t, err, http.StatusBadRequest, "allow_account_ids")
		assert.Equal(t, m.sim.Token(githubID), m.read(t, path+"ci").Data["oauth_access_token"])
	}
	_, err := m.vault.root.Logical().Write(m.in("refresh/"+githubID), nil)
	refused(t, err, http.StatusBadRequest, "allow_account_ids")
	m.write(t, "refresh/ci", nil)

	m.write(t, "config", map[string]any{"allow_account_ids": true})
	m.read(t, "creds/"+githubID)
}

// TestRolePolicies lets one token use a role and another manage it. Neither can do what the other can.
func TestRolePolicies(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.write(t, "roles/ci", map[string]any{"account_id": githubID})
	m.write(t, "roles/other", map[string]any{"account_id": githubID})
	reader := m.vault.login(t, slug(t.Name())+"-reader", fmt.Sprintf(`path %q { capabilities = ["read"] }`, m.in("creds/ci")))
	admin := m.vault.login(t, slug(t.Name())+"-admin", fmt.Sprintf(`path %q { capabilities = ["create", "update", "read", "delete", "list"] }`, m.in("roles/*")))

	secret, err := reader.Logical().Read(m.in("creds/ci"))
	require.NoError(t, err)
	assert.Equal(t, m.sim.Token(githubID), secret.Data["oauth_access_token"])
	for _, path := range []string{"creds/other", "creds/" + githubID, "static-creds/ci", "roles/ci", "accounts/" + githubID} {
		_, err := reader.Logical().Read(m.in(path))
		refused(t, err, http.StatusForbidden, "permission denied")
	}
	for _, path := range []string{"creds/ci", "refresh/ci", "roles/ci", "roles/new"} {
		_, err := reader.Logical().Write(m.in(path), map[string]any{"account_id": githubID})
		refused(t, err, http.StatusForbidden, "permission denied")
	}
	_, err = reader.Logical().List(m.in("roles"))
	refused(t, err, http.StatusForbidden, "permission denied")
	_, err = reader.Logical().Delete(m.in("roles/ci"))
	refused(t, err, http.StatusForbidden, "permission denied")

	_, err = admin.Logical().Write(m.in("roles/new"), map[string]any{"account_id": githubID})
	require.NoError(t, err)
	listed, err := admin.Logical().List(m.in("roles"))
	require.NoError(t, err)
	assert.Equal(t, []any{"ci", "new", "other"}, listed.Data["keys"])
	_, err = admin.Logical().Delete(m.in("roles/new"))
	require.NoError(t, err)
	for _, path := range []string{"creds/ci", "creds/" + githubID, "static-creds/ci"} {
		_, err := admin.Logical().Read(m.in(path))
		refused(t, err, http.StatusForbidden, "permission denied")
	}
}

// TestRoleLeasesOutliveTheirRole deletes a role and its account while there are leases.
func TestRoleLeasesOutliveTheirRole(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.write(t, "roles/ci", map[string]any{"account_id": githubID})
	for range 3 {
		m.read(t, "creds/ci")
	}
	lease := m.read(t, "creds/ci").LeaseID
	m.deleteRole(t, "ci")
	m.sim.DeleteAccount(githubID)
	assert.Len(t, m.leases(t, "ci"), 4)

	_, err := m.vault.root.Sys().Lookup(lease)
	require.NoError(t, err)
	require.NoError(t, m.vault.revoke(lease))
	assert.Len(t, m.leases(t, "ci"), 3)
	require.NoError(t, m.vault.root.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: m.in("creds/ci"), Prefix: true, Sync: true}))
	assert.Empty(t, m.leases(t, "ci"))
}

func TestRoleIsRefreshed(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.write(t, "roles/ci", map[string]any{"account_id": githubID})
	m.read(t, "creds/ci")
	m.sim.Rotate(githubID)
	require.NoError(t, poll(30*time.Second, "a refresh to go out", func() (bool, error) {
		m.write(t, "refresh/ci", nil)
		return m.sim.Count(pipedreamtest.KindAccount) == 2, nil
	}))
	assert.Equal(t, m.sim.Token(githubID), m.read(t, "creds/ci").Data["oauth_access_token"])
	assert.Equal(t, m.sim.Token(githubID), m.read(t, "creds/"+githubID).Data["oauth_access_token"], "the same account")
}

func TestRoleOfAUserNeedsAProject(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.write(t, "roles/github", map[string]any{"app": "github", "external_user_id": "alice"})
	refused(t, m.errorOf(t, "creds/github"), http.StatusBadRequest, "project_id")
	assert.Zero(t, m.sim.Count(pipedreamtest.KindList))
}

// TestRoleTakesTheAccountCreatedLast has a user with several accounts of one app.
func TestRoleTakesTheAccountCreatedLast(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	now := time.Now()
	for id, change := range map[string]func(*pipedreamtest.Account){
		"apn_old":        func(a *pipedreamtest.Account) { a.CreatedAt, a.UpdatedAt = now.Add(-2*time.Hour), now },
		"apn_new":        func(a *pipedreamtest.Account) { a.CreatedAt = now.Add(-time.Hour) },
		"apn_sick":       func(a *pipedreamtest.Account) { a.CreatedAt, a.Unhealthy = now, true },
		"apn_dead":       func(a *pipedreamtest.Account) { a.CreatedAt, a.Dead = now, true },
		"apn_other_app":  func(a *pipedreamtest.Account) { a.CreatedAt, a.App = now, stripe().App },
		"apn_other_user": func(a *pipedreamtest.Account) { a.CreatedAt, a.ExternalUserID = now, "bob" },
	} {
		c.sim.SetAccount(connectedWith(id, "alice", change))
	}
	c.write(t, "roles/github", map[string]any{"app": "github", "external_user_id": "alice"})
	assert.Equal(t, "apn_new", c.read(t, "creds/github").Data["pipedream_account_id"])
	assert.Equal(t, "apn_new", c.read(t, "static-creds/github").Data["pipedream_account_id"])
	assert.Equal(t, 1, c.sim.Count(pipedreamtest.KindList))
	assert.Zero(t, c.sim.Count(pipedreamtest.KindAccount), "the list had the credentials")
}

func TestRolesHaveHelp(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	for _, path := range []string{"roles", "roles/ci"} {
		help, err := m.vault.root.Help(m.in(path))
		require.NoError(t, err, path)
		assert.NotEmpty(t, help.Help, path)
		assert.NotContains(t, help.Help, "<no value>", path)
	}
}
