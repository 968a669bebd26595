package pipedream

import (
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// fleet gives Pipedream n accounts with tokens of an hour.
func (m *mount) fleet(n int) {
	for i := range n {
		m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
	}
}

// readAll reads the first n accounts of the fleet at once. After a 429 a reader tries
// again until it is served. No read may take longer than request_timeout.
func (m *mount) readAll(n int) {
	m.Helper()
	var readers sync.WaitGroup
	for i := range n {
		readers.Go(func() {
			for {
				before := time.Now()
				resp, err := m.read("creds/" + accountName(i))
				if time.Since(before) > defaultRequestTimeout {
					m.Errorf("a reader waited for %s", time.Since(before))
				}
				if err == nil {
					if resp.Data["pipedream_account_id"] != accountName(i) {
						m.Errorf("%s got the credentials of %s", accountName(i), resp.Data["pipedream_account_id"])
					}
					return
				}
				if coded, ok := err.(logical.HTTPCodedError); !ok || coded.Code() != http.StatusTooManyRequests { //nolint:errorlint // it must not be wrapped
					m.Errorf("%s: %v", accountName(i), err)
					return
				}
				time.Sleep(5 * time.Second)
			}
		})
	}
	readers.Wait()
}

func (m *mount) mostPerMinute() int { return pipedreamtest.MostPerMinute(m.sim.Requests()) }

func TestAFewAccountsAreAskedForOneByOne(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(200)
		m.readAll(fetch.MaxSingles)
		require.Equal(t, fetch.MaxSingles, m.sim.Count(pipedreamtest.KindAccount))
		require.Zero(t, m.sim.Count(pipedreamtest.KindList))
	})
}

func TestAColdFleetCostsAPageForEachHundred(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 1500
		m.fleet(fleet)
		m.sim.AddFault(pipedreamtest.Fault{Delay: 100 * time.Millisecond})
		m.readAll(fleet)
		require.LessOrEqual(t, len(m.sim.Requests()), fleet/api.PageLimit+1+fetch.MaxSingles)
		require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
	})
}

func TestOnlyAccountsThatAreReadAreKept(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(900)
		m.sim.AddFault(pipedreamtest.Fault{Delay: 100 * time.Millisecond})
		m.readAll(300)
		require.Positive(t, m.sim.Count(pipedreamtest.KindList))
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.Len(t, keys, 300)
		require.Equal(t, 300, m.cachedInMemory())
	})
}

// 90 accounts of 100,000 are cheaper one by one, as the first page of the list shows.
func TestAFewAccountsOfManyAreAskedForOneByOne(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(90)
		m.sim.AddFault(pipedreamtest.Fault{
			Kind: pipedreamtest.KindList, Status: http.StatusOK,
			Body: `{"page_info":{"total_count":100000,"end_cursor":"more"},"data":[{"id":"apn_other","credentials":{"a":"b"}}]}`,
		})
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 100 * time.Millisecond})
		m.readAll(90)
		require.Equal(t, 90, m.sim.Count(pipedreamtest.KindAccount))
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindList))
	})
}

func TestTheListFallsBackToSingleRequests(t *testing.T) {
	const accounts = 40
	faults := map[string]pipedreamtest.Fault{
		"no credentials": {Status: http.StatusOK, Body: `{"page_info":{"total_count":40},"data":[{"id":"apn_00039"},{"id":"apn_00038"}]}`},
		"no accounts":    {Status: http.StatusOK, Body: `{"page_info":{"total_count":0},"data":[]}`},
		"other accounts": {Status: http.StatusOK, Body: `{"page_info":{},"data":[{"id":"apn_other","credentials":{"a":"b"}}]}`},
		"forbidden":      {Status: http.StatusForbidden},
		"not there":      {Status: http.StatusNotFound},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.fleet(accounts)
				fault.Kind = pipedreamtest.KindList
				m.sim.AddFault(fault)
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 100 * time.Millisecond})
				m.readAll(accounts)
				require.Equal(t, accounts, m.sim.Count(pipedreamtest.KindAccount))
				require.Equal(t, 1, m.sim.Count(pipedreamtest.KindList))
			})
		})
	}
}

// An account that the list has without credentials is asked for by itself. The reader
// of a dead one gets an error that says so.
func TestAccountsWithoutCredentialsInTheList(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(60)
		m.sim.Update(accountName(50), func(a *pipedreamtest.Account) { a.NoCredentials = true })
		m.sim.Update(accountName(51), func(a *pipedreamtest.Account) { a.Dead = true })
		m.sim.AddFault(pipedreamtest.Fault{Delay: 100 * time.Millisecond})
		var readers sync.WaitGroup
		var served atomic.Int32
		for i := range 60 {
			readers.Go(func() {
				_, err := m.read("creds/" + accountName(i))
				switch i {
				case 50:
					m.refused(err, http.StatusBadRequest, accountName(i), "no credentials")
				case 51:
					m.refused(err, http.StatusBadRequest, accountName(i), "dead")
				default:
					if err == nil {
						served.Add(1)
					}
				}
			})
		}
		readers.Wait()
		require.Equal(t, int32(58), served.Load())
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindList))
	})
}

