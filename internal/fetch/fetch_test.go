package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	account = pipedreamtest.KindAccount
	list    = pipedreamtest.KindList
)

func TestAFewAccountsAreAskedForOneByOneAtOnce(t *testing.T) {
	bubble(t, 300, func(t *testing.T, f *fetcher) {
		f.answersTake(account, time.Second)
		began := time.Now()
		f.getAll(MaxSingles)
		require.Equal(t, time.Second, time.Since(began))
		f.costs(MaxSingles, 0)
		f.isIdle()
	})
}

func TestManyAccountsAreFetchedByTheList(t *testing.T) {
	bubble(t, 300, func(_ *testing.T, f *fetcher) {
		f.answersTake(account, time.Second)
		f.answersTake(list, time.Second)
		f.getAll(300)
		f.costs(MaxSingles, 3)
		f.isIdle()
	})
}

// The fetch of the list stops once more pages are left than accounts were wanted.
func TestALongListIsLeftWhenNothingMoreIsWanted(t *testing.T) {
	for name, tc := range map[string]struct {
		total string
		pages int
	}{
		"as many pages as were wanted": {"3100", 1},
		"fewer":                        {"1000", 10},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1000, func(_ *testing.T, f *fetcher) {
				f.answersTake(account, time.Second)
				f.sim.AddFault(pipedreamtest.Fault{Kind: list, Delay: 100 * time.Millisecond, TotalCount: []byte(tc.total)})
				f.getAll(30) // all on the first page
				time.Sleep(10 * time.Second)
				f.costs(MaxSingles, tc.pages)
				f.isIdle()
			})
		})
	}
}

func TestReadersOfAnAccountShareOneRequest(t *testing.T) {
	bubble(t, 1, func(_ *testing.T, f *fetcher) {
		f.answersTake(account, time.Second)
		var readers []*reader
		for range 1000 {
			readers = append(readers, f.wantsAs(f.Context(), pace.Known, id(0), time.Time{}))
		}
		for _, r := range readers {
			f.served(r, id(0))
		}
		f.costs(1, 0)
	})
}

func TestAReadJustAfterAPageNeedsNoRequest(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		require.NoError(t, f.Prefetch(t.Context(), ""))
		asked := time.Now()
		f.costs(0, 1)
		time.Sleep(30 * time.Second)
		r := f.wants(id(7))
		f.served(r, id(7))
		require.Equal(t, asked, r.at, "it is as of when the page was asked for")
		f.costs(0, 0)

		f.get(id(7)) // it was taken from the page already
		f.costs(1, 0)
		f.served(f.wantsAs(t.Context(), pace.Known, id(8), asked), id(8)) // the page is not newer
		f.costs(1, 0)
		time.Sleep(time.Minute)
		f.get(id(9))
		f.costs(1, 0)
		f.isIdle()
	})
}

// A page is remembered for as long as the list takes, plus a minute.
func TestAPageOfALongListIsRememberedForLonger(t *testing.T) {
	bubble(t, 300, func(t *testing.T, f *fetcher) {
		f.budget.SetLimit(2) // so that three pages take three minutes
		require.NoError(t, f.Prefetch(t.Context(), ""))
		require.Equal(t, 3*time.Minute, f.ListTime())
		time.Sleep(4*time.Minute - time.Second)
		f.get(id(0))
		time.Sleep(time.Second)
		f.costs(0, 1)
		f.get(id(1))
		f.costs(1, 0)
	})
}

func TestAReaderWaitsForThePageThatIsUnderWay(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		require.NoError(t, f.Prefetch(t.Context(), "")) // so that the index knows the page
		f.get(id(0))
		time.Sleep(2 * time.Minute)
		f.costs(0, 1)

		f.answersTake(list, time.Second)
		// 1. The page is asked for. 2. One reader wants an account that was on it last time,
		// and another one wants a newer account than the page will have. 3. The page comes.
		before := time.Now()
		page := make(chan error)
		go func() { page <- f.Prefetch(t.Context(), "") }()
		time.Sleep(100 * time.Millisecond)
		old, fresh := f.wants(id(0)), f.wantsAs(t.Context(), pace.Known, id(1), time.Now())
		f.served(fresh, id(1))
		require.Equal(t, 100*time.Millisecond, time.Since(before), "it did not wait")
		f.served(old, id(0))
		require.Equal(t, before, old.at)
		require.NoError(t, <-page)
		f.costs(1, 1)
		f.isIdle()
	})
}

