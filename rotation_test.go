package pipedream

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
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
		m.rotateKey()
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
		m.fleet(ended)
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

// A new key can be checked when readers with the old one have used up the budget.
func TestAKeyCanBeRotatedWithoutBudget(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		m.fleet(120)
		require.NotEmpty(t, m.readFleet(0, 120), "the budget is used up")
		m.sim.SetAPIKey("pd_test_key_2")
		_, err := m.write("config", map[string]any{"api_key": "pd_test_key_2"})
		require.NoError(t, err)
		require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
	})
}

// A new OAuth client can be checked when readers have used up the budget. The check
// takes an access token too.
func TestAClientCanBeRotatedWithoutBudget(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.configureClient(map[string]any{"project_id": testProject, "rate_limit": 100})
		m.creds("apn_alice")
		m.use(pace.Known)
		m.rotateClient()
	})
}

// A sweep that began before a change of key deletes nothing of the new key's cache.
func TestASweepDuringAChangeOfKey(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.slow(time.Second, 0, 0)
		go m.periodic()
		time.Sleep(100 * time.Millisecond)
		m.rotateKey()
		m.creds(github)
		time.Sleep(time.Minute)
		m.sim.ResetRequests()
		m.start()
		m.creds(github)
		require.Empty(t, m.sim.Requests(), "requests for a live token")
	})
}

// Readers fetch with a new key while the cache of the old one is still being emptied.
// What they fetch stays, even after a restart.
func TestEmptyingTheCacheKeepsCredentialsFetchedMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 20
		m.fleet(fleet)
		require.Empty(t, m.readFleet(0, fleet))
		m.slow(0, 0, 100*time.Millisecond)
		m.sim.SetAPIKey("pd_test_key_2")
		var write sync.WaitGroup
		write.Go(func() { m.configure(map[string]any{"api_key": "pd_test_key_2"}) })
		time.Sleep(150 * time.Millisecond)
		require.Empty(t, m.readFleet(0, fleet))
		write.Wait()
		m.sim.ResetRequests()
		m.start()
		require.Empty(t, m.readFleet(0, fleet))
		require.Empty(t, m.sim.Requests(), "requests for live tokens")
	})
}

// Fetches ahead that wait for their turn with a replaced key send no request.
func TestAReplacedKeyIsNoLongerUsed(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 60
		m.fleet(fleet)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		require.Empty(t, m.readFleet(0, fleet))
		time.Sleep(58 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: time.Second})
		m.periodic() // has all of them fetched ahead
		time.Sleep(100 * time.Millisecond)
		m.rotateKey()
		m.sim.ResetRequests()
		time.Sleep(5 * time.Minute)
		require.LessOrEqual(t, len(m.sim.Requests()), 1, "requests with the old key, after the new one was stored")
	})
}

// A connection that was replaced asks for no more pages of the list.
func TestAReplacedConnectionEndsItsList(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(3000)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Delay: time.Second})
		for i := range 12 {
			_, err := m.read("creds/apn_guess" + accountName(i))
			require.Error(t, err)
		}
		time.Sleep(2500 * time.Millisecond)
		m.sim.ResetRequests()
		m.configure(map[string]any{"min_ttl": 600, "verify": false})
		time.Sleep(2 * time.Minute)
		require.LessOrEqual(t, m.sim.Count(pipedreamtest.KindList), 1)
	})
}

// A connection that was replaced sends nothing more ahead of readers.
func TestThePassEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*mount){
		"config is deleted": func(m *mount) {
			_, err := m.handle(logical.DeleteOperation, "config", nil)
			require.NoError(m, err)
		},
		"a setting is written":       func(m *mount) { m.configure(map[string]any{"min_ttl": "4m", "verify": false}) },
		"another source of accounts": func(m *mount) { m.configure(map[string]any{"org_id": "o_other", "verify": false}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				const fleet = 2000
				m.fleet(fleet)
				m.unlimited(func() { m.readAll(fleet) })
				time.Sleep(56 * time.Minute)
				m.sim.AddFault(pipedreamtest.Fault{Delay: 2 * time.Second})
				m.periodic() // has 21 pages fetched ahead
				time.Sleep(time.Second)
				require.NotEmpty(t, m.sim.Requests())
				m.sim.ResetRequests()
				change(m)
				time.Sleep(55 * time.Second)
				require.LessOrEqual(t, len(m.sim.Requests()), 1, "requests with the old connection")
			})
		})
	}
}

// A fetch that was under way when the key changed leaves nothing behind, and replaces
// nothing that the new key fetched.
func TestAFetchWithTheOldKeyLeavesNothing(t *testing.T) {
	for name, fetched := range map[string]bool{"the new key has fetched it": true, "it has not": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.sim.AddFault(pipedreamtest.Fault{AccountID: github, Delay: 10 * time.Second, Times: 1})
				var old sync.WaitGroup
				old.Go(func() { _, _ = m.read("creds/" + github) })
				time.Sleep(time.Second)
				m.rotateKey()
				needed := 1
				if fetched {
					m.creds(github)
					needed = 0
				}
				m.sim.ResetRequests()
				old.Wait()
				if !fetched {
					m.sim.Rotate(github)
				}
				for range 2 {
					require.Equal(t, m.sim.Token(github), m.token(github))
					m.start()
				}
				require.Len(t, m.sim.Requests(), needed)
			})
		})
	}
}

// What the old key or client brought, and is stored or read late, replaces nothing that
// the new one brought meanwhile, in memory or in storage.
func TestTheOldKeyReplacesNothingOfTheNew(t *testing.T) {
	kinds := map[string]struct {
		configured  func(*testing.T, func(*testing.T, *mount), ...pipedreamtest.Option)
		name, other string
		key         func(*mount) string // where it is stored
		rotate      func(*mount)
	}{
		"an account": {bubble, github, stripe, func(m *mount) string { return m.cacheKey(github) }, (*mount).rotateKey},
		"a user":     {connectBubble, "alices", "apn_bob", (*mount).aliceKey, (*mount).rotateClient},
	}
	for kind, of := range kinds {
		faults := map[string]func(*mount){
			"storage is slow": func(m *mount) {
				m.creds(of.other) // something for the change of key to delete
				m.slow(0, 500*time.Millisecond, 0)
			},
			"a write is late": func(m *mount) { m.slowOnce("put", of.key(m), 2*time.Second) },
			"a read is late": func(m *mount) {
				m.creds(of.name)
				m.start()
				m.creds(of.other) // loads config
				m.slowOnce("get", of.key(m), 2*time.Second)
			},
		}
		for name, prepare := range faults {
			t.Run(kind+", "+name, func(t *testing.T) {
				of.configured(t, func(_ *testing.T, m *mount) {
					m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
					prepare(m)
					var old sync.WaitGroup
					old.Go(func() { _, _ = m.read("creds/" + of.name) })
					time.Sleep(100 * time.Millisecond)
					of.rotate(m)
					time.Sleep(50 * time.Millisecond)
					m.creds(of.name)
					old.Wait()
					time.Sleep(5 * time.Second)
					m.stayRemembered(of.name)
				})
			})
		}
	}
}
