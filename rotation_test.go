package pipedream

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/cache"
)

const manyStored = 20_000

// storesMany stores that many credentials, and has storage take 5 ms for each
// delete, as raft does.
func (m *mount) storesMany() {
	m.Helper()
	m.creds(github)
	folder := m.cacheKey("")
	for i := range manyStored {
		require.NoError(m, m.storage.below().Put(m.Context(), &logical.StorageEntry{Key: folder + accountName(i), Value: []byte("{}")}))
	}
	m.slow(0, 0, 5*time.Millisecond)
}

// stored returns how many entries storage has below the cache.
func (m *mount) stored() int {
	m.Helper()
	keys, err := logical.CollectKeys(m.Context(), logical.NewStorageView(m.storage.below(), cache.Prefix))
	require.NoError(m, err)
	return len(keys)
}

// emptyings empty the cache. They return the key to configure from then on.
var emptyings = map[string]func(*mount) (key string){
	"a new key": func(m *mount) string {
		m.sim.SetAPIKey("pd_test_key_2")
		m.configure(map[string]any{"api_key": "pd_test_key_2"})
		return "pd_test_key_2"
	},
	"a deleted config": func(m *mount) string {
		_, err := m.handle(logical.DeleteOperation, "config", nil)
		require.NoError(m, err)
		return testKey
	},
}

// A change of key, or the end of the configuration, does not wait until everything
// that is stored is deleted. Nor does the next one, or the pass of each minute.
func TestAChangeOfKeyAnswersAtOnce(t *testing.T) {
	t.Parallel()
	for name, empty := range emptyings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				m.storesMany()
				old := m.token(github)
				m.sim.Rotate(github)
				began := time.Now()
				key := empty(m)
				require.Less(t, time.Since(began), time.Second)
				if name == "a deleted config" {
					_, err := m.read("creds/" + github)
					m.refused(err, http.StatusBadRequest, "not configured")
				} else {
					require.NotEqual(t, old, m.token(github), "the old token is not served")
				}
				m.configure(map[string]any{"api_key": key, "min_ttl": 60})
				require.Less(t, time.Since(began), time.Second, "another write of config")
				require.NotEqual(t, old, m.token(github), "the old token is not served")
				passBegan := time.Now()
				m.periodic()
				require.Less(t, time.Since(passBegan), time.Minute, "the next pass is due")
				time.Sleep(manyStored * 5 * time.Millisecond)
				require.LessOrEqual(t, m.stored(), 1, "nothing is left but what was fetched since")
				m.sim.ResetRequests()
				m.start()
				m.token(github)
				require.Empty(t, m.sim.Requests(), "what was fetched since is kept")
			})
		})
	}
}

// A process that ends before everything is deleted leaves the rest to the passes of
// the next one. Storage that fails has the same effect.
func TestWhatCouldNotBeDeletedGoesWithThePasses(t *testing.T) {
	t.Parallel()
	for name, empty := range emptyings {
		for how, interrupt := range map[string]func(*mount){
			"a restart": func(m *mount) { m.start() },
			"storage fails": func(m *mount) {
				m.storage.fail(nil, nil, errStorage, nil)
				time.Sleep(time.Minute)
				m.storage.fail(nil, nil, nil, nil)
			},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T, m *mount) {
					m.storesMany()
					empty(m)
					time.Sleep(10 * time.Second)
					interrupt(m)
					left := m.stored()
					require.Less(t, left, manyStored)
					require.Greater(t, left, manyStored/2)
					time.Sleep(10 * time.Minute)
					require.Equal(t, left, m.stored(), "a mount that has ended does nothing")
					for range manyStored/500 + 1 {
						began := time.Now()
						m.periodic()
						require.Less(t, time.Since(began), time.Minute)
						time.Sleep(time.Minute)
					}
					require.Zero(t, m.stored())
				})
			})
		}
	}
}

// 5,000 tokens end at the same time, and storage takes 20 ms for each delete. The
// passes delete them, and are not late because of that.
func TestAPassThatDeletesIsNotLate(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *mount) {
		const ended = 2000
		m.configure(map[string]any{"rate_limit": 0})
		for i := range ended {
			m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
		}
		m.readAll(ended)
		time.Sleep(61 * time.Minute)
		m.slow(0, 0, 20*time.Millisecond)
		for range 10 {
			began := time.Now()
			m.periodic()
			require.Less(t, time.Since(began), 45*time.Second, "the next pass is due in a minute")
			time.Sleep(time.Until(began.Add(time.Minute)))
		}
		require.Zero(t, m.stored())
	})
}
