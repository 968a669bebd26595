package cache

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	// gatherFrom is how many accounts must be due before it is worth waiting for
	// more.
	gatherFrom = 2 * fetch.MaxSingles
	// maxPagesAtOnce is how many pages are fetched ahead of readers at a time.
	// maxAtOnce is how many of a page's accounts are cached at a time.
	maxPagesAtOnce = 4
	maxAtOnce      = 16
)

// passing reports whether the periodic pass is running regularly. If so, readers can
// leave fetches that are not urgent to it.
func (v *View) passing(now time.Time) bool {
	return now.Sub(time.Unix(0, v.passedAt.Load())) < 2*time.Minute
}

// RefreshAhead starts to fetch the credentials that are about to be due and were
// read since their last fetch, so that their readers need not wait. It does not wait
// for these fetches.
//
// A page of the list brings accounts of any age. If many accounts are due, it is
// cheapest to fetch as many as possible with each page. So those of one page wait
// for each other until one of them can wait no longer. Those whose page is not
// known wait for each other, and for the whole list.
func (v *View) RefreshAhead() {
	now := time.Now()
	due := v.dueSoon(now)
	v.passedAt.Store(now.UnixNano())
	gather := len(due) > gatherFrom
	var apart []*entry
	pages := map[string][]*entry{}
	for at, due := range v.byPage(due) {
		switch {
		case gather && v.allCanWait(due, now):
		case at.known && len(due) > 1:
			pages[at.after] = due
		default:
			apart = append(apart, due...)
		}
	}
	guard.Go(v.logger(), func() { v.fetchPages(pages) })
	if len(apart) > 0 {
		guard.Go(v.logger(), func() {
			v.fetcher.PrefetchList(v.ctx, len(apart))
			v.fetchAll(apart)
		})
	}
}

// fetchPages fetches pages, and then the accounts that are due on them as a reader
// would. An account that its page lacks is asked for otherwise.
func (v *View) fetchPages(pages map[string][]*entry) {
	var group errgroup.Group
	group.SetLimit(maxPagesAtOnce)
	for after, due := range pages {
		group.Go(func() error {
			return guard.Run(v.logger(), func() error {
				if err := v.fetcher.Prefetch(v.ctx, after); !api.OfAll(err) {
					v.fetchAll(due)
				}
				return nil
			})
		})
	}
	_ = group.Wait() // what a failed page has comes otherwise, or with the next pass
}

// fetchAll fetches credentials that nobody waits for yet.
func (v *View) fetchAll(due []*entry) {
	var group errgroup.Group
	group.SetLimit(maxAtOnce)
	for _, e := range due {
		group.Go(func() error {
			if latest, ok := v.credentials.Peek(e.AccountID); ok && latest == e { // otherwise a reader was faster
				f, _ := v.start(pace.Ahead, "", e.AccountID, e)
				<-f.landed
			}
			return nil
		})
	}
	_ = group.Wait() // failures are handled where they happen
}

// pageAt is a page of the list, by the cursor that it comes after, if that is known.
type pageAt struct {
	after string
	known bool
}

// byPage groups entries that are due by their page of the list. It leaves out those
// that are held off.
func (v *View) byPage(due []*entry) map[pageAt][]*entry {
	pages := map[pageAt][]*entry{}
	for _, e := range due {
		if v.holdOffs.Held(e.AccountID) {
			continue
		}
		var at pageAt
		at.after, at.known = v.fetcher.Page(e.AccountID)
		pages[at] = append(pages[at], e)
	}
	return pages
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

// allCanWait reports whether all of the entries can wait for others: until the next
// pass, and as long as a fetch of the list takes.
func (v *View) allCanWait(due []*entry, now time.Time) bool {
	fetching := max(0, v.fetcher.ListTime()-(credential.Lookahead-time.Minute)) // Lookahead allows for some of it
	for _, e := range due {
		if !e.CanWait(v.policy, fetching, now) {
			return false
		}
	}
	return true
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
