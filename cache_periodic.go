package pipedream

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// refreshLookahead is how far ahead of its time a credential is fetched:
	// the minute until the next pass, and some.
	refreshLookahead = 75 * time.Second
	// refreshReserve is the part of the budget, as a divisor, that background
	// work leaves to readers.
	refreshReserve = 5

	// gatherFrom is from how many due accounts on it is worth to gather more.
	gatherFrom = 2 * maxSingles

	// sweepEvery is how often the keys in storage are listed, and sweepBatch
	// how many of them a pass looks into, so that no pass reads them all.
	sweepEvery = time.Hour
	sweepBatch = 500
	// abandonedAfter is how long a credential that never expires is kept after
	// it was last fetched, which its readers see to.
	abandonedAfter = 7 * 24 * time.Hour
)

// refreshAhead has the credentials fetched that somebody read since their last
// fetch and that are about to be due, so that their readers need not wait. It
// does not wait itself.
//
// A page of the list brings accounts of any age, so where many are due it costs
// least to fetch as many of a page together as can wait for each other: until
// one of them can wait no longer. Those whose page is not known wait for each
// other, for the whole of the list.
func (c *cache) refreshAhead(s *settings) {
	d, now := newDemand(s), time.Now()
	due := c.aboutToBeDue(d, now)
	c.passedAt.Store(now.UnixNano())
	gather := len(due) > gatherFrom
	apart, pages := map[string]func(*account, error){}, map[string]map[string]func(*account, error){}
	for at, due := range c.byPage(s, due) {
		if gather && !anyUrgent(d, due, now) {
			continue
		}
		deliver := apart
		if at.known && len(due) > 1 {
			deliver = map[string]func(*account, error){}
			pages[at.after] = deliver
		}
		for _, e := range due {
			deliver[e.credential.AccountID] = func(a *account, err error) { c.arrived(d, e, a, err) }
		}
	}
	ctx := withReserve(c.ctx, reserved(s.config, refreshReserve))
	s.bulk.wantPages(ctx, pages)
	s.bulk.wantAll(ctx, apart)
}

// pageAt is a page of the list by the cursor that it comes after, if that is known.
type pageAt struct {
	after string
	known bool
}

// byPage sorts entries that are due by where the list has their accounts, and
// leaves those out that are held off.
func (c *cache) byPage(s *settings, due []*entry) map[pageAt][]*entry {
	pages := map[pageAt][]*entry{}
	for _, e := range due {
		id := e.credential.AccountID
		if s.client.holdoffs.held(id) {
			continue
		}
		var at pageAt
		at.after, at.known = s.bulk.index.of(id)
		pages[at] = append(pages[at], e)
	}
	return pages
}

// passing tells whether the periodic pass comes round, so that readers can
// leave to it what need not be fetched at once.
func (c *cache) passing(now time.Time) bool {
	return now.Sub(time.Unix(0, c.passedAt.Load())) < 2*time.Minute
}

// arrived caches what was fetched ahead for e.
func (c *cache) arrived(d demand, e *entry, a *account, err error) {
	id := e.credential.AccountID
	if latest, ok := c.memory.Peek(id); !ok || latest != e {
		return // a reader's fetch was faster, or the cache was emptied
	}
	var fetched *credential
	if err == nil {
		fetched, err = newCredential(a, id, time.Now(), d.config.ExposeRefreshToken)
	}
	if err == nil && !fetched.servable(fetched.FetchedAt) {
		return // a reader's own fetch waits for the next
	}
	// As a fetch, for readers to join. One that is under way got the same.
	c.share(d, id, func() (*entry, error) { return c.settle(c.ctx, d, id, e, fetched, err) })
}

// aboutToBeDue are the entries to fetch ahead at now.
func (c *cache) aboutToBeDue(d demand, now time.Time) []*entry {
	return slices.DeleteFunc(c.memory.Values(), func(e *entry) bool {
		if !e.read.Load() || e.cacheID != d.config.CacheID || !e.credential.servable(now) {
			return true
		}
		at := e.dueAt(d)
		if e.credential.announcesRefresh() {
			return at.After(now)
		}
		return at.After(now.Add(refreshLookahead))
	})
}

