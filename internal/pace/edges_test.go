package pace

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// One of two callers has as many requests in the queue as allowed. The work that
// both wait for is in the other one's queue, and leaves nothing behind.
func TestJoinedWorkWhenOneQueueIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(10)
		for range 5 { // all slots for unproven requests
			mustAcquire(t, b, Unproven, "greedy")()
		}
		for range minQueue { // and the whole queue of one caller
			passes(t, b, Unproven, "greedy")
		}
		claim := b.NewClaim(Unproven, by("modest"))
		claim.Join(Unproven, by("greedy"))
		require.NotNil(t, waitsAs(t, b, claim, 10*time.Second).refused())
		time.Sleep(time.Hour)
		require.Equal(t, 10, b.Left(), "no slot is lost")
	})
}

func TestAJoinedCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1)
		hold := mustAcquire(t, b, Known, "")
		check := waits(t, b, Check, "")
		check.claim.Join(Known, by(""))
		hold()
		time.Sleep(Window)
		require.True(t, check.served())
		check.release()
		time.Sleep(10 * Window)
		require.Equal(t, 1, b.Left())
	})
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
