package acceptance

import (
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestProcessesEndInMidRequest ends processes while readers wait for an account that Pipedream is slow to return. The
// readers get an error or the credential. Existing leases remain, and live credentials cost no request.
func TestProcessesEndInMidRequest(t *testing.T) {
	t.Parallel()
	m := onOwnVault(t)
	// Vault lets running requests finish before it reloads a plugin, seals or stops.
	m.configure(t, map[string]any{"request_timeout": faultTimeout.String()})
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	token := m.read(t, "creds/"+githubID)
	leases := []string{token.LeaseID, m.read(t, "creds/"+stripeID).LeaseID}

	for _, event := range []struct {
		name   string
		happen func(*testing.T)
	}{
		{"the plugin is killed", func(t *testing.T) { t.Helper(); require.NoError(t, killPlugin(m.vault.pluginPID(t))) }},
		{"the plugin is reloaded", m.reload},
		{"the server is killed", m.vault.crash},
		{"the server is restarted", m.vault.restart},
		{"the server is sealed and unsealed", m.vault.sealAndUnseal},
	} {
		t.Run(event.name, func(t *testing.T) {
			id := "apn_" + slug(event.name)
			m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID = id }))
			remove := m.sim.AddFault(pipedreamtest.Fault{AccountID: id, Hang: true})
			client, path, began := m.vault.client(m.vault.rootToken), m.in("creds/"+id), len(m.sim.Requests())
			var readers sync.WaitGroup
			for range 10 {
				readers.Go(func() {
					if secret, err := client.Logical().Read(path); err == nil {
						assert.NotNil(t, secret)
					}
				})
			}
			require.NoError(t, poll(readyTimeout, "the request", func() (bool, error) { return len(m.sim.Requests()) > began, nil }))
			event.happen(t)
			readers.Wait()
			remove()
			m.sim.ResetRequests()

			// The first request to a plugin that is gone may fail, and starts another process.
			require.NoError(t, poll(longestHoldOff+slack, "service to return", func() (bool, error) {
				_, err := m.vault.root.Logical().Read(m.in("creds/" + id))
				return err == nil, nil
			}))
			assert.Equal(t, token.Data, m.read(t, "creds/"+githubID).Data)
			m.read(t, "creds/"+stripeID)
			for _, request := range m.sim.Requests() {
				assert.Equal(t, id, request.AccountID, "a request for a live credential")
			}
			for _, lease := range leases {
				_, err := m.vault.root.Sys().Lookup(lease)
				assert.NoError(t, err, "a lease was lost") //nolint:testifylint // the other lease is of interest too
			}
			m.vault.noIrrevocableLease(t)
		})
	}
	require.NoError(t, m.vault.root.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: m.in("creds/"), Prefix: true, Sync: true}))
	m.vault.noIrrevocableLease(t)
}

// TestPluginIsKilledWhileIdle kills the plugin between reads. At most one request fails before a new process answers.
func TestPluginIsKilledWhileIdle(t *testing.T) {
	t.Parallel()
	m := onOwnVault(t)
	m.sim.SetAccount(github())
	first := m.read(t, "creds/"+githubID)
	for range 3 {
		require.NoError(t, killPlugin(m.vault.pluginPID(t)))
		failed := 0
		require.NoError(t, poll(readyTimeout, "the plugin to be back", func() (bool, error) {
			secret, err := m.vault.root.Logical().Read(m.in("creds/" + githubID))
			if err == nil {
				assert.Equal(t, first.Data, secret.Data)
			} else {
				failed++
			}
			return err == nil, nil
		}))
		assert.LessOrEqual(t, failed, 1, "requests that failed before the plugin was back")
	}
	assert.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
	m.vault.noIrrevocableLease(t)
}

// TestLeasesEndWhileSealed has leases end while Vault is sealed and cannot revoke them, and while Pipedream is gone
// after that.
func TestLeasesEndWhileSealed(t *testing.T) {
	t.Parallel()
	m := onOwnVault(t)
	m.sim.SetAccount(github())
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID, a.TokenLife = "apn_brief", 4*time.Second }))
	lasting := m.read(t, "creds/"+githubID)
	for range 5 {
		m.read(t, "creds/apn_brief")
	}
	require.NoError(t, m.vault.root.Sys().Seal())
	m.sim.Close()
	over := time.Now().Add(5 * time.Second)
	require.NoError(t, poll(readyTimeout, "the tokens to end", func() (bool, error) { return time.Now().After(over), nil }))
	require.NoError(t, m.vault.unseal())

	require.NoError(t, poll(readyTimeout, "the leases to be revoked", func() (bool, error) { return len(m.leases(t, "apn_brief")) == 0, nil }))
	m.vault.noIrrevocableLease(t)
	_, err := m.vault.root.Sys().Lookup(lasting.LeaseID)
	require.NoError(t, err)
	assert.Equal(t, lasting.Data, m.read(t, "creds/"+githubID).Data)
}

