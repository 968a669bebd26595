package pipedream

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// coldFleet is the outcome of reading a fleet of which nothing is cached.
type coldFleet struct {
	served, refused int
	took            time.Duration
}

// readOver reads accounts over that many connections. A connection goes on to the
// next account after each answer, and a reader who is refused comes again after 5 s.
func (m *mount) readOver(connections int, order []int) (met coldFleet) {
	m.Helper()
	began := time.Now()
	places := make(chan struct{}, connections)
	var mu sync.Mutex // guards met
	var readers sync.WaitGroup
	for _, i := range order {
		readers.Go(func() {
			for time.Since(began) < 10*time.Minute {
				places <- struct{}{}
				resp, err := m.b.HandleRequest(m.Context(), &logical.Request{
					Operation: logical.ReadOperation, Path: "creds/" + accountName(i), Storage: m.storage, MountPoint: "pipedream/",
				})
				<-places
				mu.Lock()
				if err == nil {
					token, isOAuth := resp.Data["oauth_access_token"]
					if isOAuth && token != m.sim.Token(accountName(i)) || !isOAuth && resp.Data["api_key"] != fmt.Sprintf("k%d", i) {
						m.Errorf("the reader of %s got another token", accountName(i))
					}
					met.served, met.took = met.served+1, time.Since(began)
					mu.Unlock()
					return
				}
				met.refused++
				mu.Unlock()
				time.Sleep(5 * time.Second)
			}
		})
	}
	readers.Wait()
	return met
}

func inOrder(n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	return order
}

func shuffled(n int) []int {
	return rand.New(rand.NewPCG(1, 2)).Perm(n) //nolint:gosec // an order, the same each time
}

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

// A useless list costs a request or two. Readers wait no longer than the budget makes
// all of them wait.
func TestAColdFleetWithoutAUsefulList(t *testing.T) {
	const accounts, connections = 80, 20
	page := func(total string, with func(i int) string) string {
		var all []string
		for i := range accounts {
			all = append(all, fmt.Sprintf(`{"id":%q%s}`, accountName(i), with(i)))
		}
		return fmt.Sprintf(`{"page_info":{%s"end_cursor":null},"data":[%s]}`, total, strings.Join(all, ","))
	}
	faults := map[string]pipedreamtest.Fault{
		"fails":          {Status: http.StatusInternalServerError},
		"is refused":     {Status: http.StatusForbidden},
		"hangs":          {Hang: true},
		"no credentials": {Status: http.StatusOK, Body: page(`"total_count":80,`, func(int) string { return "" })},
		"no total": {Status: http.StatusOK, Body: page("", func(i int) string {
			return fmt.Sprintf(`,"credentials":{"api_key":"k%d"}`, i)
		})},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				for i := range accounts {
					a := keyAccount(accountName(i))
					a.Credentials = map[string]any{"api_key": fmt.Sprintf("k%d", i)}
					m.sim.SetAccount(a)
				}
				fault.Kind = pipedreamtest.KindList
				m.sim.AddFault(fault)
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 60 * time.Millisecond})
				met := m.readOver(connections, inOrder(accounts))
				t.Logf("%d requests, %d refused, %s", len(m.sim.Requests()), met.refused, met.took)
				require.Equal(t, accounts, met.served)
				require.Zero(t, met.refused)
				require.LessOrEqual(t, len(m.sim.Requests()), accounts+3, "one by one, and the tries of the list")
			})
		})
	}
}

// A page serves readers of its accounts for a minute, and is then forgotten. An
// account that nobody reads is not stored.
func TestAPageIsRememberedForAMinute(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(90)
		m.readAll(40)
		m.sim.ResetRequests()
		stored, err := m.cachedKeys()
		require.NoError(t, err)
		require.Len(t, stored, 40, "only accounts that were read are stored")
		m.creds(accountName(60))
		require.Empty(t, m.sim.Requests())
		time.Sleep(2 * time.Minute)
		m.creds(accountName(61))
		require.Len(t, m.sim.Requests(), 1)
	})
}

// A page does not serve these reads, each of which costs a request of its own.
func TestReadsThatAPageDoesNotServe(t *testing.T) {
	const id = "apn_00085"
	tests := map[string]struct {
		change func(*pipedreamtest.Account) // before the page comes
		then   func(*mount)                 // after it
		fails  bool
	}{
		"an account near its end": {
			change: func(a *pipedreamtest.Account) {
				a.TokenLife, a.OmitNextRefresh, a.RefreshBefore = time.Minute, true, time.Second
			},
			then: func(*mount) { time.Sleep(10 * time.Second) },
		},
		"a dead account":          {change: func(a *pipedreamtest.Account) { a.Dead = true }, fails: true},
		"one without credentials": {change: func(a *pipedreamtest.Account) { a.NoCredentials = true }, fails: true},
		"a refresh":               {then: func(m *mount) { _, _ = m.write("refresh/"+id, nil) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.fleet(90)
				if test.change != nil {
					m.sim.Update(id, test.change)
				}
				m.readAll(40)
				time.Sleep(time.Second)
				m.sim.ResetRequests()
				if test.then != nil {
					test.then(m)
				}
				_, err := m.read("creds/" + id)
				require.Equal(t, test.fails, err != nil, "%v", err)
				require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
			})
		})
	}
}

// A page replaces no credential that was fetched after it, and an account that has
// failed since is not served from it.
func TestAPageReplacesNothingNewer(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(90)
		const rotated, deleted = "apn_00085", "apn_00086"
		m.readAll(40)
		_, err := m.write("refresh/"+deleted, nil)
		require.NoError(t, err)
		m.sim.DeleteAccount(deleted)
		time.Sleep(6 * time.Second)
		_, err = m.write("refresh/"+deleted, nil)
		m.refused(err, http.StatusBadRequest, "does not know")

		m.sim.Rotate(rotated)
		_, err = m.write("refresh/"+rotated, nil)
		require.NoError(t, err)
		m.fleetPage()
		require.Equal(t, m.sim.Token(rotated), m.token(rotated))
		_, err = m.read("creds/" + deleted)
		m.refused(err, http.StatusBadRequest, "does not know")
	})
}

// fleetPage reads accounts of a page that is remembered.
func (m *mount) fleetPage() {
	m.Helper()
	for i := 40; i < 80; i++ {
		m.creds(accountName(i))
	}
}

// Refresh tokens from a page are left out like any other.
func TestAPageBringsNoRefreshToken(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(90)
		m.readAll(40)
		m.sim.ResetRequests()
		require.NotContains(t, m.creds(accountName(80)).Data, "oauth_refresh_token")
		require.Empty(t, m.sim.Requests())
		raw, err := m.storage.below().Get(t.Context(), m.cacheKey(accountName(80)))
		require.NoError(t, err)
		require.NotContains(t, string(raw.Value), "pdrefresh_")
	})
}

// The lease of a credential that never expires counts from when its page was asked
// for, not from the read.
func TestALeaseCountsFromThePage(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(80)
		m.sim.SetAccount(keyAccount("apn_key"))
		m.readAll(40)
		time.Sleep(30 * time.Second)
		m.sim.ResetRequests()
		require.LessOrEqual(t, m.creds("apn_key").Secret.TTL, time.Hour-30*time.Second)
		require.Empty(t, m.sim.Requests())
	})
}
