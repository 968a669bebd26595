package pace

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBudgetHoldsInAnyMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(10)
		var sent []time.Time
		for len(sent) < 100 {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			release, err := b.Acquire(ctx)
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
		b := NewBudget(5)
		for range 5 {
			release, err := b.Acquire(t.Context())
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
				release, err := b.Acquire(ctx)
				if err != nil {
					if time.Since(start) > 0 {
						t.Error("a request that cannot be served in time must fail at once")
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

// Each class leaves some of the limit to more urgent ones.
func TestEachClassLeavesSomeToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		took := func(class Class) (n int) {
			for {
				if _, err := b.Acquire(b.NewClaim(class, by("")).With(t.Context())); err != nil {
					var refused *NoBudgetError
					require.ErrorAs(t, err, &refused)
					return n
				}
				n++
			}
		}
		require.Equal(t, 75, took(Listing))
		require.Equal(t, 5, took(Ahead))
		require.Equal(t, 18, took(Known))
		require.Equal(t, 2, took(Check), "kept for checks of a new key")
	})
}

func TestBudgetWithoutLimit(t *testing.T) {
	b := NewBudget(0)
	for range 1000 {
		release, err := b.Acquire(t.Context())
		require.NoError(t, err)
		release()
	}
	require.Equal(t, -1, b.Left())
}
