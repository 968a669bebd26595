package pipedream

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/durable"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// A credential that was fetched ahead and is being stored need not be fetched again.
func TestAReaderJoinsAFetchAhead(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		a := oauthAccount("apn_x", time.Hour)
		a.OmitNextRefresh = true
		m.sim.SetAccount(a)
		m.creds("apn_x")
		time.Sleep(56 * time.Minute)
		m.sim.ResetRequests()
		m.slow(0, time.Second, 0)
		m.periodic()
		time.Sleep(500 * time.Millisecond) // fetched, and being stored
		m.creds("apn_x")
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
	})
}

// A pass and a reader who want an account at the same time share all of the work.
func TestAPassAndAReaderWriteOnce(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		a := oauthAccount("apn_x", time.Hour)
		a.OmitNextRefresh = true
		m.sim.SetAccount(a)
		m.creds("apn_x")
		time.Sleep(56 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Delay: time.Second, Kind: pipedreamtest.KindAccount})
		m.slow(0, 100*time.Millisecond, 0)
		before := m.storage.writes(m.cacheKey("apn_x"))
		var reader sync.WaitGroup
		reader.Go(func() { m.creds("apn_x") })
		time.Sleep(500 * time.Millisecond)
		m.periodic()
		reader.Wait()
		time.Sleep(time.Minute)
		require.Equal(t, 1, m.storage.writes(m.cacheKey("apn_x"))-before)
	})
}

// Storage that hangs does not keep readers from what Pipedream answered, wherever on
// a page of the list their account is.
func TestStorageHoldsUpNoPage(t *testing.T) {
	for _, id := range []string{"apn_00000", "apn_zz"} {
		t.Run(id, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				const first, fleet = 1, 90
				if id < accountName(first) {
					m.sim.SetAccount(oauthAccount(id, time.Hour))
				}
				for i := range fleet {
					m.sim.SetAccount(oauthAccount(accountName(first+i), time.Hour))
				}
				if id > accountName(first) {
					m.sim.SetAccount(oauthAccount(id, time.Hour))
				}
				require.Empty(t, m.readFleet(first, first+fleet))
				time.Sleep(58 * time.Minute)
				m.slow(0, time.Hour, 0)
				m.sim.AddFault(pipedreamtest.Fault{Delay: time.Second})
				m.periodic()
				time.Sleep(100 * time.Millisecond)
				before := time.Now()
				m.creds(id)
				require.LessOrEqual(t, time.Since(before), 2*durable.Timeout+2*time.Second)
			})
		})
	}
}

// Vault gives a pass some time and then starts the next one.
func TestASweepEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 60
		for i := range fleet {
			m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
			m.creds(accountName(i))
		}
		time.Sleep(61 * time.Minute)
		m.slow(0, 0, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		before := time.Now()
		_, _ = m.b.HandleRequest(ctx, &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
		require.LessOrEqual(t, time.Since(before), 90*time.Second+durable.Timeout)
	})
}

func TestPeriodicFetchesAheadOfReaders(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.SetAccount(oauthAccount("apn_unread", time.Hour))
		m.creds("apn_unread")
		m.creds(github)
		m.creds(stripe)
		m.sim.AddFault(pipedreamtest.Fault{Delay: time.Second})
		for range 3 * 60 {
			time.Sleep(time.Minute)
			before := time.Now()
			m.creds(github)
			m.creds(stripe)
			require.Zero(t, time.Since(before), "readers need not wait")
			m.periodic()
		}
		counts := map[string]int{}
		for _, r := range m.sim.Requests() {
			counts[r.AccountID]++
		}
		require.LessOrEqual(t, counts["apn_unread"], 2, "nobody read it after its first fetch ahead")
		require.LessOrEqual(t, counts[github], 9)
		require.LessOrEqual(t, counts[stripe], 5)
	})
}