// A queued reader who wants a newer account than the page has gets a request of
// their own.
func TestAPageThatIsTooOldDoesNotServeAReader(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		f.answersTake(account, time.Second)
		f.answersTake(list, 500*time.Millisecond)
		page := make(chan error)
		go func() { page <- f.Prefetch(t.Context(), "") }()
		time.Sleep(100 * time.Millisecond)
		for i := range MaxSingles {
			f.wantsAs(t.Context(), pace.Known, id(i), time.Now())
		}
		synctest.Wait() // all places are taken
		wanted := time.Now()
		queues := f.wantsAs(t.Context(), pace.Known, id(20), wanted)
		other := f.wants(id(21))
		require.NoError(t, <-page)
		f.served(other, id(21))
		f.served(queues, id(20))
		require.True(t, queues.at.After(wanted))
		require.Equal(t, 2*time.Second, queues.took, "after one of the others")
		f.costs(MaxSingles+1, 1)
	})
}

// A page that has an account without credentials does not serve its reader.
func TestAnAccountWithoutCredentialsOnItsPageIsAskedForByItself(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		require.NoError(t, f.Prefetch(t.Context(), ""))
		time.Sleep(5 * time.Minute)
		f.costs(0, 1)
		f.sim.Update(id(0), func(a *pipedreamtest.Account) { a.NoCredentials = true })
		f.answersTake(list, time.Second)
		page := make(chan error)
		go func() { page <- f.Prefetch(t.Context(), "") }()
		time.Sleep(100 * time.Millisecond)
		bare := f.wants(id(0))
		require.NoError(t, <-page)
		<-bare.ended
		require.NoError(t, bare.err)
		require.Empty(t, bare.account.Credentials)
		f.costs(1, 1)
		_, known := f.Page(id(0))
		require.False(t, known)
		f.isIdle()
	})
}

func TestReadersOfAPageThatFailsAreServedWithoutIt(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		require.NoError(t, f.Prefetch(t.Context(), ""))
		time.Sleep(5 * time.Minute)
		f.costs(0, 1)
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Delay: time.Second, Status: http.StatusBadGateway})
		page := make(chan error)
		go func() { page <- f.Prefetch(t.Context(), "") }()
		time.Sleep(100 * time.Millisecond)
		r := f.wants(id(0))
		require.Equal(t, api.Unavailable, api.KindOf(<-page))
		f.served(r, id(0))
		require.Equal(t, 900*time.Millisecond, r.took)
		f.costs(1, 1)
		f.isIdle()
	})
}

func TestAnAccountThatLeftItsPageIsAskedForByItself(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		require.NoError(t, f.Prefetch(t.Context(), ""))
		time.Sleep(5 * time.Minute)
		f.costs(0, 1)
		f.sim.DeleteAccount(id(0))
		f.answersTake(list, time.Second)
		page := make(chan error)
		go func() { page <- f.Prefetch(t.Context(), "") }()
		time.Sleep(100 * time.Millisecond)
		gone := f.wants(id(0))
		require.NoError(t, <-page)
		<-gone.ended
		require.Equal(t, api.NotFound, api.KindOf(gone.err))
		_, known := f.Page(id(0))
		require.False(t, known)
		f.costs(1, 1)
		f.isIdle()
	})
}

// An account that the list lacks, or has without credentials, is asked for by
// itself.
func TestAnAccountThatTheListLacksIsAskedForByItself(t *testing.T) {
	bubble(t, 250, func(t *testing.T, f *fetcher) {
		f.answersTake(account, 500*time.Millisecond)
		f.answersTake(list, 100*time.Millisecond)
		f.sim.Update(id(40), func(a *pipedreamtest.Account) { a.NoCredentials = true })
		var readers []*reader
		for i := range 60 {
			readers = append(readers, f.wants(id(i)))
		}
		missing, hidden := f.wants("apn_missing"), readers[40]
		for i, r := range readers {
			if r != hidden {
				f.served(r, id(i))
			}
		}
		<-hidden.ended
		require.NoError(t, hidden.err)
		require.Empty(t, hidden.account.Credentials)
		<-missing.ended
		require.Equal(t, api.NotFound, api.KindOf(missing.err))
		f.costs(MaxSingles+2, 3)
		f.isIdle()
	})
}

