package fetch

import (
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// A panic while an answer is taken note of costs nobody who waits more than that answer.
func TestAPanicAfterAnAnswer(t *testing.T) {
	bubble(t, 400, func(_ *testing.T, f *fetcher) { // of a page
		f.answersTake(list, time.Second)
		f.answersTake(account, 2*time.Second)
		var readers []*reader
		for i := range 50 {
			readers = append(readers, f.wants(id(i)))
		}
		memory := f.fleet.memory
		f.budget.Do(func(time.Time) { f.fleet.memory = nil }) // accounts of the page that nobody waits for are put there
		time.Sleep(time.Second + time.Second/2)
		f.budget.Do(func(time.Time) { f.fleet.memory = memory })
		for i, r := range readers {
			f.served(r, id(i))
		}
		f.isIdle()
	})
	bubble(t, 1, func(_ *testing.T, f *fetcher) { // of one account
		index := f.fleet.index
		f.answersTake(account, time.Second)
		r := f.wants(id(0))
		f.budget.Do(func(time.Time) { f.fleet.index = nil })
		<-r.ended
		synctest.Wait()
		f.budget.Do(func(time.Time) { f.fleet.index = index })
		f.get(id(0))
		f.isIdle()
	})
}

// held returns a failure that holds everything off.
func held(kind api.Kind, wait time.Duration) backoff.Failure {
	return backoff.Failure{Err: &api.Error{Kind: kind, Wait: wait}, Least: wait}
}

// Whichever request finds that everything is to be held off, those who wait for their
// turn are told at once, unless they can wait for the end of a 429.
func TestThoseInLineAreToldOfAHoldOff(t *testing.T) {
	for name, tc := range map[string]struct {
		failure backoff.Failure
		stay    bool
	}{
		"a 429 for longer than they can wait":   {held(api.Throttled, time.Minute), false},
		"a 429 whose end they can wait for":     {held(api.Throttled, 3*time.Second), true},
		"a refused key":                         {held(api.KeyRefused, 3*time.Second), false},
		"another 429 whose end comes in time":   {held(api.Throttled, 15*time.Second), true},
		"another 429 that ends with their time": {held(api.Throttled, timeout), false},
	} {
		for class, name2 := range map[pace.Class]string{pace.Known: "known", pace.Unproven: "unproven"} {
			t.Run(name+", "+name2, func(t *testing.T) {
				bubble(t, 400, func(t *testing.T, f *fetcher) {
					f.usedUp()
					var readers []*reader
					for i := range 5 {
						readers = append(readers, f.wantsFor(t.Context(), strconv.Itoa(i), class, id(i), time.Time{}))
					}
					synctest.Wait()
					began := time.Now()
					f.holdOffs.FailedAll(tc.failure) // as the transport does for a search
					f.budget.Do(func(time.Time) {})
					for i, r := range readers {
						<-r.ended
						if tc.stay {
							f.served(r, id(i))
							require.GreaterOrEqual(t, time.Since(began), tc.failure.Least)
						} else {
							require.Equal(t, api.KindOf(tc.failure.Err), api.KindOf(r.err))
							require.Less(t, time.Since(began), time.Second)
						}
					}
					f.isIdle()
				})
			})
		}
	}
}

func TestThoseInLineAreToldAtOnceOfAKeyThatASearchFoundRefused(t *testing.T) {
	bubble(t, 400, func(t *testing.T, f *fetcher) {
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Status: http.StatusUnauthorized, Delay: 3 * time.Second})
		f.budget.SetLimit(30)
		for range 27 {
			release, ok := f.budget.TryAcquire()
			require.True(t, ok)
			release()
		}
		time.Sleep(50 * time.Second)
		go f.client.Search(t.Context(), api.Filter{App: "github"}) //nolint:errcheck // its outcome is what the others hear
		synctest.Wait()
		began := time.Now()
		r := f.wantsFor(t.Context(), "caller", pace.Known, id(0), time.Time{})
		<-r.ended
		require.Equal(t, api.KeyRefused, api.KindOf(r.err))
		require.Equal(t, 3*time.Second, time.Since(began).Round(time.Second))
	})
}

// What was not sent because of a 429 says nothing about the list.
func TestPagesThatA429HeldBack(t *testing.T) {
	bubble(t, 400, func(t *testing.T, f *fetcher) {
		f.fetchFirstPage()
		time.Sleep(5 * time.Minute)
		f.holdOffs.FailedAll(held(api.Throttled, 3*time.Second))
		f.fetchFirstPage()
		f.fetchFirstPage()
		time.Sleep(5 * time.Second)
		require.True(t, f.ListWorks())
	})
	bubble(t, 400, func(t *testing.T, f *fetcher) {
		f.fetchFirstPage()
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Status: http.StatusTooManyRequests, Times: 2})
		f.fetchFirstPage()
		time.Sleep(time.Minute)
		f.fetchFirstPage()
		require.False(t, f.ListWorks(), "two in a row")
	})
}

// What concerns very many is done some at a time, so that others get the lock between.
func TestWhatConcernsManyIsDoneSomeAtATime(t *testing.T) {
	bubble(t, 0, func(t *testing.T, f *fetcher) {
		f.answersTake(account, time.Minute)
		var due []Due
		for i := range 5 * manyAtOnce / 2 {
			due = append(due, Due{ID: fmt.Sprint("apn_due", i), By: time.Now().Add(time.Hour)})
		}
		f.Ahead(due...)
		var done atomic.Int32
		f.budget.Do(func(time.Time) { f.forAll(func(*Want, time.Time) { done.Add(1) }) })
		var steps []int
		for range 3 {
			synctest.Wait()
			steps = append(steps, int(done.Load()))
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, []int{manyAtOnce, 2 * manyAtOnce, len(due)}, steps)
		f.Close()
		time.Sleep(time.Second)
		f.isIdle()
	})
}

// A fetch failed after a reader looked, and before it asks. It is told of that failure, and
// what it wants is not asked for again.
func TestAnAccountThatFailedSinceItsReaderLooked(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fetcher) {
		looked := time.Now()
		time.Sleep(time.Second)
		f.holdOffs.Failed(id(0), backoff.Failure{Err: &api.Error{Kind: api.NotFound}, Lasting: true})
		r := f.wantsAs(t.Context(), pace.Known, id(0), looked)
		<-r.ended
		require.Equal(t, api.NotFound, api.KindOf(r.err))
		f.costs(0, 0)

		r = f.wantsAs(t.Context(), pace.Known, id(0), time.Now()) // who looks now decides otherwise
		f.served(r, id(0))
		f.isIdle()
	})
}
