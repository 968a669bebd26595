package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
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
		require.LessOrEqual(t, time.Since(began), time.Second+gatherFor)
		f.costs(MaxSingles, 0)
		f.isIdle()
	})
}

func TestManyAccountsAreFetchedByTheList(t *testing.T) {
	bubble(t, 300, func(_ *testing.T, f *fetcher) {
		f.answersTake(account, time.Second)
		f.answersTake(list, time.Second)
		f.getAll(300)
		f.costs(1, 3)
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
				f.costs(1, tc.pages)
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
		f.fetchFirstPage()
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
		time.Sleep(2 * time.Minute)
		f.get(id(9))
		f.costs(1, 0)
		f.isIdle()
	})
}

// A page is remembered for as long as the list takes, plus a minute.
func TestAPageOfALongListIsRememberedForLonger(t *testing.T) {
	bubble(t, 300, func(t *testing.T, f *fetcher) {
		f.budget.SetLimit(2) // so that three pages take three minutes
		f.fetchFirstPage()
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
		f.fetchFirstPage() // so that the index knows the page
		f.get(id(0))
		time.Sleep(2 * time.Minute)
		f.costs(0, 1)

		f.answersTake(list, time.Second)
		// 1. The page is asked for. 2. One reader wants an account that was on it last time,
		// and another one wants a newer account than the page will have. 3. The page comes.
		before := time.Now()
		f.fetchFirstPage()
		time.Sleep(100 * time.Millisecond)
		old, fresh := f.wants(id(0)), f.wantsAs(t.Context(), pace.Known, id(1), time.Now())
		f.served(fresh, id(1))
		require.Equal(t, 100*time.Millisecond, time.Since(before), "it did not wait")
		f.served(old, id(0))
		require.Equal(t, before, old.at)
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
		f.fetchFirstPage()
		time.Sleep(100 * time.Millisecond)
		for i := range MaxSingles {
			f.wantsAs(t.Context(), pace.Known, id(i), time.Now())
		}
		synctest.Wait() // all places are taken
		wanted := time.Now()
		queues := f.wantsAs(t.Context(), pace.Known, id(20), wanted)
		other := f.wants(id(21))
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
		f.fetchFirstPage()
		time.Sleep(5 * time.Minute)
		f.costs(0, 1)
		f.sim.Update(id(0), func(a *pipedreamtest.Account) { a.NoCredentials = true })
		f.answersTake(list, time.Second)
		f.fetchFirstPage()
		time.Sleep(100 * time.Millisecond)
		bare := f.wants(id(0))
		<-bare.ended
		require.NoError(t, bare.err)
		require.Empty(t, bare.account.Credentials)
		f.costs(1, 1)
		_, known := f.page(id(0))
		require.False(t, known)
		f.isIdle()
	})
}

func TestReadersOfAPageThatFailsAreServedWithoutIt(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		f.fetchFirstPage()
		time.Sleep(5 * time.Minute)
		f.costs(0, 1)
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Delay: time.Second, Status: http.StatusBadGateway})
		f.fetchFirstPage()
		time.Sleep(100 * time.Millisecond)
		r := f.wants(id(0))
		f.served(r, id(0))
		require.Equal(t, 900*time.Millisecond, r.took)
		f.costs(1, 1)
		f.isIdle()
	})
}

func TestAnAccountThatLeftItsPageIsAskedForByItself(t *testing.T) {
	bubble(t, 100, func(t *testing.T, f *fetcher) {
		f.fetchFirstPage()
		time.Sleep(5 * time.Minute)
		f.costs(0, 1)
		f.sim.DeleteAccount(id(0))
		f.answersTake(list, time.Second)
		f.fetchFirstPage()
		time.Sleep(100 * time.Millisecond)
		gone := f.wants(id(0))
		<-gone.ended
		require.Equal(t, api.NotFound, api.KindOf(gone.err))
		_, known := f.page(id(0))
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
		f.costs(3, 3)
		f.isIdle()
	})
}

