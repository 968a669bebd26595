package acceptance

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestAColdFleetOverFewConnections reads a thousand accounts, none of them cached. Each connection reads one account
// after the other, so the engine never sees more accounts at a time than there are connections.
func TestAColdFleetOverFewConnections(t *testing.T) {
	t.Parallel()
	const accounts = 1000
	for _, connections := range []int{50, 200} {
		for _, shuffled := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d connections, shuffled %t", connections, shuffled), func(t *testing.T) {
				m := onSharedVault(t)
				order := make([]int, accounts)
				for i := range order {
					order[i] = i
					m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID, a.TokenLife = fmt.Sprintf("apn_%04d", i), 24*time.Hour }))
				}
				if shuffled {
					rand.Shuffle(accounts, func(i, j int) { order[i], order[j] = order[j], order[i] }) //nolint:gosec // only for variety
				}
				m.sim.AddFault(pipedreamtest.Fault{Delay: 60 * time.Millisecond})
				client := m.vault.client(m.vault.rootToken)
				var group errgroup.Group
				group.SetLimit(connections)
				var refused atomic.Int64
				began := time.Now()
				for _, i := range order {
					group.Go(func() error {
						id := fmt.Sprintf("apn_%04d", i)
						secret, err := client.Logical().Read(m.in("static-creds/" + id))
						if err != nil {
							refused.Add(1)
							return err
						}
						assert.Equal(t, m.sim.Token(id), secret.Data["oauth_access_token"])
						return nil
					})
				}
				require.NoError(t, group.Wait())
				t.Logf("%d requests, %s", len(m.sim.Requests()), time.Since(began))
				assert.Zero(t, refused.Load())
				// An idle machine needs 19. If a page takes seconds to arrive, some accounts are fetched one by one.
				assert.LessOrEqual(t, len(m.sim.Requests()), accounts/10)
			})
		}
	}
}
