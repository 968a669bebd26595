package cache

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/durable"
)

const (
	// maxRemoved bounds how many removals of accounts are remembered. Whatever Pipedream
	// was asked for before the oldest ones has been answered long ago, and removals delete
	// their stored copies.
	maxRemoved = 10_000
	// keepRemoved is how long removals of external users are remembered. By then, the sweeps have
	// deleted what was stored of them.
	keepRemoved = 30 * 24 * time.Hour
)

// Removed remembers which accounts and external users were removed at Pipedream, and
// when that was answered. What Pipedream was asked for before then is not believed,
// wherever it still is: in a fetch, a page, a search, a write, a reader's hands or
// storage. So nothing of it needs to be found and stopped. The zero value is ready for
// use.
type Removed struct {
	storing sync.Mutex  // guards what storage has of removed users; held across its calls, and only removals take it
	unread  atomic.Bool // whether storage could not tell who was removed

	mu sync.Mutex // held by those who change at; never held across I/O
	// at has the time of the latest removal, by [ofUser] or an account's id. The map never
	// changes once it is here, because every read looks at it.
	at atomic.Pointer[map[string]time.Time]
}

const (
	// everything is the name of all accounts.
	everything = ""
	userPrefix = "user/"
)

// ofUser returns the name of an external user, which no account's id is equal to.
func ofUser(externalID string) string { return userPrefix + externalID }

// of returns when something was last removed; zero for never.
func (r *Removed) of(name string) time.Time {
	if at := r.at.Load(); at != nil {
		return (*at)[name]
	}
	return time.Time{}
}

// note notes what was removed by now.
func (r *Removed) note(names ...string) {
	at, now := map[string]time.Time{}, time.Now()
	for _, name := range names {
		at[name] = now
	}
	r.noteAll(at)
}

// noteAll notes what was removed, and when.
func (r *Removed) noteAll(removed map[string]time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := map[string]time.Time{}
	if before := r.at.Load(); before != nil {
		at = maps.Clone(*before)
	}
	for name, when := range removed {
		if when.After(at[name]) {
			at[name] = when
		}
	}
	prune(at)
	r.at.Store(&at)
}

// prune forgets removals that no longer count.
func prune(at map[string]time.Time) {
	var accounts []string
	for name, when := range at {
		switch {
		case !strings.HasPrefix(name, userPrefix):
			accounts = append(accounts, name)
		case time.Since(when) > keepRemoved:
			delete(at, name)
		}
	}
	if len(accounts) > maxRemoved {
		slices.SortFunc(accounts, func(a, b string) int { return at[a].Compare(at[b]) })
		for _, id := range accounts[:len(accounts)-maxRemoved/2] {
			delete(at, id)
		}
	}
}

// isOutdated reports whether the account, or its external user, was removed after
// Pipedream was asked for it.
func (r *Removed) isOutdated(id, externalID string, asked time.Time) bool {
	at := r.at.Load()
	if at == nil {
		return false
	}
	return asked.Before((*at)[id]) || asked.Before((*at)[ofUser(externalID)]) || asked.Before((*at)[everything])
}

// hasOutdated reports whether one of the listed accounts was removed since.
func (r *Removed) hasOutdated(l *listed) bool {
	return slices.ContainsFunc(slices.Concat(l.accounts, l.elsewhere), func(a *Owned) bool { return r.isOutdated(a.ID, a.ExternalID, l.asked) })
}

// removals are when external users were removed, as storage has them. Accounts of theirs
// that Pipedream no longer lists may be in storage, under ids that nobody can name. So a
// restart must know whose are not to be served.
type removals map[string]time.Time

// removedFolder is where removals are in storage, for all generations of the place. Each
// entry there has those of some users, so that a start reads few.
func (c *Cache) removedFolder() string { return Prefix + c.place + "/removed/" }

// storeRemoval has storage remember what is known of the removal of a user, or that the
// user is about to be removed.
func (c *Cache) storeRemoval(ctx context.Context, externalID string, about bool) error {
	c.removed.storing.Lock()
	defer c.removed.storing.Unlock()
	key := c.removedFolder() + User{ExternalID: externalID}.Key()[:2]
	stored, err := c.readRemovals(ctx, key)
	if err != nil {
		return err
	}
	at := c.removed.of(ofUser(externalID))
	if about {
		at = time.Now()
	}
	if stored[externalID] = at; at.IsZero() {
		delete(stored, externalID)
	}
	entry, err := logical.StorageEntryJSON(key, stored)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, durable.Timeout)
	defer cancel()
	if len(stored) == 0 && c.storage.Delete(ctx, key) == nil {
		return nil
	}
	return c.storage.Put(ctx, entry) // empty, if it cannot be deleted
}

func (c *Cache) readRemovals(ctx context.Context, key string) (removals, error) {
	ctx, cancel := context.WithTimeout(ctx, durable.Timeout)
	defer cancel()
	stored := removals{}
	entry, err := c.storage.Get(ctx, key)
	if err == nil && entry != nil && json.Unmarshal(entry.Value, &stored) != nil {
		err = errNotOurs
	}
	maps.DeleteFunc(stored, func(_ string, at time.Time) bool { return time.Since(at) > keepRemoved })
	return stored, err
}

// LoadRemoved takes over which users were removed before a restart. It must be called
// before anything is served. If storage cannot be read, nothing that was stored before is
// served, and an error is returned.
func (c *Cache) LoadRemoved() error {
	var mu sync.Mutex
	loaded, now := map[string]time.Time{}, time.Now()
	ctx, cancel := context.WithTimeout(c.ctx, durable.Timeout)
	defer cancel()
	keys, err := c.storage.List(ctx, c.removedFolder())
	if err == nil {
		err = c.each(keys, func(key string) error {
			stored, err := c.readRemovals(ctx, c.removedFolder()+key)
			if err == nil && len(stored) == 0 { // they are too old
				_ = c.storage.Delete(ctx, c.removedFolder()+key)
			}
			mu.Lock()
			defer mu.Unlock()
			for externalID, at := range stored {
				// By the monotonic clock, so that nothing asked for from now on is earlier. A clock
				// that was ahead may have stored a time in the future.
				loaded[ofUser(externalID)] = now.Add(min(0, at.Sub(now)))
			}
			return err
		})
	}
	if err != nil {
		c.logger().Warn("which users were removed could not be read from storage; stored credentials are fetched again", "error", err)
		loaded[everything] = now
	}
	if len(loaded) > 0 {
		c.removed.noteAll(loaded)
	}
	c.removed.unread.Store(err != nil)
	return err
}
