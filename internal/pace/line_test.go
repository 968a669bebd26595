package pace

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// takeAll takes as many slots for requests of a class and caller as it can have at once.
func takeAll(t *testing.T, b *Budget, class Class, caller string) (taken int) {
	t.Helper()
	for {
		release, err := b.Acquire(b.NewClaim(class, by(caller)).With(t.Context()))
		if err != nil {
			return taken
		}
		release()
		taken++
	}
}

// A caller who takes all it can get leaves a third to others. One who comes later gets a
// part of that, and leaves some, too. That is enough for fetches ahead.
func TestACallerLeavesSlotsToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		require.Equal(t, 66, takeAll(t, b, Known, "greedy")) // of 98
		mustAcquire(t, b, Ahead, "")()
		mustAcquire(t, b, Unproven, "somebody")()
		require.Equal(t, 15, takeAll(t, b, Known, "another"))
		require.Equal(t, 15, b.Left()-checkSlots)
		require.Zero(t, takeAll(t, b, Known, "greedy"))
		mustAcquire(t, b, Known, "newcomer")()
		require.Equal(t, 14, takeAll(t, b, Known, ""), "the engine itself may take the rest")
		time.Sleep(Window)
		require.Equal(t, 66, takeAll(t, b, Known, "another"))
	})
	for limit, most := range map[int]int{0: 1000, 1: 1, 19: 19} { // no limit, or too few to share
		b := NewBudget(limit)
		for range most {
			mustAcquire(t, b, Known, "greedy")()
		}
	}
}

// Callers who all take what they can get leave a third to others together. Callers with few requests each may use nearly all.
func TestCallersWhoTakeAllTheyCanShareTwoThirds(t *testing.T) {
	for limit, left := range map[int]int{100: 32, 400: 132} { // of 98, and of 398
		for callers := 1; callers <= 6; callers++ {
			b := NewBudget(limit)
			for taken := -1; taken != b.Used(); {
				taken = b.Used()
				for i := range callers { // in turn
					if release, err := b.Acquire(b.NewClaim(Known, by(fmt.Sprint("greedy ", i))).With(t.Context())); err == nil {
						release()
					}
				}
			}
			require.InDelta(t, left, b.Left()-checkSlots, float64(callers), "limit %d, %d callers", limit, callers)
			modest := fmt.Sprint("modest ", limit)
			for range limit / fewSlots {
				mustAcquire(t, b, Known, modest)()
			}
		}
	}
	b := NewBudget(100)
	for i := range 96 {
		mustAcquire(t, b, Known, fmt.Sprint("caller ", i%24))()
	}
}

// A caller's other requests do not count for known ones. So a program that guesses ids does
// not stop others that log in as the same entity.
func TestOtherRequestsDoNotCountForKnownOnes(t *testing.T) {
	for class, taken := range map[Class]int{Unproven: 32, Listing: 50} {
		b := NewBudget(100)
		for range taken {
			mustAcquire(t, b, class, "somebody")()
		}
		require.Equal(t, (98-taken)*2/3, takeAll(t, b, Known, "somebody"), "%d", class)
	}
}

// What was never seen to exist has a half of the limit, which is shared in the same way.
func TestUnprovenRequestsLeaveSlotsToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		require.Equal(t, 34, takeAll(t, b, Unproven, "greedy")) // of 50
		require.Equal(t, 10, takeAll(t, b, Unproven, "another"))
		mustAcquire(t, b, Known, "greedy")()
		b = NewBudget(100)
		require.Equal(t, 23, takeAll(t, b, Unproven, "shop/greedy"))
		require.Equal(t, 7, takeAll(t, b, Unproven, "shop/another"))
		mustAcquire(t, b, Unproven, "shop/modest")()
		mustAcquire(t, b, Unproven, "newcomer")()
	})
}

// The requests of a caller who has had enough wait, and nobody waits for them.
func TestWaitersWhoHadEnoughDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		takeAll(t, b, Known, "greedy")
		time.Sleep(time.Second)
		var greedy []*someone
		for range 50 {
			greedy = append(greedy, passes(t, b, Known, "greedy"))
		}
		require.False(t, greedy[0].served())
		for i := range 20 {
			mustAcquire(t, b, Known, fmt.Sprint("modest ", i))()
		}
		time.Sleep(Window - time.Second)
		require.True(t, greedy[49].served(), "a minute later")
	})
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		takeAll(t, b, Known, "greedy")
		waiting := waits(t, b, Known, "greedy")
		mustAcquire(t, b, Unproven, "somebody")()
		waiting.stop()
	})
}

// Callers of known requests take turns, however many of them each has.
func TestCallersOfKnownRequestsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(10)
		for range 10 { // a slot comes free each second
			mustAcquire(t, b, Known, "")()
			time.Sleep(time.Second)
		}
		var greedy []*someone
		for range 20 {
			greedy = append(greedy, passes(t, b, Known, "greedy"))
		}
		one, two := passes(t, b, Known, "one"), passes(t, b, Known, "two")
		joined := waits(t, b, Known, "greedy")
		joined.claim.Join(Known, by("three"))
		began := time.Now()
		for i, s := range []*someone{greedy[0], one, two, joined, greedy[1]} {
			<-s.ended
			require.Equal(t, time.Duration(50+i)*time.Second, s.at.Sub(began), "%d", i)
		}
		joined.release()
		for _, g := range greedy {
			<-g.ended
		}
	})
}