// anyUrgent tells whether any of the entries that are due can wait no longer
// for others: until the next pass, and for what the fetch of the list takes,
// its readers must not come to wait.
func anyUrgent(d demand, due []*entry, now time.Time) bool {
	fetch := d.bulk.listTime()
	for _, e := range due {
		c := e.credential
		if !c.expires() || !c.announcesRefresh() || c.ExpiresAt.Sub(now) < d.atLeast+refreshLookahead+fetch {
			return true
		}
	}
	return false
}

// sweep drops what can never be served again: from memory at once, from
// storage little by little. s is nil where the engine is not configured.
func (c *cache) sweep(ctx context.Context, s *settings) {
	now := time.Now()
	for _, e := range c.memory.Values() {
		if ctx.Err() != nil {
			return
		}
		id := e.credential.AccountID
		switch {
		case e.isTombstone():
			c.bury(ctx, id, e, now)
		case e.credential.expires() && !now.Before(e.credential.ExpiresAt):
			c.evictEntry(ctx, id, e)
		case s == nil || e.cacheID != s.config.CacheID:
			c.forget(id)
		case e.abandoned(s, now):
			c.evictEntry(ctx, id, e)
		}
	}
	for _, id := range c.sweeper.batch(ctx, c, now) {
		if ctx.Err() != nil {
			return
		}
		c.sweepStored(ctx, s, id, now)
	}
}

// abandoned tells whether nobody has read a credential that never expires for
// so long that it is not worth its place.
func (e *entry) abandoned(s *settings, now time.Time) bool {
	return !e.credential.expires() && now.Sub(e.checkedAt) >= max(abandonedAfter, 2*s.config.StaticTTL)
}

// sweepStored deletes an account's entry in storage, or forgets an external
// user, if that is of no more use.
func (c *cache) sweepStored(ctx context.Context, s *settings, id string, now time.Time) {
	if key, ok := strings.CutPrefix(id, usersFolder); ok {
		c.users.sweepStored(ctx, s, key)
		return
	}
	if c.memory.Contains(id) {
		return
	}
	useful, err := c.stillOfUse(ctx, s, id, now)
	switch {
	case err != nil && !errors.Is(err, errNotOurs): // storage's own fault; the entry may be good
		c.logger().Warn("an entry of the cache could not be looked at for its sweep", "account", id, "error", err)
	case !useful && ctx.Err() == nil:
		c.deleteStored(ctx, id, nil)
	}
}

func (c *cache) stillOfUse(ctx context.Context, s *settings, id string, now time.Time) (bool, error) {
	if s == nil {
		return false, nil
	}
	stored, err := c.readStored(ctx, id)
	if err != nil || stored == nil || stored.CacheID != s.config.CacheID {
		return false, err
	}
	if stored.Credential.expires() {
		return now.Before(stored.Credential.ExpiresAt), nil
	}
	return !newEntry(stored.Credential, stored.CacheID, stored.CheckedAt).abandoned(s, now), nil
}

// sweeper walks through the keys in storage, a batch a pass.
type sweeper struct {
	mu       sync.Mutex // guards the fields below; not held while storage is listed
	pending  []string
	listedAt time.Time
}

// batch returns the accounts whose stored entries are to be looked at now.
func (w *sweeper) batch(ctx context.Context, c *cache, now time.Time) []string {
	w.mu.Lock()
	list := len(w.pending) == 0 && now.Sub(w.listedAt) >= sweepEvery
	w.mu.Unlock()
	if list {
		ids, err := c.storedIDs(ctx)
		if err != nil {
			c.logger().Warn("the stored cache could not be listed for its sweep", "error", err)
			return nil
		}
		w.mu.Lock()
		w.pending, w.listedAt = ids, now
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(sweepBatch, len(w.pending))
	batch := w.pending[:n]
	w.pending = w.pending[n:]
	return batch
}

// storedIDs are the keys below the cache in storage, users after accounts.
func (c *cache) storedIDs(ctx context.Context) ([]string, error) {
	ids, err := c.storage.List(ctx, cachePrefix)
	if err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return id == usersFolder })
	keys, err := c.storage.List(ctx, usersPrefix)
	for _, key := range keys {
		ids = append(ids, usersFolder+key)
	}
	return ids, err
}

// restart has the next pass list the keys anew.
func (w *sweeper) restart() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending, w.listedAt = nil, time.Time{}
}
