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
