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
func (f *Fetcher) Overdue(id string) error {
	silent, unproven, free := f.progress(id)
	switch {
	case silent:
		return f.client.NoAnswer(id)
	case unproven || free > 0:
		return &api.Error{Kind: api.NoBudget, Account: id, Wait: max(free, busyRetry)}
	default:
		return &api.Error{Kind: api.Busy, Account: id, Wait: busyRetry}
	}
}

// progress returns whether Pipedream keeps an account waiting, whether the account is
// unproven, and how long it would have to wait for a slot of the budget.
func (f *Fetcher) progress(id string) (silent, unproven bool, free time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	free = f.budget.NextFree()
	if c := f.calls[id]; c != nil {
		if !c.asked.IsZero() {
			return f.keepsWaiting(c.asked, now) || f.isSilent(now), false, 0
		}
		unproven, free = c.claim.Class() == pace.Unproven, c.claim.NextFree()
	}
	return !unproven && free == 0 && f.isSilent(now), unproven, free
}

// OverdueSearch is like [Fetcher.Overdue], for a search that began at began and asks
// through claim.
func (f *Fetcher) OverdueSearch(claim *pace.Claim, began time.Time) error {
	asked, waits := claim.Granted()
	if asked.IsZero() {
		asked = began // it waits for an access token
	}
	switch {
	case waits:
		return &api.Error{Kind: api.NoBudget, Wait: max(claim.NextFree(), busyRetry)}
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
// moment ago, or are out for long, and none was answered since. The caller holds mu.
func (f *Fetcher) isSilent(now time.Time) bool {
	if len(f.failing) > 0 && !f.keepsWaiting(f.failedAt, now) {
		return true
	}
	since := f.outSince
	if f.answeredAt.After(since) {
		since = f.answeredAt
	}
	return f.out > 0 && f.keepsWaiting(since, now)
}
