package fetch

import (
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// busyRetry is when a reader who was not served in time should come again.
const busyRetry = 5 * time.Second

// Overdue returns the error for an account that did not come in time. Pipedream is
// to blame only if it was asked and does not answer. Otherwise the budget is used
// up, or others came first.
func (f *Fetcher) Overdue(id string) (err error) {
	f.budget.Do(func(now time.Time) {
		claim, unproven := f.budget.NewClaim(pace.Known, pace.Caller{}), false
		if w := f.wants[id]; w != nil {
			claim, unproven = w.claim, w.claim.ClassNow() == pace.Unproven
			if asked := w.askedAt(); !asked.IsZero() {
				if held := f.holdOffs.CheckAll(); api.KindOf(held) == api.Throttled { // it is sent again after that
					err = api.WithAccount(held, id)
					return
				}
				err = &api.Error{Kind: api.Busy, Account: id, Wait: busyRetry}
				// Most of the time that it is wanted for may be less than Timeout.
				if w.answered || now.Sub(asked) > asked.Sub(w.Began) || f.keepsWaiting(asked, now) || f.isSilent(now) {
					err = f.client.NoAnswer(id)
				}
				return
			}
		}
		held := f.holdOffs.CheckAll()
		switch free := claim.Free(now); {
		case held != nil:
			err = api.WithAccount(held, id)
		case unproven || free > 0:
			err = f.full(id, max(free, busyRetry))
		case f.isSilent(now):
			err = f.client.NoAnswer(id)
		default:
			err = &api.Error{Kind: api.Busy, Account: id, Wait: busyRetry}
		}
	})
	return err
}

// askedAt returns when the request that may bring w went out; zero for none.
func (w *Want) askedAt() time.Time {
	if w.asked.IsZero() && w.page != nil && w.page.underWay && w.claim.Line() == nil {
		return w.page.asked
	}
	return w.asked
}

// full is the error for an account whose turn does not come in time. Without a limit, only
// so many requests for what was never seen to exist are under way at a time. It must be
// called with the budget's mutex held.
func (f *Fetcher) full(id string, wait time.Duration) error {
	kind := api.NoBudget
	if f.budget.PagesIn(pace.Known, pace.Window) < 0 {
		kind = api.Busy
	}
	return &api.Error{Kind: kind, Account: id, Wait: wait}
}

// OverdueSearch is like [Fetcher.Overdue], for a search that began at began and asks
// through claim.
func (f *Fetcher) OverdueSearch(claim *pace.Claim, began time.Time) (err error) {
	asked, waits := claim.Granted()
	if asked.IsZero() {
		asked = began // it waits for an access token
	}
	held := f.holdOffs.CheckAll()
	switch {
	case api.KindOf(held) == api.Throttled: // it is sent again after that
		return held
	case waits:
		f.budget.Do(func(now time.Time) { err = f.full("", max(claim.Wait(now), busyRetry)) })
		return err
	case f.keepsWaiting(asked, time.Now()):
		return f.client.NoAnswer("")
	default:
		return &api.Error{Kind: api.Busy, Wait: busyRetry}
	}
}

// keepsWaiting reports whether a request that went out at asked takes so long that
// Pipedream is to blame for what did not come in time.
func (f *Fetcher) keepsWaiting(asked, now time.Time) bool {
	return now.Sub(asked) >= f.client.Timeout()/2
}

// isSilent reports whether Pipedream keeps everybody waiting: requests failed a
// moment ago, or are out for long, and none was answered since.
func (f *Fetcher) isSilent(now time.Time) bool {
	if len(f.failing) > 0 && !f.keepsWaiting(f.failedAt, now) {
		return true
	}
	for _, asked := range f.singles {
		if f.answeredAt.Before(asked) && f.keepsWaiting(asked, now) {
			return true
		}
	}
	return false
}