func TestAUselessListIsNotTriedAgainForAWhile(t *testing.T) {
	for name, tc := range map[string]struct {
		fault   pipedreamtest.Fault
		without bool // whether all accounts are without credentials
		again   time.Duration
	}{
		"it is refused":              {fault: pipedreamtest.Fault{Status: http.StatusForbidden}, again: 10 * time.Minute},
		"it does not exist":          {fault: pipedreamtest.Fault{Status: http.StatusNotFound}, again: 10 * time.Minute},
		"it is rejected":             {fault: pipedreamtest.Fault{Status: http.StatusUnprocessableEntity}, again: 10 * time.Minute},
		"it fails":                   {fault: pipedreamtest.Fault{Status: http.StatusBadGateway}, again: time.Minute},
		"it is nonsense":             {fault: pipedreamtest.Fault{Garbage: true}, again: time.Minute},
		"it has no credentials":      {without: true, again: 10 * time.Minute},
		"it has none that is wanted": {fault: pipedreamtest.Fault{Status: http.StatusOK, Body: `{"page_info":{"total_count":1},"data":[{"id":"apn_x","credentials":{"a":1}}]}`}, again: time.Minute},
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
				pages := f.sim.Count(list)
				f.costs(40, pages)
				require.Contains(t, []int{1, 2}, pages, "a walk, and the known page")
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
		require.Equal(t, 2*time.Second, r.took)
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
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Status: http.StatusForbidden})
		var readers []*reader
		for i := range 60 {
			readers = append(readers, f.wants(id(i)))
		}
		for i, r := range readers {
			<-r.ended
			require.Equal(t, api.Unavailable, api.KindOf(r.err))
			require.Less(t, r.took, 3*time.Second)
			var e *api.Error
			require.ErrorAs(t, r.err, &e)
			require.Equal(t, id(i), e.Account, "each error names its own account")
		}
		time.Sleep(time.Second)
		require.LessOrEqual(t, f.sim.Count(account), 2*MaxSingles)
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
	lasting := backoff.Failure{Err: errors.New("gone"), Lasting: true}
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
				f.holdOffs.Failed(fmt.Sprint("apn_guess", i), backoff.Failure{Lasting: true})
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
		for i := range 100 {
			f.wantsFor(t.Context(), "greedy", pace.Known, id(i), time.Time{})
		}
		time.Sleep(500 * time.Millisecond)
		one := f.wantsFor(t.Context(), "one", pace.Known, id(150), time.Time{})
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
		f.sim.AddFault(pipedreamtest.Fault{Kind: list, Status: http.StatusForbidden})
		f.getAll(30)
		f.costs(30, 1)
		f.answersTake(account, time.Second)
		for i := range MaxSingles {
			f.wantsAs(t.Context(), pace.Known, id(i), time.Now())
		}
		time.Sleep(gatherFor) // all places are taken
		f.Ahead(Due{ID: id(20), By: time.Now()})
		waits := f.wantsAs(t.Context(), pace.Known, id(21), time.Now())
		synctest.Wait()
		f.Close()
		f.served(waits, id(21))
		f.Ahead(Due{ID: id(22), By: time.Now()})
		time.Sleep(time.Minute)
		f.costs(MaxSingles+1, 0)

		f.get(id(23)) // readers are still served
		f.costs(1, 0)
		f.isIdle()
	})
}

func TestTheListIsFetchedAheadIfItIsCheaper(t *testing.T) {
	bubble(t, 250, func(_ *testing.T, f *fetcher) {
		f.listWanted(MaxSingles)
		f.costs(MaxSingles, 0)
		f.listWanted(200)
		f.listWanted(200)
		f.costs(0, 2)
		f.isIdle()
	})
}

// What nobody waits for is fetched once the budget allows it.
func TestFetchesAheadWaitForTheBudget(t *testing.T) {
	bubble(t, 100, func(_ *testing.T, f *fetcher) {
		f.budget.SetLimit(2)
		f.get(id(0))
		time.Sleep(20 * time.Second)
		f.listWanted(1)
		f.costs(1, 0)
		time.Sleep(40 * time.Second)
		f.costs(1, 0)
		f.isIdle()
	})
}