// TestRevocationNeedsNeitherPipedreamNorConfig revokes leases in every possible way, with Pipedream gone and the config
// deleted.
func TestRevocationNeedsNeitherPipedreamNorConfig(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	app := m.vault.login(t, slug(t.Name()), `path "`+m.in("creds/*")+`" { capabilities = ["read"] }`)
	for range 2 {
		for _, id := range []string{githubID, stripeID} {
			m.read(t, "creds/"+id)
			_, err := app.Logical().Read(m.in("creds/" + id))
			require.NoError(t, err)
		}
	}
	single := m.read(t, "creds/"+githubID)
	m.sim.Close()
	m.deleteConfig(t)
	sys := m.vault.root.Sys()

	require.NoError(t, sys.RevokeWithOptions(&api.RevokeOptions{LeaseID: single.LeaseID, Sync: true}))
	assert.Len(t, m.leases(t, githubID), 4)

	require.NoError(t, m.vault.root.Auth().Token().RevokeTree(app.Token()))
	require.NoError(t, poll(readyTimeout, "the token's leases to go with it", func() (bool, error) {
		return len(m.leases(t, githubID)) == 2 && len(m.leases(t, stripeID)) == 2, nil
	}))

	require.NoError(t, sys.RevokeWithOptions(&api.RevokeOptions{LeaseID: m.in("creds/" + githubID), Prefix: true, Sync: true}))
	assert.Empty(t, m.leases(t, githubID))

	// The remaining leases go with the mount. It moves first, and Vault revokes the leases of the old path.
	from := m.path
	require.NoError(t, sys.Remount(from, from+"-moved"))
	m.path += "-moved"
	mounts, err := sys.ListMounts()
	require.NoError(t, err)
	assert.Contains(t, mounts, m.path+"/")
	assert.NotContains(t, mounts, from+"/")
	m.vault.noIrrevocableLease(t)
}

// TestMountIsDisabledWhileItIsRead disables the mount while it is being read and Pipedream does not answer.
func TestMountIsDisabledWhileItIsRead(t *testing.T) {
	t.Parallel()
	vault := serverToDisableOn(t)
	m := enable(t, vault, slug(t.Name()))
	m.configure(t, nil)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	m.read(t, "creds/"+githubID)
	m.sim.AddFault(pipedreamtest.Fault{AccountID: stripeID, Hang: true})
	var stop atomic.Bool
	var readers sync.WaitGroup
	for i := range 8 {
		id := []string{githubID, stripeID}[i%2]
		readers.Go(func() {
			for !stop.Load() {
				_, _ = vault.root.Logical().Read(m.in("creds/" + id))
			}
		})
	}
	require.NoError(t, poll(readyTimeout, "a request that hangs", func() (bool, error) {
		return m.sim.Count(pipedreamtest.KindAccount) > 1, nil
	}))
	require.NoError(t, vault.root.Sys().Unmount(m.path))
	stop.Store(true)
	readers.Wait()
	vault.noIrrevocableLease(t)
}

// TestCacheMovesWithTheMount shows that a new path costs no request, even while Pipedream is down.
func TestCacheMovesWithTheMount(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	token := m.read(t, "creds/"+githubID)
	m.sim.Close()
	from := m.path
	require.NoError(t, m.vault.root.Sys().Remount(from, from+"-moved"))
	m.path += "-moved"
	assert.Equal(t, token.Data, m.read(t, "creds/"+githubID).Data)
	m.vault.noIrrevocableLease(t)
}

// noIrrevocableLease asserts that Vault could revoke every lease. A lease that it failed to revoke stays behind and
// keeps the engine from being disabled.
func (s *vaultServer) noIrrevocableLease(t *testing.T) {
	t.Helper()
	secret, err := s.root.Logical().ReadWithData("sys/leases/count", map[string][]string{"type": {"irrevocable"}})
	require.NoError(t, err)
	assert.Equal(t, json.Number("0"), secret.Data["lease_count"], "irrevocable leases")
}
