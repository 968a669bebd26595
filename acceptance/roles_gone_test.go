package acceptance

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestDeletedAccountIsNotServedUnderLoad deletes one account after the other while many readers read it. Once a reader
// has been told that the account is gone, no later read may get the cached credential.
func TestDeletedAccountIsNotServedUnderLoad(t *testing.T) {
	t.Parallel()
	const accounts, readers, refusals = 8, 16, 10
	m := onSharedVault(t, pipedreamtest.WithLimit(0))
	m.write(t, "config", map[string]any{"rate_limit": 0, "static_ttl": "2s"})
	for i := range accounts {
		account := stripe()
		account.ID = fmt.Sprint("apn_", i)
		m.sim.SetAccount(account)
		m.write(t, "roles/r", map[string]any{"account_id": account.ID})
		m.read(t, "static-creds/r")
		m.sim.DeleteAccount(account.ID)

		var all sync.WaitGroup
		var gone atomic.Bool
		var late atomic.Int64
		for range readers {
			all.Go(func() {
				for refused := 0; refused < refusals && late.Load() == 0 && t.Context().Err() == nil; {
					told := gone.Load()
					_, err := m.vault.root.Logical().Read(m.in("static-creds/r"))
					switch {
					case err != nil:
						gone.Store(true)
						refused++
					case told:
						late.Add(1)
					}
				}
			})
		}
		all.Wait()
		assert.Zero(t, late.Load(), "reads of %s that got the deleted account", account.ID)
	}
}
