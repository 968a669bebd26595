package acceptance

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestGoClientFollowsALease does what a program with Vault's own client does: it reads, waits for a watcher to say that
// the lease is about to end, and reads again.
func TestGoClientFollowsALease(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	account := githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.RefreshBefore = 5*time.Second, 2*time.Second })
	m.sim.SetAccount(account)
	client := m.vault.client(m.vault.login(t, slug(t.Name()), m.mayRead("creds/"+githubID)).Token())

	kept, inTime := map[any]bool{}, 0
	// A loaded machine can wake the watcher late now and then, but not every time.
	for deadline := time.Now().Add(replaceTimeout); len(kept) < 3 || inTime < 3; {
		require.Less(t, time.Now(), deadline, "the watcher hardly ever fires before the lease has ended")
		secret, err := client.Logical().Read(m.in("creds/" + githubID))
		require.NoError(t, err)
		read := time.Now()
		end := read.Add(time.Duration(secret.LeaseDuration) * time.Second)
		kept[secret.Data["oauth_access_token"]] = true
		watcher, err := client.NewLifetimeWatcher(&api.LifetimeWatcherInput{Secret: secret})
		require.NoError(t, err)
		go watcher.Start()
		select {
		case err := <-watcher.DoneCh():
			require.NoError(t, err)
			if time.Now().Before(end) {
				inTime++
			}
		case <-watcher.RenewCh():
			t.Fatal("the lease was renewed")
		case <-time.After(time.Until(end) + readyTimeout):
			t.Fatal("the watcher never said that the lease was about to end")
		}
		watcher.Stop()
		assert.Greater(t, time.Since(read), time.Duration(secret.LeaseDuration)*time.Second/2, "the watcher fires at once")
	}
	reads := m.reads(t, "creds/"+githubID)
	t.Logf("%d tokens, %d reads, %d of them in time", len(kept), reads, inTime)
	assert.LessOrEqual(t, reads, mostReads*len(kept))
	assert.NotContains(t, m.audit(t), `"path":"sys/leases/renew/`+m.path)
}

// TestGoClientWithNothingToWatch asks for the renewal of what cannot be renewed. The program gets an error at once, not a
// watcher that spins.
func TestGoClientWithNothingToWatch(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	for _, test := range []struct {
		path     string
		behavior api.RenewBehavior
	}{
		{"creds/", api.RenewBehaviorErrorOnErrors},
		{"static-creds/", api.RenewBehaviorIgnoreErrors},
	} {
		watcher, err := m.vault.root.NewLifetimeWatcher(&api.LifetimeWatcherInput{
			Secret: m.read(t, test.path+githubID), RenewBehavior: test.behavior,
		})
		require.NoError(t, err)
		go watcher.Start()
		select {
		case err := <-watcher.DoneCh():
			require.ErrorIs(t, err, api.ErrLifetimeWatcherNotRenewable)
		case <-time.After(readyTimeout):
			t.Error("no error")
		}
		watcher.Stop()
	}
}

// TestGoClientPassesParameters passes min_ttl in each way that the client offers.
func TestGoClientPassesParameters(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	client := m.vault.login(t, slug(t.Name()), m.mayRead("creds/"+githubID)).Logical()
	path := m.in("creds/" + githubID)

	_, err := client.ReadWithData(path, map[string][]string{"min_ttl": {"2m"}})
	require.NoError(t, err)
	_, err = client.Write(path, map[string]any{"min_ttl": "2m"})
	require.NoError(t, err)
	for _, wrong := range []any{"soon", -1} {
		_, err = client.Write(path, map[string]any{"min_ttl": wrong})
		refused(t, err, http.StatusBadRequest, "min_ttl")
	}
	secret, err := client.ReadWithData(path, map[string][]string{"ttl": {"2m"}})
	require.NoError(t, err)
	assert.Contains(t, secret.Warnings, "Endpoint ignored these unrecognized parameters: [ttl]")
}
