package pace

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
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

// A slot comes free, and the timer that hands it out is late. A request that
// comes in between joins the queue and must not delay the one before it.
func TestALateTimerDelaysNoWaiter(t *testing.T) {
	for name, class := range map[string]Class{"known": Known, "unproven": Unproven} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewBudget(10)
				mustAcquire(t, b, class, "somebody")()
				time.Sleep(Window / 2)
				for err := error(nil); err == nil; { // the rest of the slots
					var release func()
					if release, err = b.Acquire(b.NewClaim(class, by("somebody")).With(t.Context())); err == nil {
						release()
					}
				}
				first := waits(t, b, class, "somebody")
				b.mu.Lock()
				b.timer.Reset(Window/2 + time.Second) // a second late
				b.mu.Unlock()
				time.Sleep(Window / 2)
				second := waits(t, b, class, "somebody")
				time.Sleep(time.Second)
				require.True(t, first.served())
				first.release()
				second.stop()
			})
		})
	}
}

// panics is a planner that panics so many times.
type panics struct{ times, calls int }

func (p *panics) Tidy(time.Time) {
	if p.calls++; p.times > 0 {
		p.times--
		panic("at work")
	}
}
func (p *panics) Ahead(time.Time) func(*Claim)          { return nil }
func (p *panics) Wakes(now time.Time) (time.Time, bool) { return now.Add(time.Minute), true }
func (p *panics) Done(time.Time) bool                   { return false }

// A panic in a planner ends in the log, whether it is by itself or while somebody else
// does something. The planner is asked again soon, and nobody waits for ever.
func TestAPanicInAPlanner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, log := NewBudget(1), &bytes.Buffer{}
		logger := hclog.New(&hclog.LoggerOptions{Output: log})
		b.LogTo(func() hclog.Logger { return logger })
		p := &panics{}
		b.Do(func(time.Time) { b.Attach(p) })
		mustAcquire(t, b, Known, "")()
		time.Sleep(time.Second)
		waiting := passes(t, b, Known, "somebody")
		b.mu.Lock()
		p.times = 2
		b.mu.Unlock()
		time.Sleep(Window + 2*afterPanic)
		require.True(t, waiting.served())
		require.Contains(t, log.String(), "recovered from a panic")

		b.mu.Lock()
		p.times, p.calls = 1, 0
		b.mu.Unlock()
		require.Panics(t, func() { b.Do(func(time.Time) {}) })
		time.Sleep(afterPanic)
		synctest.Wait()
		require.Equal(t, 2, p.calls)
		b.Do(func(time.Time) { b.planners = nil })
		time.Sleep(2 * Window)
	})
}
