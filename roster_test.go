package pipedream

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// customers adds accounts of n customers of an app, and returns their paths.
func (m *mount) customers(n int) (paths []string) {
	for i := range n {
		m.sim.SetAccount(connectAccount(fmt.Sprintf("apn_c%05d", i), fmt.Sprintf("acme:%d", i)))
		paths = append(paths, fmt.Sprintf("static-creds/crm/acme:%d", i))
	}
	m.role("crm", usersInPath)
	m.sim.ResetRequests()
	return paths
}

// readCustomers reads paths over some connections, as that many callers, and returns how many
// requests that cost. All must be served with the right account.
func (m *mount) readCustomers(paths []string, connections, callers int) int {
	m.Helper()
	next := make(chan int, len(paths))
	for i := range paths {
		next <- i
	}
	close(next)
	var readers sync.WaitGroup
	for range connections {
		readers.Go(func() {
			for i := range next {
				resp, err := m.b.HandleRequest(m.Context(), &logical.Request{
					Operation: logical.ReadOperation, Path: paths[i], Storage: m.storage, EntityID: fmt.Sprintf("backend-%d", i%callers),
				})
				if err != nil {
					m.Errorf("%s: %v", paths[i], err)
					return
				}
				if resp.Data["pipedream_account_id"] != fmt.Sprintf("apn_c%05d", i) {
					m.Errorf("%s: %v", paths[i], resp.Data["pipedream_account_id"])
				}
			}
		})
	}
	readers.Wait()
	return len(m.sim.Requests())
}

// A backend that reads 1,000 customers cold costs about what the list costs.
func TestAThousandColdCustomers(t *testing.T) {
	for connections, callers := range map[int]int{1: 1, 50: 1, 1000: 1000} {
		t.Run(fmt.Sprintf("%d connections, %d callers", connections, callers), func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				require.LessOrEqual(t, m.readCustomers(m.customers(1000), connections, callers), 30)
			})
		})
	}
}

// Of several accounts, a customer gets the one that a search would have found.
func TestManyCustomersWithSeveralAccounts(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		paths := m.customers(200)
		for i := range 200 {
			worse := connectAccount(fmt.Sprintf("apn_z%05d", i), fmt.Sprintf("acme:%d", i))
			worse.Unhealthy = true
			m.sim.SetAccount(worse)
		}
		m.sim.ResetRequests()
		require.LessOrEqual(t, m.readCustomers(paths, 20, 1), 30)
	})
}

// Where the list of an app is refused, each customer is searched for.
func TestManyCustomersWithoutAList(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		paths := m.customers(40)
		m.sim.AddFault(pipedreamtest.Fault{
			Kind: pipedreamtest.KindList, Status: http.StatusForbidden,
			Where: func(r pipedreamtest.Request) bool { return !strings.Contains(r.RawQuery, "external_user_id") },
		})
		require.LessOrEqual(t, m.readCustomers(paths, 10, 1), 40+10)
	})
}

// A customer who connected after the list came is found.
func TestACustomerWhoConnectsLater(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.readCustomers(m.customers(100), 1, 1)
		_, err := m.read("static-creds/crm/acme:late")
		m.refused(err, http.StatusBadRequest, "has no healthy account")
		m.sim.SetAccount(connectAccount("apn_late", "acme:late"))
		time.Sleep(2 * time.Second)
		resp, err := m.read("static-creds/crm/acme:late")
		require.NoError(t, err)
		require.Equal(t, "apn_late", resp.Data["pipedream_account_id"])
	})
}

// backendCase is a backend that reads all its customers cold, over some connections, and
// comes again when told to.
type backendCase struct {
	customers, limit, connections int
	list                          string // how the list of all accounts of the app behaves
}

var backendLists = []string{"works", "has a page that fails", "is throttled", "hangs", "is refused"}

func (c backendCase) String() string {
	return fmt.Sprintf("%d customers, limit %d, %d connections, list %s", c.customers, c.limit, c.connections, c.list)
}

// listIsUseless reports whether customers can only be searched for one by one.
func (c backendCase) listIsUseless() bool { return c.list == "is refused" || c.list == "hangs" }

// isSmall reports whether the case takes a second or so, and is one of the hardest.
func (c backendCase) isSmall() bool {
	return c.customers <= 1000 && c.connections >= c.customers && (c.limit == 0 || c.limit == 20 && !c.listIsUseless())
}

// isFeasible reports whether the case takes less than a minute.
func (c backendCase) isFeasible() bool {
	return !c.listIsUseless() || c.customers <= 1000 || c.limit == 0 || c.limit >= 400
}

