package pace

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// someone is a caller who waits for a slot.
type someone struct {
	t     *testing.T
	claim *Claim
	stop  context.CancelFunc
	ended chan struct{} // closed once the fields below are set

	release func()
	at      time.Time
	err     error
}

// by returns the caller of a name, and after a slash the user.
func by(name string) (c Caller) {
	c.Name, c.User, _ = strings.Cut(name, "/")
	return c
}

// waits starts someone who waits an hour for a slot, and returns once they wait.
func waits(t *testing.T, b *Budget, class Class, caller string) *someone {
	t.Helper()
	return waitsAs(t, b, b.NewClaim(class, by(caller)), time.Hour)
}

func waitsAs(t *testing.T, b *Budget, claim *Claim, within time.Duration) *someone {
	t.Helper()
	s := &someone{t: t, claim: claim, ended: make(chan struct{})}
	ctx, stop := context.WithTimeout(t.Context(), within)
	s.stop = stop
	go func() {
		defer close(s.ended)
		defer stop()
		s.release, s.err = b.Acquire(claim.With(ctx))
		s.at = time.Now()
	}()
	synctest.Wait()
	return s
}

// passes is like waits, for someone whose request takes no time.
func passes(t *testing.T, b *Budget, class Class, caller string) *someone {
	t.Helper()
	s := waits(t, b, class, caller)
	go func() {
		if <-s.ended; s.err == nil {
			s.release()
		}
	}()
	return s
}

// served reports whether s has a slot by now.
func (s *someone) served() bool {
	s.t.Helper()
	synctest.Wait()
	select {
	case <-s.ended:
		require.NoError(s.t, s.err)
		return true
	default:
		return false
	}
}

// refused returns the error with which s was refused a slot.
func (s *someone) refused() *NoBudgetError {
	s.t.Helper()
	<-s.ended
	var refused *NoBudgetError
	require.ErrorAs(s.t, s.err, &refused)
	return refused
}

// mustAcquire takes a slot, which must be free.
func mustAcquire(t *testing.T, b *Budget, class Class, caller string) (release func()) {
	t.Helper()
	release, err := b.Acquire(b.NewClaim(class, by(caller)).With(t.Context()))
	require.NoError(t, err)
	return release
}

// spend uses up all slots that known requests may have.
func spend(t *testing.T, b *Budget) {
	t.Helper()
	for {
		release, err := b.Acquire(t.Context())
		if err != nil {
			return
		}
		release()
	}
}

func TestUnprovenRequestsGetHalfTheLimit(t *testing.T) {
	for limit, most := range map[int]int{1: 1, 2: 1, 3: 1, 10: 5, 15: 7, 100: 50} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewBudget(limit)
				taken := 0
				for {
					release, err := b.Acquire(b.NewClaim(Unproven, by("")).With(t.Context()))
					if err != nil {
						break
					}
					release()
					taken++
				}
				require.Equal(t, most, taken)
				if limit > 1 {
					mustAcquire(t, b, Known, "")()
				}
			})
		})
	}
}

// Few are under way at a time, so that they cannot overload Pipedream when there
// is no limit.
func TestFewUnprovenRequestsAreUnderWayAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(0)
		var releases []func()
		for range maxUnproven {
			releases = append(releases, mustAcquire(t, b, Unproven, "somebody"))
		}
		next := waits(t, b, Unproven, "another")
		require.False(t, next.served())
		mustAcquire(t, b, Known, "")()
		require.False(t, next.served(), "a known request that ends makes no room")
		releases[3]()
		require.True(t, next.served())
	})
}

// They leave the last three tenths of the limit unused, even if others used the
// rest. That is more than any other class leaves.
func TestUnprovenRequestsLeaveThreeTenthsUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		for range 69 {
			mustAcquire(t, b, Known, "")()
		}
		mustAcquire(t, b, Unproven, "somebody")()
		_, err := b.Acquire(b.NewClaim(Unproven, by("somebody")).With(t.Context()))
		require.ErrorContains(t, err, "used up")
		mustAcquire(t, b, Known, "")()
	})
}

