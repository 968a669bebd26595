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

// Where the list of an app needs more than a minute's budget, it goes on where it stopped.
// Readers who come again when told to are all served, for about what its pages cost.
func TestCustomersOfAListBeyondTheBudget(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		const customers, pages, limit = 500, 5, 4
		paths := m.customers(customers)
		m.configureClient(map[string]any{"project_id": testProject, "rate_limit": limit})
		m.sim.ResetRequests()
		require.LessOrEqual(t, m.comeAgainUntilServed(paths), pages+12, "the pages, and the searches before they pay")
		require.LessOrEqual(t, m.mostPerMinute(), limit)
	})
}

// A page that fails for a moment has those who wait for it searched for. A few seconds
// later, the list of the app goes on.
func TestCustomersOfAListWhosePageFails(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		paths := m.customers(500)
		m.sim.AddFault(pipedreamtest.Fault{
			Kind: pipedreamtest.KindList, Status: http.StatusInternalServerError, After: 3, Times: 3,
			Where: func(r pipedreamtest.Request) bool { return !strings.Contains(r.RawQuery, "external_user_id") },
		})
		m.readCustomers(paths[:50], 50, 1)
		time.Sleep(6 * time.Second)
		m.sim.ResetRequests()
		require.LessOrEqual(t, m.readCustomers(paths, 50, 1), 20)
	})
}

// comeAgainUntilServed reads all paths at once, and again when told to. It returns how many
// requests that cost.
func (m *mount) comeAgainUntilServed(paths []string) int {
	m.Helper()
	began := time.Now()
	var readers sync.WaitGroup
	for i, path := range paths {
		readers.Go(func() {
			for time.Since(began) < 20*time.Minute {
				resp, err := m.b.HandleRequest(m.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: m.storage, EntityID: "backend"})
				if err == nil {
					if resp.Data["pipedream_account_id"] != fmt.Sprintf("apn_c%05d", i) {
						m.Errorf("%s: %v", path, resp.Data["pipedream_account_id"])
					}
					return
				}
				time.Sleep(toldToWait(m.T, err))
			}
			m.Errorf("%s was not served", path)
		})
	}
	readers.Wait()
	m.Logf("%d requests, %s", len(m.sim.Requests()), time.Since(began))
	return len(m.sim.Requests())
}
