package acceptance

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestLeaseIsNeverLongerThanTheToken reads accounts whose tokens are at every stage of their life, including the end.
// If the engine returned a lease of 0, Vault would make it 768 hours.
func TestLeaseIsNeverLongerThanTheToken(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		life    time.Duration // of the token, when it is issued
		expired time.Duration // how long ago it expired when it is read
		leased  bool          // whether there must be a lease
	}{
		{life: time.Hour, leased: true},
		{life: 30 * time.Second, leased: true},
		{life: 3 * time.Second},
		{life: time.Second},
		{life: 400 * time.Millisecond},
		{life: time.Millisecond},
		{life: time.Millisecond, expired: 5 * time.Second},
	} {
		t.Run(fmt.Sprintf("life=%s,expired=%s", test.life, test.expired), func(t *testing.T) {
			t.Parallel()
			m := onSharedVault(t)
			m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.NoRefresh = test.life, true }))
			if test.expired > 0 {
				over := m.sim.ExpiresAt(githubID).Add(test.expired)
				require.NoError(t, poll(time.Minute, "the token to expire", func() (bool, error) { return time.Now().After(over), nil }))
			}

			before := time.Now()
			secret, err := m.vault.root.Logical().Read(m.in("creds/" + githubID))
			if err != nil {
				assert.False(t, test.leased, "refused: %v", err)
				refused(t, err, http.StatusBadGateway, githubID, "expired")
				return
			}
			assert.Empty(t, secret.Warnings)
			assert.False(t, secret.Renewable)
			assert.GreaterOrEqual(t, secret.LeaseDuration, 1)
			assert.LessOrEqual(t, secret.LeaseDuration, int(m.sim.ExpiresAt(githubID).Sub(before)/time.Second))
		})
	}
}

// TestLeaseThroughoutATokensLife reads throughout the lives of some short tokens, so that reads happen at every
// fraction of a second before the end.
func TestLeaseThroughoutATokensLife(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.TokenLife = 2500 * time.Millisecond }))

	tokens := map[any]bool{}
	require.NoError(t, poll(time.Minute, "three tokens", func() (bool, error) {
		before := time.Now()
		secret := m.read(t, "creds/"+githubID)
		expiresAt, err := time.Parse(time.RFC3339, asType[string](t, secret.Data["expires_at"]))
		require.NoError(t, err)

		assert.Empty(t, secret.Warnings)
		assert.GreaterOrEqual(t, secret.LeaseDuration, 1)
		// expires_at is rounded down, so the token may last up to a second more.
		assert.LessOrEqual(t, secret.LeaseDuration, int(expiresAt.Add(time.Second).Sub(before)/time.Second))
		assert.LessOrEqual(t, secret.LeaseDuration, 2)
		tokens[secret.Data["oauth_access_token"]] = true
		return len(tokens) == 3 || t.Failed(), nil
	}))
}

func TestLeaseIsCappedByTheMount(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.tune(t, "1m", "10m")
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())

	for _, id := range []string{githubID, stripeID} {
		secret := m.read(t, "creds/"+id)
		assert.Equal(t, 600, secret.LeaseDuration, id)
		assert.Empty(t, secret.Warnings, id)
	}
}

func TestLeaseFollowsTheTokenAndNotTheMountsDefault(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.tune(t, "1m", "768h")
	m.sim.SetAccount(github())
	sent := time.Now()
	secret := m.read(t, "creds/"+githubID)
	lasts(t, m.sim.ExpiresAt(githubID).Sub(sent), sent, secret.LeaseDuration)
}

func TestLeaseIsLookedUpAndRevokedAndNotRenewed(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	secret := m.read(t, "creds/"+githubID)
	requests := len(m.sim.Requests())
	leases := m.vault.root.Sys()

	found, err := leases.Lookup(secret.LeaseID)
	require.NoError(t, err)
	assert.Equal(t, false, found.Data["renewable"])
	ttl := number(t, found.Data["ttl"])
	assert.Positive(t, ttl)
	assert.LessOrEqual(t, ttl, secret.LeaseDuration)

	_, err = leases.Renew(secret.LeaseID, 3600)
	refused(t, err, http.StatusBadRequest, "not renewable")

	require.NoError(t, leases.RevokeWithOptions(&api.RevokeOptions{LeaseID: secret.LeaseID, Sync: true}))
	_, err = leases.Lookup(secret.LeaseID)
	refused(t, err, http.StatusBadRequest, "invalid lease")
	assert.Len(t, m.sim.Requests(), requests, "requests for a lookup and a revocation")

	m.read(t, "creds/"+githubID)
	assert.Len(t, m.sim.Requests(), requests, "a revoked lease does not empty the cache")
}

func TestLeasesAreRevokedByPrefix(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	for range 5 {
		m.read(t, "creds/"+githubID)
	}
	assert.Len(t, m.leases(t, githubID), 5)
	require.NoError(t, m.vault.root.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: m.in("creds/"), Prefix: true, Sync: true}))
	assert.Empty(t, m.leases(t, githubID))
}

// TestEngineIsDisabled disables the engine, which makes Vault revoke its leases. That must not depend on anything
// outside.
func TestEngineIsDisabled(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(*testing.T, *mount){
		"with Pipedream down":     func(_ *testing.T, m *mount) { m.sim.Close() },
		"with the config deleted": func(t *testing.T, m *mount) { t.Helper(); m.deleteConfig(t) },
		"with Pipedream silent": func(_ *testing.T, m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{Hang: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := onSharedVault(t)
			m.sim.SetAccount(github())
			m.sim.SetAccount(stripe())
			m.read(t, "creds/"+githubID)
			m.read(t, "creds/"+stripeID)
			breakIt(t, m)

			require.NoError(t, m.vault.root.Sys().Unmount(m.path))
			mounts, err := m.vault.root.Sys().ListMounts()
			require.NoError(t, err)
			assert.NotContains(t, mounts, m.path+"/")
		})
	}
}

func (m *mount) tune(t *testing.T, defaultTTL, maxTTL string) {
	t.Helper()
	config := api.TuneMountConfigInput{DefaultLeaseTTL: &defaultTTL, MaxLeaseTTL: &maxTTL}
	require.NoError(t, m.vault.root.Sys().TuneMountAllowNil(m.path, config))
}

// leases returns the leases of an account.
func (m *mount) leases(t *testing.T, id string) []any {
	t.Helper()
	secret, err := m.vault.root.Logical().List("sys/leases/lookup/" + m.in("creds/"+id))
	require.NoError(t, err)
	if secret == nil {
		return nil
	}
	return asType[[]any](t, secret.Data["keys"])
}
