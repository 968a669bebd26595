package pipedream

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/durable"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// A credential that was fetched ahead and is being stored need not be fetched again.
func TestAReaderJoinsAFetchAhead(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		a := oauthAccount("apn_x", time.Hour)
		a.OmitNextRefresh = true
		m.sim.SetAccount(a)
		m.creds("apn_x")
		time.Sleep(56 * time.Minute)
		m.sim.ResetRequests()
		m.slow(0, time.Second, 0)
		m.periodic()
		time.Sleep(500 * time.Millisecond) // fetched, and being stored
		m.creds("apn_x")
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
	})
}

// A pass and a reader who want an account at the same time share all of the work.
func TestAPassAndAReaderWriteOnce(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		a := oauthAccount("apn_x", time.Hour)
		a.OmitNextRefresh = true
		m.sim.SetAccount(a)
		m.creds("apn_x")
		time.Sleep(56 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Delay: time.Second, Kind: pipedreamtest.KindAccount})
		m.slow(0, 100*time.Millisecond, 0)
		before := m.storage.writes(m.cacheKey("apn_x"))
		var reader sync.WaitGroup
		reader.Go(func() { m.creds("apn_x") })
		time.Sleep(500 * time.Millisecond)
		m.periodic()
		reader.Wait()
		time.Sleep(time.Minute)
		require.Equal(t, 1, m.storage.writes(m.cacheKey("apn_x"))-before)
	})
}

// Storage that hangs does not keep readers from what Pipedream answered, wherever on
// a page of the list their account is.
func TestStorageHoldsUpNoPage(t *testing.T) {
	for _, id := range []string{"apn_00000", "apn_zz"} {
		t.Run(id, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				const first, fleet = 1, 90
				if id < accountName(first) {
					m.sim.SetAccount(oauthAccount(id, time.Hour))
				}
				for i := range fleet {
					m.sim.SetAccount(oauthAccount(accountName(first+i), time.Hour))
				}
				if id > accountName(first) {
					m.sim.SetAccount(oauthAccount(id, time.Hour))
				}
				require.Empty(t, m.readFleet(first, first+fleet))
				time.Sleep(58 * time.Minute)
				m.slow(0, time.Hour, 0)
				m.sim.AddFault(pipedreamtest.Fault{Delay: time.Second})
				m.periodic()
				time.Sleep(100 * time.Millisecond)
				before := time.Now()
				m.creds(id)
				require.LessOrEqual(t, time.Since(before), 2*durable.Timeout+2*time.Second)
			})
		})
	}
}

// Vault gives a pass some time and then starts the next one.
func TestASweepEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 60
		for i := range fleet {
			m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
			m.creds(accountName(i))
		}
		time.Sleep(61 * time.Minute)
		m.slow(0, 0, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		before := time.Now()
		_, _ = m.b.HandleRequest(ctx, &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
		require.LessOrEqual(t, time.Since(before), 90*time.Second+durable.Timeout)
	})
}
