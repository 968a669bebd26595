package fetch

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// A list that does not say how long it is, and brings nobody who waits, is given up.
func TestAListOfUnknownLengthThatBringsNobody(t *testing.T) {
	for _, first := range []int{0, 100, 388} {
		t.Run(fmt.Sprintf("from account %d", first), func(t *testing.T) {
			bubble(t, 400, func(t *testing.T, f *fetcher) {
				f.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, NoTotalCount: true, Delay: 50 * time.Millisecond})
				f.answersTake(pipedreamtest.KindAccount, 50*time.Millisecond)
				var readers []*reader
				for i := range 12 {
					readers = append(readers, f.wantsFor(t.Context(), "a", pace.Known, id(first+i), time.Time{}))
				}
				for i, r := range readers {
					f.served(r, id(first+i))
				}
				synctest.Wait()
				require.LessOrEqual(t, len(f.sim.Requests()), 20)
			})
		})
	}
	bubble(t, 400, func(t *testing.T, f *fetcher) { // nobody waits
		f.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, NoTotalCount: true, Delay: 50 * time.Millisecond})
		f.answersTake(pipedreamtest.KindAccount, 50*time.Millisecond)
		var due []Due
		for i := range 20 {
			due = append(due, Due{ID: id(380 + i), By: time.Now()})
		}
		f.Ahead(due...)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 20, f.sim.Count(pipedreamtest.KindAccount))
		require.LessOrEqual(t, f.sim.Count(pipedreamtest.KindList), 3)
		f.Close()
	})
}

// What is due and not in the list does not have the list fetched twice.
func TestAccountsAheadThatTheListLacks(t *testing.T) {
	bubble(t, 1000, func(t *testing.T, f *fetcher) {
		f.answersTake(pipedreamtest.KindList, 50*time.Millisecond)
		var due []Due
		for i := range 20 {
			due = append(due, Due{ID: id(40 * i), By: time.Now()})
			due = append(due, Due{ID: fmt.Sprintf("apn_gone%d", i), By: time.Now()})
		}
		f.Ahead(due...)
		time.Sleep(30 * time.Second)
		require.LessOrEqual(t, f.sim.Count(pipedreamtest.KindList), 11)
		f.Close()
	})
}

// usedUp has the budget used up, with a slot that comes free each second from now on.
func (f *fetcher) usedUp() {
	time.Sleep(5 * time.Minute)
	f.budget.SetLimit(30)
	for range 28 {
		release, ok := f.budget.TryAcquire()
		require.True(f, ok)
		release()
		time.Sleep(time.Second)
	}
	time.Sleep(32*time.Second - 500*time.Millisecond)
}

// Whoever asks for a newer answer, as refresh/ does, does not cost those who wait their
// turn.
func TestARefreshCostsNobodyTheirTurn(t *testing.T) {
	bubble(t, 1000, func(t *testing.T, f *fetcher) {
		f.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		f.usedUp()
		others := 0
		other := func() {
			others++
			f.wantsFor(t.Context(), fmt.Sprint("other", others), pace.Known, id(others), time.Time{})
			synctest.Wait()
		}
		other()
		other()
		victim := f.wantsFor(t.Context(), "victim", pace.Known, id(900), time.Time{})
		synctest.Wait()
		for range 25 {
			time.Sleep(900 * time.Millisecond)
			other()
			select {
			case <-victim.ended:
			default:
				f.wantsFor(t.Context(), "who refreshes", pace.Known, id(900), time.Now())
			}
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		f.served(victim, id(900))
		require.LessOrEqual(t, victim.took, 5*time.Second)
	})
}

// One user of a caller holds up neither the caller's other users nor other callers.
func TestAGreedyUserHoldsUpNoOthersOfTheCaller(t *testing.T) {
	bubble(t, 1000, func(t *testing.T, f *fetcher) {
		f.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		f.usedUp()
		wants := func(i int, caller, user string) *Want {
			return f.Want(id(i), Wish{Caller: caller, User: user, Until: time.Now().Add(timeout)})
		}
		var greedy []*Want
		for i := range 15 {
			greedy = append(greedy, wants(i, "shop", "greedy"))
		}
		began := time.Now()
		for _, w := range []*Want{wants(100, "shop", "modest"), wants(200, "shop", ""), wants(300, "other", "greedy")} {
			<-w.Done
			require.NoError(t, w.Failed)
			require.LessOrEqual(t, time.Since(began), 5*time.Second, w.ID)
			w.Leave()
		}
		for _, w := range greedy {
			<-w.Done
			w.Leave()
		}
	})
}

// Failures of long ago do not count for an outage of now.
func TestOldFailuresAreNoOutage(t *testing.T) {
	bubble(t, 400, func(_ *testing.T, f *fetcher) {
		remove := f.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: http.StatusServiceUnavailable})
		for i := range 3 {
			<-f.wants(id(i)).ended
		}
		remove()
		time.Sleep(6 * time.Hour)
		f.sim.AddFault(pipedreamtest.Fault{AccountID: id(10), Status: http.StatusServiceUnavailable, Delay: 10 * time.Millisecond})
		bad := f.wants(id(10))
		var readers []*reader
		for i := 20; i < 25; i++ {
			readers = append(readers, f.wants(id(i)))
		}
		<-bad.ended
		for i, r := range readers {
			f.served(r, id(20+i))
		}
	})
}

