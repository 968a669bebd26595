package pipedream

import (
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

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

// Accounts come and go for two days. There are new ones every hour, and each is read
// for two hours. Accounts that are gone take neither memory nor storage.
func TestDaysOfAccountsThatComeAndGo(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *mount) {
		const each = 5
		most := 0
		for hour := range 2 * 24 {
			for i := range each {
				m.sim.SetAccount(oauthAccount(accountName(hour*each+i), time.Hour))
			}
			for range 3 {
				for i := max(0, hour-1) * each; i < (hour+1)*each; i++ {
					_, err := m.read("creds/" + accountName(i))
					require.NoError(t, err)
				}
				m.periodic()
				time.Sleep(20 * time.Minute)
			}
			if hour > 1 {
				m.sim.DeleteAccount(accountName((hour - 2) * each))
			}
			keys, err := m.cachedKeys()
			require.NoError(t, err)
			most = max(most, len(keys), m.cachedInMemory())
		}
		require.LessOrEqual(t, most, 6*each, "accounts kept at a time")
	})
}