// spoil has the list misbehave.
func (c backendCase) spoil(m *mount) {
	fault := pipedreamtest.Fault{
		Kind: pipedreamtest.KindList, After: 3, Delay: 60 * time.Millisecond,
		Where: func(r pipedreamtest.Request) bool { return !strings.Contains(r.RawQuery, "external_user_id") },
	}
	switch c.list {
	case "has a page that fails":
		fault.Status, fault.Times = http.StatusBadGateway, 3 // in spite of the retries
	case "is throttled":
		fault.Status, fault.Times, fault.Header = http.StatusTooManyRequests, 1, http.Header{"Retry-After": {"12"}}
	case "hangs":
		fault.Hang = true
	case "is refused":
		fault.Status, fault.After = http.StatusForbidden, 0
	}
	m.sim.AddFault(fault) // the first fault that a request meets counts
	m.sim.AddFault(pipedreamtest.Fault{Delay: 60 * time.Millisecond})
}

// run asserts that the backend costs what its accounts would cost.
func (c backendCase) run(t *testing.T) {
	t.Helper()
	connectBubble(t, func(t *testing.T, m *mount) {
		paths := m.customers(c.customers)
		m.sim.SetLimit(0)
		m.configureClient(map[string]any{"project_id": testProject, "rate_limit": c.limit})
		c.spoil(m)
		m.sim.ResetRequests()
		needed := c.customers/100*13/10 + 20 // of which are the searches before the list pays
		if c.listIsUseless() {
			needed = c.customers*11/10 + 20
		}
		minutes := 1
		if c.limit > 0 {
			minutes = needed/(c.limit*6/10) + 2
			if c.list == "hangs" {
				minutes++ // until it is known to be useless
			}
		}
		requests, took := m.comeAgainUntilServed(paths, c.connections)
		t.Logf("%s: %d requests for %d, all after %s, %d in a minute", c, requests, needed, took, m.mostPerMinute())
		require.LessOrEqual(t, requests, needed)
		require.LessOrEqual(t, took, time.Duration(minutes)*time.Minute)
		if c.limit > 0 {
			require.LessOrEqual(t, m.mostPerMinute(), c.limit)
		}
	})
}

// Whatever the limit and the list, a backend that reads all its customers cold costs what
// their accounts cost: the pages of the list. All are served. FLEETS is as for TestFleets.
func TestABackendThatReadsAllItsCustomers(t *testing.T) {
	t.Parallel()
	for _, customers := range []int{1000, 5000} {
		for _, limit := range []int{20, 100, 400, 0} {
			for _, connections := range []int{50, 5000} {
				for _, list := range backendLists {
					c := backendCase{customers, limit, connections, list}
					if !c.isSmall() && (!largeFleets() || !c.isFeasible()) {
						continue
					}
					t.Run(c.String(), func(t *testing.T) {
						t.Parallel()
						c.run(t)
					})
				}
			}
		}
	}
}

// A page that fails twice has those who wait for it searched for. A few seconds later, the
// list of the app goes on.
func TestCustomersOfAListWhosePageFails(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		paths := m.customers(500)
		m.sim.AddFault(pipedreamtest.Fault{
			Kind: pipedreamtest.KindList, Status: http.StatusInternalServerError, After: 3, Times: 2 * 3, // with the retries
			Where: func(r pipedreamtest.Request) bool { return !strings.Contains(r.RawQuery, "external_user_id") },
		})
		m.readCustomers(paths[:50], 50, 1)
		time.Sleep(6 * time.Second)
		m.sim.ResetRequests()
		require.LessOrEqual(t, m.readCustomers(paths, 50, 1), 20)
	})
}

// comeAgainUntilServed reads all paths over some connections, and again when told to. It
// returns how many requests that cost, and how long it took.
func (m *mount) comeAgainUntilServed(paths []string, connections int) (requests int, took time.Duration) {
	m.Helper()
	began := time.Now()
	places := make(chan struct{}, connections)
	var readers sync.WaitGroup
	for i, path := range paths {
		readers.Go(func() {
			for time.Since(began) < 24*time.Hour {
				places <- struct{}{}
				resp, err := m.b.HandleRequest(m.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: m.storage, EntityID: "backend"})
				<-places
				if err == nil {
					if resp.Data["pipedream_account_id"] != fmt.Sprintf("apn_c%05d", i) {
						m.Errorf("%s: %v", path, resp.Data["pipedream_account_id"])
					}
					return
				}
				fleetCase{readers: "obey"}.wait(m, err)
			}
			m.Errorf("%s was not served", path)
		})
	}
	readers.Wait()
	return len(m.sim.Requests()), time.Since(began)
}
