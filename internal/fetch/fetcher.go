// Package fetch gets accounts with their credentials from Pipedream in as few
// requests as possible.
//
// An account that somebody waits for, or that is due, is a [Want]. It waits in a line
// until its caller's turn comes, and then the best request for it is sent: for it
// alone, for the page of the list that it was last seen on, or for the next page of a
// walk through the whole list. Whatever comes first serves it. The file plan.go decides.
package fetch

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	// maxFailures is for how many accounts in a row Pipedream may be unavailable before
	// everybody gets that error, instead of finding out one by one.
	maxFailures = 3
)

// Fetcher gets accounts over one connection.
type Fetcher struct {
	ctx      context.Context // ends when the mount does
	client   *api.Client
	budget   *pace.Budget
	holdOffs *backoff.HoldOffs
	logger   func() hclog.Logger
	deliver  func(*Want)
	fleet    *fleet // shared by the connections to the same accounts

	// The budget's mutex guards the following.
	wants map[string]*Want
	count int
	// A known want that waits is in one of these lines, or for a page that is under way.
	single   *pace.Line // for requests of their own
	paged    *pace.Line // for their page
	unlisted *pace.Line // those whose page is unknown: for a walk, or requests of their own
	late     *pace.Line // likewise, those who came after the first page of the walk
	unproven *pace.Line // where others wait

	pages   map[string]*page    // by cursor
	running map[*page]struct{}  // pages that are under way
	walk    *walk               // nil while there is none
	singles map[*Want]time.Time // requests for one account that are under way
	gathers time.Time           // until when only one of them is sent at a time

	ahead   map[*Want]struct{} // wants that nobody waits for, and whose page is unknown
	nextBy  time.Time          // when the next of what nobody waits for is due; zero for nothing
	blocked bool               // whether some of that may be due, but could not be sent yet

	uselessUntil time.Time           // until when the list is not used
	pageCameAt   time.Time           // when the last page came; zero if the last one failed
	failing      map[string]struct{} // accounts for which Pipedream was unavailable since it last answered
	throttled    int                 // pages in a row that got a 429
	failedAt     time.Time           // when the latest request for one of them ended
	answeredAt   time.Time           // when Pipedream last answered
	noTokenUntil time.Time           // until when the budget has no slot for the access token that all requests need
	heldUntil    time.Time           // the end of the hold-off of everything that those who wait were told of
	tasks        []task              // what is still to be done with many wants
	closed       bool
}

// New returns a fetcher that asks through client. It shares what its predecessor knows
// of the list. The predecessor must have the same accounts, and is nil if there is none.
// All requests end with ctx, and do not depend on the contexts of readers.
func New(ctx context.Context, client *api.Client, budget *pace.Budget, holdOffs *backoff.HoldOffs, predecessor *Fetcher, logger func() hclog.Logger) *Fetcher {
	f := &Fetcher{
		ctx: ctx, client: client, budget: budget, holdOffs: holdOffs, logger: logger, fleet: newFleet(),
		wants: map[string]*Want{}, pages: map[string]*page{}, running: map[*page]struct{}{}, singles: map[*Want]time.Time{}, ahead: map[*Want]struct{}{}, failing: map[string]struct{}{},
	}
	f.deliver = func(w *Want) { w.Deliver(w.Account, w.Err) }
	if predecessor != nil {
		f.fleet = predecessor.fleet
	}
	f.single, f.paged = budget.NewLine(pace.Known, f.mayAskAlone), budget.NewLine(pace.Known, f.mayAsk)
	f.unlisted, f.late = budget.NewLine(pace.Known, f.mayAskUnlisted), budget.NewLine(pace.Known, f.mayAskLate)
	f.unproven = budget.NewLine(pace.Unproven, f.mayAsk)
	return f
}

// attach has the budget ask f what to send, for as long as there is anything to do.
func (f *Fetcher) attach() {
	f.budget.Attach(planner{f}, f.single, f.paged, f.unlisted, f.late, f.unproven)
}

// DeliverTo has deliver take the outcome of each want, on a goroutine of its own. It
// must call the want's Deliver or Retry.
func (f *Fetcher) DeliverTo(deliver func(*Want)) { f.deliver = deliver }

// Close ends what nobody waits for. Readers who wait still get their accounts.
func (f *Fetcher) Close() {
	f.budget.Do(func(time.Time) {
		f.closed = true
		f.forAll(func(w *Want, _ time.Time) {
			if w.claim.ClassNow() == pace.Ahead {
				f.serve(w, nil, time.Time{}, context.Canceled)
			}
		})
	})
}

// Class returns how urgent a reader's request for name is. name is an account's id,
// or another name of the hold-offs. known says whether it was seen to exist. If
// somebody seems to be guessing, Class has the list fetched to learn what exists.
func (f *Fetcher) Class(name string, known bool) pace.Class {
	if _, listed := f.fleet.index.of(name); listed {
		known = true
	}
	switch {
	case f.holdOffs.Doubtful(name):
		return pace.Unproven
	case known:
		return pace.Known
	case f.holdOffs.Guessing():
		if api.ValidAccountID(name) {
			f.takeStock()
		}
		return pace.Unproven
	case f.fleet.index.isWhole() && api.ValidAccountID(name):
		return pace.Unproven
	default:
		return pace.Known
	}
}