// A panic while an outcome is delivered costs those who wait for it, and nobody after.
func TestAPanicBlocksNoAccount(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fetcher) {
		first := true
		f.DeliverTo(func(w *Want) {
			if first {
				first = false
				panic("once")
			}
			w.Deliver(fetched{w.Account, w.At}, w.Err)
		})
		r := f.wants(id(0))
		<-r.ended
		require.Error(t, r.err)
		f.served(f.wants(id(0)), id(0))
	})
}

// Accounts connected after the whole list was seen are taken for guesses, and most readers
// are told to come again. That they wanted them counts once the first one exists.
func TestNewAccountsOfManyCallers(t *testing.T) {
	for name, guesses := range map[string]int{"nobody guessed": 0, "somebody guessed for long": maxIndexed + 1000} {
		t.Run(name, func(t *testing.T) { testNewAccounts(t, guesses) })
	}
}

func testNewAccounts(t *testing.T, guesses int) {
	t.Helper()
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		f.takeStock()
		synctest.Wait()
		for i := range guesses {
			guess := f.Want(fmt.Sprint("apn_guess_", i), Wish{Class: pace.Unproven, Caller: "somebody", Until: time.Now().Add(timeout)})
			guess.Leave()
		}
		time.Sleep(time.Hour)
		f.sim.ResetRequests()
		for i := 100; i < 600; i++ {
			f.sim.SetAccount(pipedreamtest.Account{ID: id(i), TokenLife: time.Hour})
		}
		f.sim.AddFault(pipedreamtest.Fault{TotalCount: []byte("20000"), Delay: 50 * time.Millisecond})
		var refused, served atomic.Int64
		var readers sync.WaitGroup
		for i := 100; i < 600; i++ {
			caller := fmt.Sprint("caller ", i%20)
			readers.Go(func() {
				r := f.wantsFor(t.Context(), caller, f.Class(id(i), false), id(i), time.Time{})
				if <-r.ended; r.err != nil {
					refused.Add(1)
					assert.Equal(t, api.Busy, api.KindOf(r.err), "there is no limit to blame")
				} else {
					served.Add(1)
				}
			})
		}
		readers.Wait()
		require.Positive(t, refused.Load())
		require.Positive(t, served.Load())
		require.LessOrEqual(t, f.sim.Count(account), 3*MaxSingles)
		require.LessOrEqual(t, f.sim.Count(list), 7) // the last one is empty
		time.Sleep(3 * time.Minute)
		f.isIdle()
	})
}

// A caller who has had enough is refused an account. Somebody else who wants it at the same
// moment is not.
func TestARefusalIsForOneCallerAlone(t *testing.T) {
	for class, queue := range map[pace.Class]int{pace.Known: 0, pace.Unproven: 50} { // known ones in a queue would have the list fetched
		t.Run(fmt.Sprint("class ", class), func(t *testing.T) {
			bubble(t, 100, func(t *testing.T, f *fetcher) {
				f.budget.SetLimit(100)
				for {
					ctx := f.budget.NewClaim(class, pace.Caller{Name: "greedy"}).With(t.Context())
					release, err := f.budget.Acquire(ctx)
					if err != nil {
						break
					}
					release()
				}
				for i := range queue {
					f.Want(id(i), Wish{Class: class, Caller: "greedy", Until: time.Now().Add(timeout)})
				}
				for i := 60; i < 65; i++ {
					greedy := f.Want(id(i), Wish{Class: class, Caller: "greedy", Until: time.Now().Add(timeout)})
					other := f.Want(id(i), Wish{Class: class, Caller: "somebody else", Until: time.Now().Add(timeout)})
					<-greedy.Done
					require.Equal(t, api.NoBudget, api.KindOf(greedy.Failed))
					<-other.Done
					require.NoError(t, other.Failed)
				}
			})
		})
	}
}
