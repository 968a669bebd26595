package cache

import (
	"context"
	"time"

	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/fetch"
)

const (
	// gatherFrom is how many accounts must be due before it is worth waiting for
	// more.
	gatherFrom = 2 * fetch.MaxSingles
	// fetchMargin is how long a fetch ahead may take, at least, until readers wait.
	fetchMargin = 15 * time.Second
)

// passing reports whether the periodic pass is running regularly. If so, readers can
// leave fetches that are not urgent to it.
func (v *View) passing(now time.Time) bool {
	return now.Sub(time.Unix(0, v.passedAt.Load())) < 2*time.Minute
}

// RefreshAhead has the credentials fetched that are about to be due and were read since
// their last fetch, so that their readers need not wait. It does not wait for these
// fetches.
//
// A page of the list brings accounts of any age. If many accounts are due, it is
// cheapest to fetch as many as possible with each page. So each waits for others on its
// page for as long as it can.
func (v *View) RefreshAhead() {
	now := time.Now()
	due := v.dueSoon(now)
	v.passedAt.Store(now.UnixNano())
	gather := len(due) > gatherFrom && v.fetcher.ListWorks()
	fetching := max(fetchMargin, v.fetcher.ListTime())
	wanted := make([]fetch.Due, 0, len(due))
	for _, e := range due {
		by := now
		if at := e.CanWaitUntil(v.policy, fetching); gather && at.After(now) {
			by = at
		}
		wanted = v.ahead(wanted, e.AccountID, e, by)
	}
	v.fetcher.Ahead(wanted...)
}

// dueSoon returns the entries to fetch ahead of readers at now.
func (v *View) dueSoon(now time.Time) (due []*entry) {
	for _, e := range v.credentials.Values() {
		if e.read.Load() && e.Servable(now) && e.DueSoon(v.policy, now) {
			due = append(due, e)
		}
	}
	return due
}

// SweepMemory deletes credentials from memory and storage that have ended or that
// nobody reads. It also stores and deletes what could not be stored or deleted
// before.
func (c *Cache) SweepMemory(ctx context.Context, policy credential.Policy) {
	now := time.Now()
	c.users.Settle(ctx)
	c.credentials.Settle(ctx)
	for _, e := range c.credentials.Values() {
		if ctx.Err() != nil {
			return
		}
		if e.Ended(now) || e.Abandoned(policy, e.read.Load(), now) {
			c.credentials.DeleteIf(ctx, e.AccountID, func(latest *entry) bool { return latest == e })
		}
	}
}