// One caller asks for very much and ten ask for little. They take turns: each of
// the ten waits for as many slots as there are callers, not for the whole queue.
func TestAGreedyCallerDelaysNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		for range 50 { // one comes free each second
			mustAcquire(t, b, Unproven, "")()
			time.Sleep(time.Second)
		}
		var greedy []*someone
		for range 50 {
			greedy = append(greedy, passes(t, b, Unproven, "greedy"))
		}
		require.Equal(t, NoBudgetError{Wait: 10 * time.Second}, *waits(t, b, Unproven, "greedy").refused(), "its queue is full")

		var modest []*someone
		for i := range 10 {
			for range 2 {
				modest = append(modest, passes(t, b, Unproven, fmt.Sprint("modest ", i)))
			}
		}
		// A slot comes free in 10 s, and then one each second. They go to the greedy
		// caller, to the first request of each of the ten, to the greedy caller, and to
		// the second request of each.
		began := time.Now()
		for i, m := range modest {
			<-m.ended
			require.NoError(t, m.err)
			require.Equal(t, time.Duration(10+1+i/2+11*(i%2))*time.Second, m.at.Sub(began), "modest %d", i)
		}
		for i, g := range greedy[:2] {
			require.True(t, g.served())
			require.Equal(t, time.Duration(10+11*i)*time.Second, g.at.Sub(began))
		}
		require.False(t, greedy[2].served())
		for _, g := range greedy {
			g.stop()
			<-g.ended
		}
	})
}

func TestKnownRequestsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(2)
		one, two := mustAcquire(t, b, Known, ""), mustAcquire(t, b, Known, "")
		unproven := waits(t, b, Unproven, "somebody")
		first, second := waits(t, b, Known, ""), waits(t, b, Known, "")
		one()
		two()
		time.Sleep(Window)
		require.True(t, first.served())
		require.True(t, second.served())
		require.False(t, unproven.served())
		first.release()
		second.release()
		time.Sleep(Window)
		require.True(t, unproven.served())
	})
}

func TestJoiningMakesWorkMoreUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(2)
		one, two := mustAcquire(t, b, Known, ""), mustAcquire(t, b, Known, "")
		early, joined := waits(t, b, Unproven, "somebody"), waits(t, b, Unproven, "somebody")
		known := waits(t, b, Known, "")
		joined.claim.Join(Known, by("another"))
		require.Equal(t, Known, joined.claim.Class())
		one()
		time.Sleep(Window)
		require.True(t, known.served(), "it was in the queue of known requests first")
		require.False(t, joined.served())
		two()
		time.Sleep(Window)
		require.True(t, joined.served())
		require.False(t, early.served())
		early.stop()
	})
}

func TestClassOfAJoinedClaim(t *testing.T) {
	for _, tc := range []struct{ class, joins, becomes Class }{
		{Ahead, Known, Known},
		{Listing, Known, Known},
		{Unproven, Known, Known},
		{Ahead, Unproven, Unproven},
		{Listing, Unproven, Unproven},
		{Ahead, Ahead, Ahead},
		{Known, Unproven, Known},
		{Known, Ahead, Known},
		{Unproven, Ahead, Unproven},
		{Unproven, Unproven, Unproven},
	} {
		claim := NewBudget(1).NewClaim(tc.class, by("somebody"))
		claim.Join(tc.joins, by("another"))
		require.Equal(t, tc.becomes, claim.Class(), "%d joined by %d", tc.class, tc.joins)
	}
}

// Work that two callers wait for uses whichever turn comes first.
func TestJoinedWorkUsesTheTurnsOfAllItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(10)
		var releases []func()
		for range 5 {
			releases = append(releases, mustAcquire(t, b, Unproven, "greedy"))
		}
		var queue []*someone
		for range 4 {
			queue = append(queue, waits(t, b, Unproven, "greedy"))
		}
		last := waits(t, b, Unproven, "greedy")
		last.claim.Join(Unproven, by("modest"))
		releases[0]()
		time.Sleep(Window)
		require.True(t, queue[0].served(), "the greedy caller's turn came first")
		require.False(t, last.served())
		releases[1]()
		time.Sleep(Window)
		require.True(t, last.served(), "then that of the modest one")
		require.False(t, queue[1].served())
		for _, s := range append(queue, last) {
			s.stop()
			<-s.ended
			if s.release != nil {
				s.release()
			}
		}
		for _, release := range releases {
			release()
		}
		time.Sleep(Window)
		require.Equal(t, 10, b.Left(), "it took one slot, not two")
	})
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	for name, class := range map[string]Class{"known": Known, "unproven": Unproven, "check": Check} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewBudget(1)
				release := mustAcquire(t, b, Known, "")
				gone := waits(t, b, class, "somebody")
				next := waits(t, b, class, "somebody")
				gone.stop()
				<-gone.ended
				require.ErrorIs(t, gone.err, context.Canceled)
				release()
				time.Sleep(Window)
				require.True(t, next.served(), "a waiter who gave up takes no slot")
				next.release()
				time.Sleep(Window)
				require.Equal(t, 1, b.Left())
			})
		})
	}
}

