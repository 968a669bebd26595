package pace

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
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

// Two requests of one piece of work want a slot at the same moment. Each gets one of its
// own.
func TestRequestsOfOneClaimAtTheSameMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(2)
		hold := mustAcquire(t, b, Known, "")
		mustAcquire(t, b, Known, "")()
		claim := b.NewClaim(Known, by("somebody"))
		first := waitsAs(t, b, claim, time.Hour)
		time.Sleep(Window - 1)
		go func() {
			time.Sleep(time.Nanosecond)
			b.Do(func(time.Time) {}) // grants the first its slot
			release, err := b.Acquire(claim.With(t.Context()))
			if err == nil {
				release()
			}
		}()
		time.Sleep(time.Second)
		hold()
		time.Sleep(3 * Window)
		require.True(t, first.served())
		first.release()
	})
}
