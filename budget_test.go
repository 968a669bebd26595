package pipedream

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestBudgetHoldsForEveryMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget{limit: 10}
		var sent []time.Time
		for len(sent) < 100 {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			release, err := b.acquire(ctx, 0)
			cancel()
			require.NoError(t, err)
			sent = append(sent, time.Now())
			time.Sleep(time.Duration(len(sent)%7) * 400 * time.Millisecond)
			release()
		}
		for i := 10; i < len(sent); i++ {
			require.GreaterOrEqual(t, sent[i].Sub(sent[i-10]), time.Minute)
		}
	})
}

func TestBudgetServesWaitersInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget{limit: 5}
		for range 5 {
			release, err := b.acquire(t.Context(), 0)
			require.NoError(t, err)
			release()
			time.Sleep(10 * time.Second)
		}
		var group sync.WaitGroup
		var served, refused atomic.Int32
		for range 20 {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 35*time.Second)
				defer cancel()
				start := time.Now()
				release, err := b.acquire(ctx, 0)
				if err != nil {
					if time.Since(start) > 0 {
						t.Error("whoever cannot be served in time must be told at once")
					}
					refused.Add(1)
					return
				}
				served.Add(1)
				release()
			})
		}
		group.Wait()
		require.Equal(t, int32(3), served.Load(), "slots come free after 10, 20 and 30 s")
		require.Equal(t, int32(17), refused.Load())
	})
}

func TestBudgetReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &budget{limit: 10}
		for range 7 {
			_, err := b.acquire(t.Context(), 3)
			require.NoError(t, err)
		}
		_, err := b.acquire(t.Context(), 3)
		require.Error(t, err)
		for range 3 {
			_, err := b.acquire(t.Context(), 0)
			require.NoError(t, err)
		}
	})
}

func TestBudgetWithoutLimit(t *testing.T) {
	b := &budget{}
	for range 1000 {
		release, err := b.acquire(t.Context(), 0)
		require.NoError(t, err)
		release()
	}
	require.Equal(t, -1, b.left())
}

func TestAColdFleetStaysWithinTheLimit(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 250
		for i := range fleet {
			m.sim.SetAccount(oauthAccount(accountName(i), 12*time.Hour))
		}
		var readers sync.WaitGroup
		for i := range fleet {
			readers.Go(func() {
				for {
					before := time.Now()
					_, err := m.read("creds/" + accountName(i))
					if time.Since(before) > defaultRequestTimeout {
						t.Errorf("a reader waited for %s", time.Since(before))
					}
					if err == nil {
						return
					}
					m.refused(err, http.StatusTooManyRequests, "try again in")
					time.Sleep(5 * time.Second)
				}
			})
		}
		readers.Wait()
		require.LessOrEqual(t, pipedreamtest.MostPerMinute(m.sim.Requests()), defaultRateLimit)
	})
}

func TestAConfigWriteDoesNotRefillTheBudget(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		m.configure(map[string]any{"rate_limit": 3, "verify": false})
		m.sim.SetAccount(oauthAccount("apn_third", time.Hour))
		m.sim.SetAccount(oauthAccount("apn_fourth", time.Hour))
		m.creds(github)
		m.creds(stripe)
		for _, limit := range []int{0, 3} {
			m.configure(map[string]any{"rate_limit": limit, "verify": false})
		}
		_, err := m.read("creds/apn_third")
		// The check of the key when the mount was configured counts too.
		m.refused(err, http.StatusTooManyRequests, "rate_limit", "try again in")

		time.Sleep(time.Minute)
		m.creds("apn_third")
	})
}
