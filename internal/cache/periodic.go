package cache

import (
	"context"
	"time"

	"vault-plugin-secrets-pipedream/internal/clock"
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
//
// The first pass after a start has Pipedream tell the time, if nothing else has: this
// machine's clock may have been changed while the plugin did not run.
func (v *View) RefreshAhead() {
	now := v.clock.Now()
	due, ending := v.dueSoon(now)
	if ending && !v.clock.Told() {
		v.client.StartAskTime()
	}
	v.passedAt.Store(now.Here.UnixNano())
	gather := len(due) > gatherFrom && v.fetcher.ListWorks()
	fetching := max(fetchMargin, v.fetcher.ListTime())
	wanted := make([]fetch.Due, 0, len(due))
	for _, e := range due {
		by := now.Here
		if at := e.CanWaitUntil(v.policy, fetching, now); gather && at.After(now.Here) {
			by = at
		}
		wanted = v.ahead(wanted, e.AccountID, e, by)
	}
	v.fetcher.Ahead(wanted...)
}

// dueSoon returns the entries to fetch ahead of readers at now. ending reports whether
// there is any that ends.
func (v *View) dueSoon(now clock.Moment) (due []*entry, ending bool) {
	for _, e := range v.credentials.Values() {
		ending = ending || e.Expires()
		if e.read.Load() && v.servable(e.Credential, now) && e.DueSoon(v.policy, now) {
			due = append(due, e)
		}
	}
	return due, ending
}

// SweepMemory deletes credentials from memory and storage that have ended or that
// nobody reads. It also stores and deletes what could not be stored or deleted
// before.
func (c *Cache) SweepMemory(ctx context.Context, policy credential.Policy) {
	now := c.clock.Now()
	c.users.Settle(ctx)
	c.credentials.Settle(ctx)
	for _, e := range c.credentials.Values() {
		if ctx.Err() != nil {
			return
		}
		if hasEnded(e, now) || e.Abandoned(policy, e.read.Load(), now.Here) {
			c.credentials.DeleteIf(ctx, e.AccountID, func(latest *entry) bool { return latest == e })
		}
	}
}