// A second must be left for the request itself. With less, waiting would only turn
// a refusal into a time-out.
func TestAWaitThatWouldTakeTooLongFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1)
		mustAcquire(t, b, Known, "")() // the slot comes free in a minute
		began := time.Now()
		refused := waitsAs(t, b, b.NewClaim(Known, by("")), Window+time.Second-1).refused()
		require.Equal(t, Window, refused.Wait)
		require.Zero(t, time.Since(began), "at once")

		inTime := waitsAs(t, b, b.NewClaim(Known, by("")), Window+time.Second+1)
		require.False(t, inTime.served())
		time.Sleep(Window)
		require.True(t, inTime.served())
	})
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1)
		mustAcquire(t, b, Known, "")()
		began := time.Now()
		unproven := waitsAs(t, b, b.NewClaim(Unproven, by("somebody")), 10*time.Second) // its turn may come before it seems
		require.Equal(t, Window-9*time.Second, unproven.refused().Wait)
		require.Equal(t, 9*time.Second, time.Since(began))
	})
}

func TestAheadAndListingNeverWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1)
		mustAcquire(t, b, Known, "")()
		for _, class := range []Class{Ahead, Listing} {
			began := time.Now()
			require.Equal(t, Window, waits(t, b, class, "").refused().Wait)
			require.Zero(t, time.Since(began))
		}
	})
}

func TestSlotsAreReservedForChecksOfANewKey(t *testing.T) {
	for limit, kept := range map[int]int{1: 0, 19: 0, 20: 2, 100: 2} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewBudget(limit)
				spend(t, b)
				require.Equal(t, kept, b.Left())
				for range kept {
					mustAcquire(t, b, Check, "")()
				}
				_, err := b.Acquire(b.NewClaim(Check, by("")).With(t.Context()))
				require.ErrorContains(t, err, "used up")
			})
		})
	}
}

func TestAReservedSlotIsUsedOnceOrGivenBack(t *testing.T) {
	for name, class := range map[string]Class{"known": Known, "unproven": Unproven} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewBudget(4)
				claim := b.NewClaim(class, by("somebody"))
				require.NoError(t, claim.Reserve(t.Context()))
				require.Equal(t, 3, b.Left())
				claim.Refund()
				claim.Refund()
				require.Equal(t, 4, b.Left(), "a second refund does nothing")

				require.NoError(t, claim.Reserve(t.Context()))
				release, err := b.Acquire(claim.With(t.Context()))
				require.NoError(t, err)
				require.Equal(t, 3, b.Left(), "the request takes the slot that was reserved")
				claim.Refund()
				require.Equal(t, 3, b.Left(), "a used slot cannot be given back")
				retry, err := b.Acquire(claim.With(t.Context()))
				require.NoError(t, err)
				require.Equal(t, 2, b.Left(), "a retry takes another")
				release()
				retry()
				time.Sleep(Window)
				require.Equal(t, 4, b.Left())
			})
		})
	}
}

func TestARefundedSlotGoesToAWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1)
		claim := b.NewClaim(Known, by(""))
		require.NoError(t, claim.Reserve(t.Context()))
		next := waits(t, b, Known, "")
		require.False(t, next.served())
		claim.Refund()
		require.True(t, next.served())
	})
}

func TestTryAcquireNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(2)
		one, ok := b.TryAcquire()
		require.True(t, ok)
		two, ok := b.TryAcquire()
		require.True(t, ok)
		_, ok = b.TryAcquire()
		require.False(t, ok)
		one()
		two()
		time.Sleep(Window)
		_, ok = b.TryAcquire()
		require.True(t, ok)
	})
}

// A thousand callers who wait at once all get their turn or an error, and every
// slot comes free again.
func TestEverySlotComesFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(10)
		var group sync.WaitGroup
		for i := range 1000 {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Second)
				defer cancel()
				claim := b.NewClaim([]Class{Known, Unproven}[i%2], by(strconv.Itoa(i%7)))
				if i%5 == 0 {
					time.AfterFunc(time.Duration(i)*100*time.Millisecond, func() { claim.Join(Known, by("another")) })
				}
				if release, err := b.Acquire(claim.With(ctx)); err == nil {
					time.Sleep(time.Second)
					release()
				}
			})
		}
		group.Wait()
		time.Sleep(Window)
		require.Equal(t, 10, b.Left())
		require.Zero(t, b.NextFree())
	})
}

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