func TestAUselessListIsNotTriedAgainForAWhile(t *testing.T) {
	for name, tc := range map[string]struct {
		fault   pipedreamtest.Fault
		without bool // whether all accounts are without credentials
		again   time.Duration
	}{
		"it is refused":              {fault: pipedreamtest.Fault{Status: http.StatusForbidden}, again: listUselessFor},
		"it does not exist":          {fault: pipedreamtest.Fault{Status: http.StatusNotFound}, again: listUselessFor},
		"it is rejected":             {fault: pipedreamtest.Fault{Status: http.StatusUnprocessableEntity}, again: listUselessFor},
		"it fails":                   {fault: pipedreamtest.Fault{Status: http.StatusBadGateway}, again: listFailedFor},
		"it is nonsense":             {fault: pipedreamtest.Fault{Garbage: true}, again: listFailedFor},
		"it has no credentials":      {without: true, again: listUselessFor},
		"it has none that is wanted": {fault: pipedreamtest.Fault{Status: http.StatusOK, Body: `{"page_info":{"total_count":1},"data":[{"id":"apn_x","credentials":{"a":1}}]}`}, again: listFailedFor},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 40, func(t *testing.T, f *fetcher) {
				f.answersTake(account, 100*time.Millisecond)
				fault := tc.fault
				fault.Kind = list
				if tc.without {
					for i := range 40 {
						f.sim.Update(id(i), func(a *pipedreamtest.Account) { a.NoCredentials = true })
					}
				} else {
					f.sim.AddFault(fault)
				}
				everybody := func() {
					var readers []*reader
					for i := range 40 {
						readers = append(readers, f.wantsAs(t.Context(), pace.Known, id(i), time.Now()))
					}
					for i, r := range readers {
						<-r.ended
						require.NoError(t, r.err, id(i))
					}
				}
				everybody()
				f.costs(40, 1)
				ended := time.Now()
				time.Sleep(tc.again - time.Minute/2)
				everybody()
				f.costs(40, 0)
				time.Sleep(time.Until(ended.Add(tc.again)) + time.Second)
				everybody()
				f.costs(40, 1)
				f.isIdle()
			})
		})
	}
}

func TestSlowAccountsHoldUpNobodyElse(t *testing.T) {
	bubble(t, 20, func(t *testing.T, f *fetcher) {
		for i := range MaxSingles {
			f.sim.AddFault(pipedreamtest.Fault{Kind: account, AccountID: id(i), Hang: true})
			f.wants(id(i))
		}
		r := f.wants(id(10))
		f.served(r, id(10))
		require.Equal(t, slowAfter, r.took)
	})
}

func TestAReaderWhoGivesUpInTheQueueCostsNoRequest(t *testing.T) {
	bubble(t, 20, func(t *testing.T, f *fetcher) {
		f.answersTake(account, time.Second)
		for i := range MaxSingles {
			f.wants(id(i))
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := f.wantsAs(ctx, pace.Known, id(10), time.Time{})
		other := f.wantsAs(ctx, pace.Known, id(11), time.Time{})
		stays := f.wants(id(11))
		cancel()
		<-gone.ended
		<-other.ended
		require.ErrorIs(t, gone.err, context.Canceled)
		f.served(stays, id(11))
		time.Sleep(time.Minute)
		f.costs(MaxSingles+1, 0)
		f.isIdle()
	})
}

func TestAnAccountThatComesTooLateIsRemembered(t *testing.T) {
	bubble(t, 1, func(t *testing.T, f *fetcher) {
		f.answersTake(account, 10*time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		asked := time.Now()
		early := f.wantsAs(ctx, pace.Known, id(0), time.Time{})
		<-early.ended
		require.Error(t, early.err)
		time.Sleep(20 * time.Second)
		f.costs(1, 0)
		again := f.wants(id(0))
		f.served(again, id(0))
		require.Equal(t, asked, again.at, "it is as of the request")
		f.costs(0, 0)
		f.isIdle()
	})
}

func TestErrorsOfAccountsThatDoNotComeInTime(t *testing.T) {
	t.Run("Pipedream does not answer", func(t *testing.T) {
		bubble(t, 1, func(t *testing.T, f *fetcher) {
			f.sim.AddFault(pipedreamtest.Fault{Hang: true})
			r := f.wants(id(0))
			<-r.ended
			require.EqualError(t, r.err, "Pipedream is not available: it did not answer in time (pipedream.test)")
		})
	})
	t.Run("the budget is used up", func(t *testing.T) {
		bubble(t, 1, func(t *testing.T, f *fetcher) {
			f.budget.SetLimit(1)
			f.get(id(0))
			r := f.wants(id(0))
			<-r.ended
			require.Equal(t, &api.Error{Kind: api.NoBudget, Account: id(0), Wait: time.Minute}, r.err)
			require.Zero(t, r.took, "the error comes at once")
		})
	})
	t.Run("others come first", func(t *testing.T) {
		bubble(t, 100, func(t *testing.T, f *fetcher) {
			f.sim.AddFault(pipedreamtest.Fault{Kind: list, Status: http.StatusForbidden})
			f.answersTake(account, 1900*time.Millisecond)
			for i := range 99 {
				f.wants(id(i))
			}
			last := f.wants(id(99))
			<-last.ended
			require.Equal(t, &api.Error{Kind: api.Busy, Account: id(99), Wait: busyRetry}, last.err)
			time.Sleep(time.Minute)
			f.isIdle()
		})
	})
}

// In an outage, everybody in the queue gets the error, instead of each finding out.
func TestAnOutageFailsTheQueue(t *testing.T) {
	bubble(t, 60, func(t *testing.T, f *fetcher) {
		f.sim.AddFault(pipedreamtest.Fault{Kind: account, Delay: time.Second, Status: http.StatusBadGateway})
		f.answersTake(list, 2*time.Second)
		var readers []*reader
		for i := range 60 {
			readers = append(readers, f.wants(id(i)))
		}
		for i, r := range readers {
			<-r.ended
			require.Equal(t, api.Unavailable, api.KindOf(r.err))
			require.Equal(t, time.Second, r.took)
			var e *api.Error
			require.ErrorAs(t, r.err, &e)
			require.Equal(t, id(i), e.Account, "each error names its own account")
		}
		time.Sleep(time.Second)
		f.costs(MaxSingles, 1)
		f.isIdle()
	})
}

// A failure of one account, or of one answer, does not fail anybody else.
func TestTheFailureOfOneAccountFailsNobodyElse(t *testing.T) {
	for name, fault := range map[string]pipedreamtest.Fault{
		"404": {Status: http.StatusNotFound}, "403": {Status: http.StatusForbidden}, "nonsense": {Garbage: true}, "422": {Status: http.StatusUnprocessableEntity},
		"401 of one account": {Status: http.StatusUnauthorized}, "another account": {WrongAccount: id(39)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 40, func(t *testing.T, f *fetcher) {
				f.sim.AddFault(pipedreamtest.Fault{Kind: list, Status: http.StatusForbidden})
				f.get(id(39)) // so that a 401 is confirmed
				for i := range 12 {
					own := fault
					own.Kind, own.AccountID = account, id(i)
					f.sim.AddFault(own)
				}
				f.answersTake(account, 100*time.Millisecond)
				var readers []*reader
				for i := range 39 {
					readers = append(readers, f.wants(id(i)))
				}
				for i, r := range readers {
					if i >= 12 {
						f.served(r, id(i))
						continue
					}
					<-r.ended
					require.Error(t, r.err)
				}
				f.isIdle()
			})
		})
	}
}