// ListTime returns how long the budget makes a walk through the list take, at least.
func (f *Fetcher) ListTime() (d time.Duration) {
	f.budget.Do(func(time.Time) { d = f.listTime() })
	return d
}

func (f *Fetcher) listTime() time.Duration {
	limit := f.budget.PagesIn(pace.Ahead, pace.Window)
	if limit < 0 {
		return 0
	}
	return time.Duration(f.fleet.length) * pace.Window / time.Duration(max(1, limit))
}

// ListWorks reports whether the last page that was asked for came, with credentials.
func (f *Fetcher) ListWorks() (works bool) {
	f.budget.Do(func(now time.Time) { works = f.useful(now) && !f.pageCameAt.IsZero() })
	return works
}

// sendAlone sends a request for w alone, with the slot of its claim.
func (f *Fetcher) sendAlone(w *Want, now time.Time) {
	w.withdraw()
	w.state, w.asked = alone, now
	if w.claim.ClassNow() != pace.Unproven { // guesses take no places
		f.singles[w] = now
	}
	guard.Go(f.logger(), func() {
		var a *api.Account
		err := f.send(w.ID, f.client.Timeout(), w.claim, func(ctx context.Context) (err error) {
			a, err = f.client.Account(ctx, w.ID)
			return err
		})
		if errors.Is(err, context.DeadlineExceeded) { // while it waited for an access token
			err = f.client.NoAnswer(w.ID)
		}
		f.budget.Do(func(now time.Time) {
			unsent := w.claim.GiveBack()
			f.noteUnsent(unsent, err, now)
			delete(f.singles, w)
			if unsent && !f.mayAsk(now) { // everything is held off since its turn came
				w.state, w.asked = pending, time.Time{}
				f.place(w, now)
				return
			}
			f.serve(w, a, w.asked, err) // as of the request, since the answer may be that old
			switch _, listed := f.fleet.index.of(w.ID); {
			case err == nil && !listed:
				if w.claim.ClassNow() != pace.Ahead {
					f.fleet.unlisted.add(w.ID, now, f.rememberFor())
				}
				f.notWhole(now)
			case api.KindOf(err) == api.NotFound:
				f.fleet.index.forget(w.ID)
			}
			f.noteOutcome(w.ID, err, now)
		})
	})
}

// noteUnsent notes how long a request that was not sent has to wait for its access token.
func (f *Fetcher) noteUnsent(unsent bool, err error, now time.Time) {
	var e *api.Error
	if unsent && errors.As(err, &e) && e.Kind == api.NoBudget {
		f.noTokenUntil = now.Add(max(e.Wait, time.Second))
	}
}

// notWhole notes that there are accounts that the list did not have when it was last
// fetched. Others of that kind are no longer taken for guesses, whether they still wait or
// were told to come again.
func (f *Fetcher) notWhole(now time.Time) {
	if !f.fleet.index.isWhole() || f.holdOffs.Guessing() {
		return
	}
	f.fleet.index.setWhole(false)
	f.fleet.unproven.count(now, f.rememberFor()) // forgets the older ones
	for _, guess := range f.fleet.unproven.order {
		f.fleet.unlisted.add(guess.id, now, f.rememberFor())
	}
	f.fleet.unproven = demand{}
	for _, w := range f.wants {
		if w.state == pending && w.claim.ClassNow() == pace.Unproven && !f.holdOffs.Doubtful(w.ID) {
			w.claim.Prove()
			f.place(w, now)
		}
	}
}

// send sends a request, for an account or a page, unless everything is held off by now.
func (f *Fetcher) send(id string, timeout time.Duration, claim *pace.Claim, request func(context.Context) error) error {
	return guard.Run(f.logger(), func() error {
		if err := f.holdOffs.CheckAll(); err != nil {
			return api.WithAccount(err, id)
		}
		ctx, cancel := context.WithTimeout(claim.With(f.ctx), timeout)
		defer cancel()
		return request(ctx)
	})
}

// serve ends the fetch of w.
func (f *Fetcher) serve(w *Want, a *api.Account, at time.Time, err error) {
	w.withdraw()
	w.state, w.Account, w.At, w.Err = served, a, at, err
	guard.Go(f.logger(), func() {
		if err := guard.Run(f.logger(), func() error { f.deliver(w); return nil }); err != nil {
			f.budget.Do(func(time.Time) {
				if w.state == served && f.wants[w.ID] == w {
					w.deliver(nil, err)
				}
			})
		}
	})
}

// noteOutcome takes note of how a request ended, for one account or for a page. Where Pipedream
// is unavailable for one account after the other, all get that error. One account alone
// says nothing about the others.
func (f *Fetcher) noteOutcome(id string, err error, now time.Time) {
	switch kind := api.KindOf(err); {
	case err == nil, api.IsAccountFault(err), kind == api.Forbidden, kind == api.NotFound, kind == api.Rejected: // it answered
		f.answeredAt = now
		clear(f.failing)
	case kind == api.Unavailable && id != "":
		if now.Sub(f.failedAt) > pace.Window || len(f.failing) >= maxIndexed { // those say nothing about now
			clear(f.failing)
		}
		f.failedAt = now
		if f.failing[id] = struct{}{}; len(f.failing) >= maxFailures {
			f.forAll(func(w *Want, _ time.Time) { f.serve(w, nil, time.Time{}, api.WithAccount(err, w.ID)) })
		}
	}
}
