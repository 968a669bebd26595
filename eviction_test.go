package pipedream

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// An account is found dead while storage cannot be read. The stored credential must
// not be served once storage can be read again.
func TestAnEvictionWhileStorageCannotBeRead(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		m.creds(github)
		m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead = true })
		m.start()
		m.creds(stripe) // loads config
		m.storage.fail(errStorage, nil, nil, nil)
		_, err := m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "dead")
		m.storage.fail(nil, nil, nil, nil)
		for range 2 {
			_, err = m.read("creds/" + github)
			m.refused(err, http.StatusBadRequest, "dead")
			time.Sleep(time.Minute)
		}
	})
}

// The same for a credential that storage is still reading for a caller who gave up.
func TestAnEvictionWhileStorageIsBeingRead(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead = true })
		m.start()
		m.slow(2*time.Second, 0, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.b.HandleRequest(ctx, &logical.Request{Operation: logical.UpdateOperation, Path: "refresh/" + github, Storage: m.storage})
		require.Error(t, err)
		time.Sleep(time.Minute)
		require.Contains(t, m.logs.String(), "is dead")
		_, err = m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "dead")
	})
}

// A credential of the old key that is stored or read late replaces nothing that the
// new key fetched meanwhile, in memory or in storage.
func TestTheOldKeyReplacesNothingOfTheNew(t *testing.T) {
	tests := map[string]func(*mount){
		"storage is slow": func(m *mount) {
			m.creds(stripe) // something for the change of key to delete
			m.slow(0, 500*time.Millisecond, 0)
		},
		"a write is late": func(m *mount) {
			m.slowOnce("put", m.cacheKey(github), 2*time.Second)
		},
		"a read is late": func(m *mount) {
			m.creds(github)
			m.start()
			m.creds(stripe) // loads config
			m.slowOnce("get", m.cacheKey(github), 2*time.Second)
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				prepare(m)
				var old sync.WaitGroup
				old.Go(func() { _, _ = m.read("creds/" + github) })
				time.Sleep(100 * time.Millisecond)
				m.sim.SetAPIKey("pd_test_key_2")
				m.configure(map[string]any{"api_key": "pd_test_key_2"})
				time.Sleep(50 * time.Millisecond)
				m.creds(github)
				old.Wait()
				time.Sleep(5 * time.Second)
				m.sim.ResetRequests()
				m.creds(github)
				m.start()
				m.creds(github)
				require.Empty(t, m.sim.Requests(), "requests for a live token")
			})
		})
	}
}

// A delete causes no writes of other accounts.
func TestADeleteCausesNoOtherWrites(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 60
		for i := range fleet {
			m.sim.SetAccount(oauthAccount(accountName(i), 30*time.Minute))
			m.creds(accountName(i))
		}
		time.Sleep(61 * time.Minute)
		m.slow(0, 100*time.Millisecond, 50*time.Millisecond)
		var sweep sync.WaitGroup
		sweep.Go(m.periodic)
		time.Sleep(20 * time.Millisecond)
		m.creds(github)
		m.creds(stripe)
		sweep.Wait()
		require.Equal(t, 1, m.storage.writes(m.cacheKey(github)))
		require.Equal(t, 1, m.storage.writes(m.cacheKey(stripe)))
	})
}