func TestAHoldOffOfEverythingHoldsForTheQueue(t *testing.T) {
	bubble(t, 40, func(t *testing.T, f *fetcher) {
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Status: http.StatusForbidden})
		f.sim.AddFault(pipedreamtest.Fault{Kind: account, Delay: time.Second, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"30"}}})
		var readers []*reader
		for i := range 40 {
			readers = append(readers, f.wants(id(i)))
		}
		for _, r := range readers {
			<-r.ended
			require.Equal(t, api.Throttled, api.KindOf(r.err))
		}
		f.costs(MaxSingles, 1)
		f.isIdle()
	})
}

func TestClass(t *testing.T) {
	lasting := pace.Failure{Err: errors.New("gone"), Lasting: true}
	bubble(t, 150, func(t *testing.T, f *fetcher) {
		require.Equal(t, pace.Known, f.Class("apn_new", false), "nobody is guessing yet")
		require.Equal(t, pace.Known, f.Class("apn_new", true))
		f.holdOffs.Failed("apn_gone", lasting)
		require.Equal(t, pace.Unproven, f.Class("apn_gone", true), "its last failure was lasting")
		f.costs(0, 0)

		for i := range 9 {
			f.holdOffs.Failed(fmt.Sprint("apn_guess", i), lasting)
		}
		require.Equal(t, pace.Unproven, f.Class("apn_new", false), "somebody seems to be guessing")
		require.Equal(t, pace.Known, f.Class("apn_new", true))
		f.costs(0, 2) // so the whole list is fetched to learn what exists
		require.Equal(t, pace.Known, f.Class(id(140), false))
		time.Sleep(10 * time.Minute)
		require.False(t, f.holdOffs.Guessing())
		require.Equal(t, pace.Unproven, f.Class("apn_new", false), "it is not in the list")
		require.Equal(t, pace.Known, f.Class("users/somebody", false), "the list says nothing about users")
		f.costs(0, 0)
	})
}

