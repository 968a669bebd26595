package pipedream

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// A fleet that reads over few connections never has more accounts waiting than there
// are connections. The list is fetched for it anyway, once.
func TestAColdFleetOverFewConnections(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ accounts, connections, requests int }{
		{1000, 1, 25},
		{1000, 8, 25},
		{1000, 50, 25},
		{1000, 200, 25},
		{1000, 1000, 25},
		{5000, 50, 65},
		{5000, 200, 65},
	} {
		for name, order := range map[string]func(int) []int{"in order": inOrder, "shuffled": shuffled} {
			t.Run(fmt.Sprintf("%d accounts, %d connections, %s", test.accounts, test.connections, name), func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T, m *mount) {
					for i := range test.accounts {
						m.sim.SetAccount(oauthAccount(accountName(i), 24*time.Hour))
					}
					m.sim.AddFault(pipedreamtest.Fault{Delay: 60 * time.Millisecond})
					met := m.readOver(test.connections, order(test.accounts))
					t.Logf("%d requests, %s", len(m.sim.Requests()), met.took)
					reportColdFleet(t, true, test.accounts, test.connections, m, met)
					require.Equal(t, test.accounts, met.served)
					require.Zero(t, met.refused)
					require.LessOrEqual(t, len(m.sim.Requests()), test.requests)
					require.Less(t, met.took, 10*time.Second)
					require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
				})
			})
		}
	}
}

// This shows what the list saves. Without the list, and without a budget, a fleet
// costs one request for each account.
func TestAColdFleetOneByOne(t *testing.T) {
	t.Parallel()
	const accounts = 1000
	for _, connections := range []int{1, 8, 50, 200, 1000} {
		t.Run(fmt.Sprintf("%d connections", connections), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				m.configure(map[string]any{"rate_limit": 0})
				for i := range accounts {
					m.sim.SetAccount(oauthAccount(accountName(i), 24*time.Hour))
				}
				m.sim.ResetRequests()
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 60 * time.Millisecond})
				met := m.readOver(connections, inOrder(accounts))
				t.Logf("%d requests, %s", len(m.sim.Requests()), met.took)
				reportColdFleet(t, false, accounts, connections, m, met)
				require.Equal(t, accounts, met.served)
				require.Zero(t, met.refused)
				require.Equal(t, accounts, m.sim.Count(pipedreamtest.KindAccount))
				require.LessOrEqual(t, len(m.sim.Requests()), accounts+5, "one by one, and the tries of the list")
			}, pipedreamtest.WithLimit(0))
		})
	}
}

func reportColdFleet(t *testing.T, list bool, accounts, connections int, m *mount, met coldFleet) {
	t.Helper()
	report(t, "cold-fleet", map[string]any{
		"list": list, "accounts": accounts, "connections": connections,
		"requests": len(m.sim.Requests()), "seconds": met.took.Seconds(),
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

// Everything restarts at once: none of 2,000 accounts is cached, and each has a reader
// who comes again when told to.
func TestThousandsOfColdAccounts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fleet int
		fault func(*mount)
	}{
		"by the list": {2000, func(*mount) {}},
		"one by one": {1000, func(m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		}},
		"with answers after 4 s":  {500, func(m *mount) { m.sim.AddFault(pipedreamtest.Fault{Delay: 4 * time.Second}) }},
		"with every fifth a 500":  {500, func(m *mount) { everyFifth(m, pipedreamtest.Fault{Status: http.StatusInternalServerError}) }},
		"with every fifth cut up": {500, func(m *mount) { everyFifth(m, pipedreamtest.Fault{CutBody: true}) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				test.fault(m)
				m.readAFleet(test.fleet)
				require.LessOrEqual(t, pipedreamtest.MostPerMinute(m.sim.Requests()), defaultRateLimit)
			})
		})
	}
}

// everyFifth makes every fifth of the next thousand requests meet a fault.
func everyFifth(m *mount, fault pipedreamtest.Fault) {
	fault.Times = 1
	for i := range 200 {
		fault.After = 4 * (i + 1)
		m.sim.AddFault(fault)
	}
}

// readAFleet reads that many cold accounts at once until all have been served. At 100
// a minute that takes long, and readers who come a little late take longer.
func (m *mount) readAFleet(fleet int) {
	m.Helper()
	for i := range fleet {
		m.sim.SetAccount(oauthAccount(accountName(i), 24*time.Hour))
	}
	began := time.Now()
	var readers sync.WaitGroup
	for i := range fleet {
		readers.Go(func() {
			for {
				before := time.Now()
				resp, err := m.b.HandleRequest(m.Context(), &logical.Request{
					Operation: logical.ReadOperation, Path: "creds/" + accountName(i), Storage: m.storage, MountPoint: "pipedream/",
				})
				if took := time.Since(before); took > defaultRequestTimeout {
					m.Errorf("a reader waited for %s", took)
				}
				if err == nil {
					if resp.Data["pipedream_account_id"] != accountName(i) || resp.Data["oauth_access_token"] != m.sim.Token(accountName(i)) {
						m.Errorf("the reader of %s got %s", accountName(i), resp.Data["pipedream_account_id"])
					}
					return
				}
				time.Sleep(toldToWait(m.T, err))
			}
		})
	}
	readers.Wait()
	took := time.Since(began)
	m.Logf("all were served after %s, with %d requests", took, len(m.sim.Requests()))
	require.LessOrEqual(m, took, time.Duration(fleet/defaultRateLimit)*3*time.Minute/2)
}

// Config is written again and again while a fleet is read.
func TestAFleetWhileConfigIsWritten(t *testing.T) {
	t.Parallel()
	for _, every := range []time.Duration{10 * time.Second, time.Second} {
		t.Run(every.String(), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				const fleet, connections = 1000, 50
				m.fleet(fleet)
				m.sim.AddFault(pipedreamtest.Fault{Delay: 100 * time.Millisecond})
				began := time.Now()
				work := make(chan int)
				var readers sync.WaitGroup
				for range connections {
					readers.Go(func() {
						for i := range work {
							m.readUntilServed(i, i+1, 10)
						}
					})
				}
				written := time.Now()
				for i := range fleet {
					work <- i
					time.Sleep(5 * time.Millisecond) // a program does something with it
					if time.Since(written) >= every {
						m.configure(map[string]any{"min_ttl": "5m", "verify": false})
						written = time.Now()
					}
				}
				close(work)
				readers.Wait()
				require.Less(t, time.Since(began), time.Minute)
				require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
			})
		})
	}
}

// Accounts that are connected after the list was fetched to its end exist like any other.
func TestAccountsConnectedAfterAWholeList(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]bool{"the same process": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				m.sim.AddFault(pipedreamtest.Fault{Delay: 100 * time.Millisecond})
				m.fleet(1000)
				m.readAll(1000)
				time.Sleep(3 * time.Hour)
				for i := 1000; i < 2000; i++ {
					m.sim.SetAccount(oauthAccount(accountName(i), 24*time.Hour))
				}
				if restart {
					m.start()
				}
				m.sim.ResetRequests()
				began := time.Now()
				m.readUntilServed(1000, 2000, 20)
				require.Less(t, time.Since(began), 70*time.Second)
				// 30 or so; which readers come first makes a difference. The list has 20 pages.
				require.LessOrEqual(t, len(m.sim.Requests()), 46)
			})
		})
	}
}
