package pace

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// turnsOf uses up a limit of 10, and has one request for each of the names wait. It
// returns the names in the order in which slots that come free go to them.
func turnsOf(t *testing.T, b *Budget, class Class, names ...string) []string {
	t.Helper()
	for range 10 { // one comes free each second
		if release, err := b.Acquire(b.NewClaim(class, by("")).With(t.Context())); err == nil {
			release()
		}
		time.Sleep(time.Second)
	}
	waiting := make([]*someone, len(names))
	for i, name := range names {
		waiting[i] = passes(t, b, class, name)
	}
	at := func(i int) time.Time { <-waiting[i].ended; return waiting[i].at }
	var order []int
	for i := range names {
		order = append(order, i)
	}
	slices.SortFunc(order, func(i, j int) int { return at(i).Compare(at(j)) })
	var got []string
	for _, i := range order {
		require.NoError(t, waiting[i].err)
		got = append(got, names[i])
	}
	return got
}

// A caller who names many users gets no more turns for that. Within a caller, users take
// turns.
func TestTurnsGoByCallerFirstAndByUserWithinIt(t *testing.T) {
	for name, class := range map[string]Class{"known": Known, "unproven": Unproven} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				require.Equal(t, []string{"shop/a", "other", "third", "shop/b", "other", "shop/c", "shop/a", "shop/a"},
					turnsOf(t, NewBudget(10), class, "shop/a", "shop/a", "shop/a", "shop/b", "shop/c", "other", "other", "third"))
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // the same user of two callers, and a caller with and without one
		require.Equal(t, []string{"shop/a", "desk/a", "shop", "desk/a", "shop/a", "shop"},
			turnsOf(t, NewBudget(10), Known, "shop/a", "shop/a", "shop", "shop", "desk/a", "desk/a"))
	})
}

// Users of one caller share what the caller may have, as callers share the budget. One
// who takes all there is to get leaves a third to others, and takes nothing from other
// callers.
func TestAUserLeavesSlotsToOthersOfTheCaller(t *testing.T) {
	for limit, want := range map[int][]int{100: {44, 15, 5}, 400: {177, 59, 20}} {
		b := NewBudget(limit)
		var got []int
		for _, user := range []string{"greedy", "another", "third"} {
			got = append(got, takeAll(t, b, Known, "shop/"+user))
		}
		require.Equal(t, want, got)
		require.Zero(t, takeAll(t, b, Known, "shop/greedy"))
		mustAcquire(t, b, Known, "shop/newcomer")()
		mustAcquire(t, b, Known, "shop")()
		require.Greater(t, takeAll(t, b, Known, "other"), limit/8)
	}
	for _, users := range []int{1, 10, 1000} { // invented ones
		b := NewBudget(100)
		for i := range users {
			takeAll(t, b, Known, fmt.Sprint("shop/", i))
		}
		require.LessOrEqual(t, b.Used(), 66, "%d users", users)
	}
	for limit, most := range map[int]int{0: 1000, 19: 19} { // no limit, or too few to share
		b := NewBudget(limit)
		for range most {
			mustAcquire(t, b, Known, "shop/greedy")()
		}
	}
}

// What was released counts no longer, and a changed limit counts for those who have many.
func TestSharesOfUsersAreCountedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		for range 3 {
			require.Equal(t, 44, takeAll(t, b, Known, "shop/greedy"))
			b.SetLimit(400)
			b.SetLimit(100)
			time.Sleep(Window)
			require.Zero(t, b.Used())
			b.Do(func(time.Time) {
				require.Empty(t, b.ofKnown.of)
				require.Zero(t, b.ofKnown.many)
			})
		}
	})
}

// One user who guesses leaves room in the queue to other users of the caller, and a
// caller who invents users has no longer a queue.
func TestQueuesOfUnprovenRequestsAreForAllUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(100)
		for range 50 { // all slots for unproven requests
			mustAcquire(t, b, Unproven, "")()
		}
		queued := map[string]int{}
		queues := func(name string) bool {
			mayQueue := false
			claim := b.NewClaim(Unproven, by(name))
			b.Do(func(time.Time) {
				if mayQueue = claim.MayQueue(); mayQueue {
					b.unproven.Add(claim, func() { claim.Leave(); claim.GiveBack() })
				}
			})
			if mayQueue {
				queued[by(name).Name]++
			}
			return mayQueue
		}
		for queues("shop/greedy") {
		}
		require.Equal(t, 34, queued["shop"])
		require.True(t, queues("shop/newcomer"))
		for i := range 1000 {
			queues(fmt.Sprint("shop/", i))
		}
		require.Equal(t, 50, queued["shop"])
		require.True(t, queues("other"))
	})
}

// A caller who invents users does not keep others from lending a piece of work their
// turns.
func TestInventedUsersDoNotFillAClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(10)
		for range 10 { // one comes free each second
			mustAcquire(t, b, Known, "")()
			time.Sleep(time.Second)
		}
		var before []*someone
		for range 20 {
			before = append(before, passes(t, b, Known, "shop/0"))
		}
		shared := waits(t, b, Known, "shop/0")
		for i := range 1000 {
			shared.claim.Join(Known, by(fmt.Sprint("shop/", i)))
		}
		shared.claim.Join(Known, by("other"))
		<-shared.ended
		shared.release()
		require.True(t, before[0].served())
		require.False(t, before[1].served())
		for _, s := range before {
			<-s.ended
		}
	})
}