func TestTheListIsSeldomFetchedToLearnWhatExists(t *testing.T) {
	bubble(t, 150, func(_ *testing.T, f *fetcher) {
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, After: 1, Status: http.StatusBadGateway})
		for range 3 {
			for i := range 9 {
				f.holdOffs.Failed(fmt.Sprint("apn_guess", i), pace.Failure{Lasting: true})
			}
			for range 5 {
				f.Class("apn_new", false)
				synctest.Wait()
			}
		}
		f.costs(0, 2)
	})
}

// Requests for accounts that may not exist wait for their turn at the budget. They
// take none of the MaxSingles places.
func TestGuessesTakeNoPlaces(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		f.budget.SetLimit(100)
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Status: http.StatusForbidden})
		for i := range 200 {
			r := f.wantsAs(t.Context(), pace.Unproven, fmt.Sprint("apn_guess", i), time.Time{})
			go func() { <-r.ended }()
		}
		f.sim.AddFault(pipedreamtest.Fault{Kind: account, AccountID: "apn_guess0", Hang: true})
		began := time.Now()
		f.getAll(30)
		require.Zero(t, time.Since(began))
		time.Sleep(5 * time.Minute)
		f.isIdle()
		require.Equal(t, 100, f.budget.Left())
	})
}

// A caller who wants very many accounts at once delays nobody else, neither who wants
// another account nor who wants one of those.
func TestCallersTakeTurnsInTheQueue(t *testing.T) {
	bubble(t, 200, func(t *testing.T, f *fetcher) {
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Status: http.StatusForbidden})
		f.answersTake(account, time.Second)
		claims := map[int]*pace.Claim{}
		for i := range 100 {
			claim := f.budget.NewClaim(pace.Known, "greedy")
			claims[i] = claim
			go func() { _, _, _ = f.Account(t.Context(), id(i), claim, time.Time{}) }()
		}
		time.Sleep(500 * time.Millisecond)
		one := f.wantsFor(t.Context(), "one", pace.Known, id(150), time.Time{})
		claims[99].Join(pace.Known, "two")
		two := f.wantsFor(t.Context(), "two", pace.Known, id(99), time.Time{})
		for _, r := range []*reader{one, two} {
			<-r.ended
			require.NoError(t, r.err)
			require.LessOrEqual(t, r.took, 2*time.Second)
		}
		time.Sleep(time.Minute)
		f.isIdle()
	})
}

func TestFetchesAheadEndWithTheConnection(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		require.NoError(t, f.Prefetch(t.Context(), ""))
		f.answersTake(account, time.Second)
		for i := range MaxSingles {
			f.wantsAs(t.Context(), pace.Known, id(i), time.Now())
		}
		synctest.Wait() // all places are taken
		ahead, waits := f.wantsAs(t.Context(), pace.Ahead, id(20), time.Now()), f.wantsAs(t.Context(), pace.Known, id(21), time.Now())
		synctest.Wait()
		f.Close()
		<-ahead.ended
		require.ErrorIs(t, ahead.err, context.Canceled)
		f.served(waits, id(21))
		f.costs(MaxSingles+1, 1)

		late := f.wantsAs(t.Context(), pace.Ahead, id(22), time.Time{})
		<-late.ended
		require.ErrorIs(t, late.err, context.Canceled)
		f.get(id(23)) // readers are still served, but not from pages
		f.costs(1, 0)
		f.isIdle()
	})
}

func TestPrefetchListIfItIsCheaper(t *testing.T) {
	bubble(t, 250, func(t *testing.T, f *fetcher) {
		f.PrefetchList(t.Context(), MaxSingles)
		f.costs(0, 0)
		f.answersTake(list, time.Second)
		began := time.Now()
		f.PrefetchList(t.Context(), 200)
		require.Equal(t, 3*time.Second, time.Since(began), "it waits for the end of the list")
		f.costs(0, 3)
		f.getAll(200)
		f.costs(0, 0)
		f.isIdle()
	})
	bubble(t, 250, func(t *testing.T, f *fetcher) {
		f.answersTake(list, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		began := time.Now()
		f.PrefetchList(ctx, 200)
		require.Equal(t, time.Second/2, time.Since(began))
		f.PrefetchList(t.Context(), 100) // joins it
		f.costs(0, 3)
	})
}

func TestPrefetchWaitsForTheBudget(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		f.budget.SetLimit(2)
		began := time.Now()
		f.get(id(0))
		time.Sleep(20 * time.Second)
		require.NoError(t, f.Prefetch(t.Context(), ""))
		require.Equal(t, time.Minute, time.Since(began))
		f.get(id(1))
		f.costs(1, 1)

		require.Equal(t, api.NoBudget, api.KindOf(f.Prefetch(t.Context(), "")), "the next pass may as well fetch it")
		f.costs(0, 0)
	})
}