// If the list fails, its readers get an answer in time, and accounts are asked for
// one by one from then on.
func TestAListThatFails(t *testing.T) {
	for name, fault := range map[string]pipedreamtest.Fault{
		"500": {Status: http.StatusInternalServerError}, "hangs": {Hang: true}, "HTML": {Garbage: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.fleet(80)
				fault.Kind = pipedreamtest.KindList
				m.sim.AddFault(fault)
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 100 * time.Millisecond})
				var readers sync.WaitGroup
				for i := range 80 {
					readers.Go(func() {
						for {
							before := time.Now()
							_, err := m.read("creds/" + accountName(i))
							if time.Since(before) > defaultRequestTimeout {
								t.Errorf("a reader waited for %s", time.Since(before))
							}
							if err == nil {
								return
							}
							time.Sleep(time.Second)
						}
					})
				}
				readers.Wait()
				require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
			})
		})
	}
}

// A reader who comes during the fetch of the list, after the page with the account,
// need not wait for the end of the list.
func TestLatecomersNeedNotWaitForTheList(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(1500)
		m.sim.SetAccount(oauthAccount("apn_0late", time.Hour))
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Delay: 500 * time.Millisecond})
		var readers sync.WaitGroup
		readers.Go(func() { m.readAll(1500) })
		time.Sleep(3 * time.Second)
		before := time.Now()
		m.creds("apn_0late")
		require.LessOrEqual(t, time.Since(before), 3*time.Second+time.Second)
		readers.Wait()
	})
}

func TestColdFleetWithoutAList(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(250)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		m.readAll(250)
		require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
	})
}

// In the steady state, all accounts are read every few minutes through some token lives.
// Readers never wait after the first fetch, and the list brings many due accounts at
// a time.
func TestSteadyState(t *testing.T) {
	t.Parallel()
	accounts, lives, every := 1000, 2, 4
	if more, err := strconv.Atoi(os.Getenv("STEADY_STATE_ACCOUNTS")); err == nil { // make bench
		accounts, lives, every = more, 3, 1
	}
	tests := map[string]struct {
		spread        time.Duration // over which the accounts were connected
		refreshBefore time.Duration
		shuffled      bool // whether the list is in another order than that in which they were connected
		perLife       int  // the most requests in a token's life
	}{
		"all connected at once":                      {0, 5 * time.Minute, false, accounts / 50},
		"refreshed early, ends spread":               {40 * time.Minute, 45 * time.Minute, false, accounts / 50},
		"refreshed early, ends spread, shuffled":     {40 * time.Minute, 45 * time.Minute, true, accounts / 50},
		"refreshed late, ends spread wide":           {55 * time.Minute, 5 * time.Minute, false, accounts / 40},
		"refreshed late, ends spread wide, shuffled": {55 * time.Minute, 5 * time.Minute, true, accounts / 5},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newMount(t)
				connected := rand.New(rand.NewPCG(1, 1)).Perm(accounts) //nolint:gosec // an order, the same each time
				if test.shuffled {
					m.fleet(accounts) // the list keeps this order
				}
				for _, i := range connected {
					a := oauthAccount(accountName(i), time.Hour)
					a.RefreshBefore = test.refreshBefore
					m.sim.SetAccount(a)
					time.Sleep(test.spread / time.Duration(accounts))
				}
				m.configure(nil)
				m.readAll(accounts)
				m.sim.ResetRequests()
				m.sim.AddFault(pipedreamtest.Fault{Delay: 200 * time.Millisecond})

				start := time.Now()
				for minute := range lives * 60 {
					before := time.Now()
					for i := minute % every; i < accounts; i += every {
						_, err := m.b.HandleRequest(t.Context(), &logical.Request{
							Operation: logical.ReadOperation, Path: "creds/" + accountName(i), Storage: m.storage,
						})
						require.NoError(t, err)
					}
					require.Zero(t, time.Since(before), "a reader waited")
					m.periodic()
					time.Sleep(time.Minute)
				}
				t.Logf("%d accounts: %d requests in a token's life, %d a minute at the most", accounts, len(m.sim.Requests())/lives, m.mostPerMinute())
				report(t, "steady-state", map[string]any{
					"accounts": accounts, "spread_minutes": test.spread.Minutes(), "refresh_before_minutes": test.refreshBefore.Minutes(),
					"shuffled": test.shuffled, "per_life": len(m.sim.Requests()) / lives, "most_per_minute": m.mostPerMinute(),
					"by_minute": byMinute(m.sim.Requests(), start, time.Duration(lives)*time.Hour),
				})
				require.LessOrEqual(t, len(m.sim.Requests()), lives*test.perLife)
				require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
				tokens := int(time.Duration(lives)*time.Hour/(time.Hour-test.refreshBefore)) + 2
				require.LessOrEqual(t, m.storage.writes("cache/"), tokens*accounts, "one write in a token's life")
			})
		})
	}
}

// byMinute counts the requests of each minute since start.
func byMinute(requests []pipedreamtest.Request, start time.Time, length time.Duration) []int {
	counts := make([]int, int(length/time.Minute))
	for _, r := range requests {
		if i := int(r.Time.Sub(start) / time.Minute); i < len(counts) {
			counts[i]++
		}
	}
	return counts
}

// A queue that Pipedream serves slowly is no sign that it is down. Readers who come
// late are served too.
func TestALongQueueIsNoOutage(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const early, late = 88, 5
		m.fleet(early + late)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 1990 * time.Millisecond})
		var readers sync.WaitGroup
		for i := range early + late {
			readers.Go(func() {
				if i >= early {
					time.Sleep(10 * time.Second)
				}
				_, err := m.read("creds/" + accountName(i))
				switch {
				case err == nil:
				case i >= early:
					t.Errorf("reader %d was refused: %v", i, err)
				default:
					toldToWait(t, err)
				}
			})
		}
		readers.Wait()
		require.LessOrEqual(t, len(m.sim.Requests()), 100)
	})
}