func TestPeriodicDropsExpiredCredentials(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.start() // in storage only
		m.sim.SetAccount(oauthAccount("apn_second", time.Hour))
		m.creds("apn_second") // in memory too
		m.periodic()
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.ElementsMatch(t, []string{github, "apn_second"}, keys)

		m.sim.Close()
		time.Sleep(61 * time.Minute)
		m.periodic()
		keys, err = m.cachedKeys()
		require.NoError(t, err)
		require.Empty(t, keys)
	})
}

// Keys that nobody reads any more are not kept forever.
func TestPeriodicDropsAbandonedKeys(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(stripe)
		for range 8 * 24 {
			time.Sleep(time.Hour)
			m.periodic()
		}
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.Empty(t, keys)
		require.LessOrEqual(t, m.sim.Count(pipedreamtest.KindAccount), 2)
	})
}

// On a standby, where another node writes storage, a pass does nothing.
func TestPeriodicOnAStandby(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
		time.Sleep(2 * time.Hour)
		m.periodic()
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.Equal(t, []string{github}, keys)
	})
}

func TestPeriodicUnconfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: "cache/apn_left", Value: []byte("{}")}))
		m.periodic()
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.Empty(t, keys)
	})
}

// A reader who joins a fetch ahead makes it as urgent as the reader needs.
func TestAReaderWhoJoinsMakesAFetchUrgent(t *testing.T) {
	tests := map[string]func(*mount) (id string){
		"a page": func(m *mount) string {
			due := m.pagesOfAges()
			time.Sleep(27*time.Minute + 30*time.Second)
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Delay: 2 * time.Second, Status: http.StatusBadRequest})
			return due[1]
		},
		"a retry": func(m *mount) string {
			m.creds(github)
			time.Sleep(55*time.Minute + 30*time.Second)
			m.sim.AddFault(pipedreamtest.Fault{Times: 1, Delay: time.Second, Status: http.StatusBadGateway})
			return github
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				id := prepare(m)
				m.periodic()
				time.Sleep(100 * time.Millisecond)
				m.spend(84)
				_, err := m.write("refresh/"+id, nil)
				require.NoError(t, err)
			})
		})
	}
}

// A list that is refused is tried again only after ten minutes, also by the pass.
func TestThePassLeavesARefusedListAlone(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 1000
		for i := range fleet {
			a := oauthAccount(accountName(i), time.Hour)
			a.RefreshBefore = 20 * time.Minute
			m.sim.SetAccount(a)
		}
		m.readAll(fleet)
		end := time.Now().Add(time.Hour)
		time.Sleep(10 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		m.sim.AddFault(pipedreamtest.Fault{Delay: 100 * time.Millisecond})
		m.sim.ResetRequests()
		began := time.Now()
		for time.Until(end) > time.Minute {
			m.periodic()
			time.Sleep(time.Minute)
			if tried := m.sim.Count(pipedreamtest.KindList); tried == 0 {
				began = time.Now() // the first pages are not due yet
			} else {
				require.LessOrEqual(t, tried, 1+int(time.Since(began)/(10*time.Minute)))
			}
		}
		require.NotZero(t, m.sim.Count(pipedreamtest.KindList))
	})
}

// The sweep drops expired credentials, but none that was fetched since the sweep began.
func TestTheSweepKeepsCredentialsFetchedMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 20
		for i := range fleet {
			m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
			m.creds(accountName(i))
		}
		time.Sleep(61 * time.Minute)
		m.slow(0, 0, 100*time.Millisecond)
		var sweep sync.WaitGroup
		sweep.Go(m.periodic)
		time.Sleep(time.Second) // half of them are swept
		for i := range fleet {
			m.creds(accountName(i))
		}
		sweep.Wait()
		requests := m.sim.Count(pipedreamtest.KindAccount) + m.sim.Count(pipedreamtest.KindList)
		for i := range fleet {
			m.creds(accountName(i))
		}
		require.Equal(t, requests, m.sim.Count(pipedreamtest.KindAccount)+m.sim.Count(pipedreamtest.KindList), "requests for live tokens")
	})
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
