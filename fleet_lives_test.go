package pipedream

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// A fleet has more pages than a minute's budget allows. The list is fetched on from where
// the budget ended, and readers who come again when they are told to are served.
func TestAFleetBeyondAMinutesPages(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		accounts, limit, connections int
		list                         string
		requests                     int
		within                       time.Duration
	}{
		{2000, 100, 2000, "works", 25, 5 * time.Second},
		{2000, 100, 2000, "is throttled", 25, 17 * time.Second},
		{12_000, 100, 12_000, "works", 130, 70 * time.Second},
		{12_000, 100, 12_000, "is throttled", 130, 85 * time.Second},
		{2500, 20, 2500, "works", 35, 70 * time.Second},
		{1200, 20, 30, "works", 30, 70 * time.Second},
	} {
		c := fleetCase{test.accounts, test.limit, test.connections, false, "cold", test.list, "obey"}
		if !largeFleets() && test.accounts > largestInSuite {
			continue
		}
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			met := c.run(t)
			c.check(t, met)
			require.LessOrEqual(t, met.requests, test.requests)
			require.LessOrEqual(t, met.took, test.within)
		})
	}
}

// Accounts whose pages are known, and whose tokens have all ended, cost a page for each
// hundred, however few programs read them.
func TestAFleetAfterAnOutage(t *testing.T) {
	t.Parallel()
	fleet := 2000
	if largeFleets() {
		fleet = 5000
	}
	for connections, shuffled := range map[int]bool{1: true, 8: false, 50: true, 1000: false} {
		c := fleetCase{fleet, defaultRateLimit, connections, shuffled, "known pages, ended tokens", "works", "obey"}
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			met := c.run(t)
			c.check(t, met)
			require.LessOrEqual(t, met.requests, fleet/api.PageLimit+40)
			require.Zero(t, met.refused)
			require.Less(t, met.took, 6*time.Second)
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

// readUntilServed has callers read accounts at once, each until it is served. They come
// again when they are told to.
func (m *mount) readUntilServed(from, to, callers int) {
	m.Helper()
	var readers sync.WaitGroup
	for i := from; i < to; i++ {
		readers.Go(func() {
			for {
				err := m.request(m.Context(), fmt.Sprint("entity-", i%callers), logical.ReadOperation, "creds/"+accountName(i), nil)
				if err == nil {
					return
				}
				time.Sleep(toldToWait(m.T, err))
			}
		})
	}
	readers.Wait()
}

// A key that may not list accounts fetches all of them one by one, early enough.
func TestAFleetWithoutAListIsRefreshedInTime(t *testing.T) {
	t.Parallel()
	for _, fleet := range []int{150, 600} {
		t.Run(strconv.Itoa(fleet), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				const life = 8 * time.Hour
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
				for i := range fleet {
					a := oauthAccount(accountName(i), life)
					a.RefreshBefore = 40 * time.Minute
					m.sim.SetAccount(a)
				}
				m.unlimited(func() { require.Empty(t, m.readFleet(0, fleet)) })
				end := time.Now().Add(life)
				for time.Until(end) > 41*time.Minute {
					m.periodic()
					time.Sleep(time.Minute)
				}
				for time.Until(end) > -2*time.Minute {
					m.periodic()
					time.Sleep(time.Minute)
					require.Empty(t, m.readFleet(0, fleet), "%s before the end", time.Until(end))
				}
				require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
			})
		})
	}
}

// unlimited does something without a limit.
func (m *mount) unlimited(do func()) {
	m.Helper()
	m.sim.SetLimit(0)
	m.configure(map[string]any{"rate_limit": 0})
	do()
	m.configure(map[string]any{"rate_limit": defaultRateLimit})
	time.Sleep(2 * time.Minute)
	m.sim.ResetRequests()
}

// The length of a list is known for as long as tokens live, so that its pages are
// fetched early enough.
func TestALongFleetIsRefreshedInTime(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{59 * time.Minute, 3 * time.Hour} {
		t.Run(life.String(), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				const fleet, limit = 2000, 5 // 20 pages take 5 min at 4 a minute
				for i := range fleet {
					a := oauthAccount(accountName(i), life)
					a.RefreshBefore = 15 * time.Minute
					m.sim.SetAccount(a)
				}
				end := time.Now().Add(life)
				m.unlimited(func() { require.Empty(t, m.readFleet(0, fleet)) })
				m.configure(map[string]any{"rate_limit": limit})
				for time.Until(end) > 3*time.Second {
					m.periodic()
					time.Sleep(min(time.Minute, time.Until(end)-2*time.Second))
				}
				time.Sleep(3 * time.Second)
				require.Empty(t, m.readFleet(0, fleet), "the old tokens have ended")
				require.LessOrEqual(t, m.mostPerMinute(), limit)
			})
		})
	}
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

// A page that came a moment ago serves readers however short tokens live.
func TestTokensOfAMinuteOnAPage(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{70 * time.Second, 90 * time.Second} {
		t.Run(life.String(), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				for i := range 90 {
					m.sim.SetAccount(oauthAccount(accountName(i), life))
				}
				m.readAll(40)
				m.sim.ResetRequests()
				time.Sleep(time.Second)
				for i := 40; i < 90; i++ {
					m.creds(accountName(i))
				}
				require.LessOrEqual(t, len(m.sim.Requests()), 5)
			})
		})
	}
}

// While a request waits for the end of a 429 within its own time, those who can wait as
// long are not told to come again. Nothing more goes out for them until then.
func TestThoseWhoWaitAreServedAfterA429(t *testing.T) {
	t.Parallel()
	for _, wait := range []string{"2", "5", "9", "10", "12", "18"} {
		for _, readers := range []int{5, 40} {
			for _, kind := range []pipedreamtest.Kind{pipedreamtest.KindList, pipedreamtest.KindAccount} {
				t.Run(fmt.Sprintf("%s s, %d readers, %s", wait, readers, kind), func(t *testing.T) {
					t.Parallel()
					bubble(t, func(t *testing.T, m *mount) {
						m.fleet(998)
						if kind == pipedreamtest.KindAccount {
							m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
						}
						m.sim.AddFault(pipedreamtest.Fault{
							Kind: kind, After: 3, Times: 1, Delay: 60 * time.Millisecond,
							Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {wait}},
						})
						m.sim.AddFault(pipedreamtest.Fault{Delay: 60 * time.Millisecond})
						var all sync.WaitGroup
						read := func(caller string, i int) {
							all.Go(func() {
								if err := m.request(t.Context(), caller, logical.ReadOperation, "creds/"+accountName(i), nil); err != nil {
									t.Errorf("%s: %s", accountName(i), err)
								}
							})
						}
						if kind == pipedreamtest.KindList {
							for i := range 50 { // they begin a walk
								read("e1", i)
							}
							time.Sleep(100 * time.Millisecond)
						}
						for i := range readers {
							read("e2", 500+i)
						}
						all.Wait()
					})
				})
			}
		}
	}
}
