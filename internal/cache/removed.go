package cache

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/durable"
)

// maxRemoved bounds how many removals are remembered. Whatever Pipedream was asked for
// before the oldest ones has been answered long ago.
const maxRemoved = 10_000

// Removed remembers which accounts and external users were removed at Pipedream, and
// when that was answered. What Pipedream was asked for before then is not believed,
// wherever it still is: in a fetch, a page, a search, a write or a reader's hands. So
// nothing of it needs to be found and stopped. The zero value is ready for use.
type Removed struct {
	mu sync.Mutex // held by those who change at; never held across I/O
	// at has the time of the latest removal, by [Removed.ofUser] or an account's id. The
	// map never changes once it is here, because every read looks at it.
	at atomic.Pointer[map[string]time.Time]
}

// everything is the name of all accounts.
const everything = ""

// ofUser returns the name of an external user, which no account's id is equal to.
func (r *Removed) ofUser(externalID string) string { return "user/" + externalID }

// userAt returns when a user was last removed; zero for never.
func (r *Removed) userAt(externalID string) time.Time {
	if at := r.at.Load(); at != nil {
		return (*at)[r.ofUser(externalID)]
	}
	return time.Time{}
}

// note notes that something was removed at that time.
func (r *Removed) note(now time.Time, names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := map[string]time.Time{}
	if before := r.at.Load(); before != nil {
		at = maps.Clone(*before)
	}
	for _, name := range names {
		if now.After(at[name]) {
			at[name] = now
		}
	}
	if len(at) > maxRemoved {
		byAge := slices.SortedFunc(maps.Keys(at), func(a, b string) int { return at[a].Compare(at[b]) })
		for _, name := range byAge[:len(at)-maxRemoved/2] {
			delete(at, name)
		}
	}
	r.at.Store(&at)
}

// isOutdated reports whether the account, or its external user, was removed after
// Pipedream was asked for it.
func (r *Removed) isOutdated(id, externalID string, asked time.Time) bool {
	at := r.at.Load()
	if at == nil {
		return false
	}
	return asked.Before((*at)[id]) || asked.Before((*at)[r.ofUser(externalID)]) || asked.Before((*at)[everything])
}

// hasOutdated reports whether one of the listed accounts was removed since.
func (r *Removed) hasOutdated(l *listed) bool {
	return slices.ContainsFunc(slices.Concat(l.accounts, l.elsewhere), func(a *Owned) bool { return r.isOutdated(a.ID, a.ExternalID, l.asked) })
}

// keepRemoved is how long storage remembers that a user was removed. By then, nothing that
// was stored before is left.
const keepRemoved = 90 * 24 * time.Hour

// removedUser is an external user whose removal is stored. Accounts of theirs that
// Pipedream no longer lists may be in storage, under ids that nobody can name. So a
// restart must know whose are not to be served.
type removedUser struct {
	ExternalID string    `json:"external_user_id"`
	At         time.Time `json:"at"`
}

// removedFolder is where removals of users are in storage, for all generations of the place.
func (c *Cache) removedFolder() string { return Prefix + c.place + "/removed/" }

// storeRemoved stores that a user was removed at that time; never, if it is zero.
func (c *Cache) storeRemoved(ctx context.Context, externalID string, at time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, durable.Timeout)
	defer cancel()
	key := c.removedFolder() + User{ExternalID: externalID}.Key()
	if at.IsZero() {
		return c.storage.Delete(ctx, key)
	}
	entry, err := logical.StorageEntryJSON(key, removedUser{ExternalID: externalID, At: at})
	if err != nil {
		return err
	}
	return c.storage.Put(ctx, entry)
}

// LoadRemoved takes over which users were removed before a restart. It must be called
// before anything is served. If storage cannot be read, nothing that was stored before is
// served.
func (c *Cache) LoadRemoved(ctx context.Context) {
	keys, err := c.storage.List(ctx, c.removedFolder())
	if err == nil {
		err = c.each(keys, func(key string) error { return c.loadRemoved(ctx, c.removedFolder()+key) })
	}
	if err != nil {
		c.logger().Warn("which users were removed could not be read from storage; stored credentials are fetched again", "error", err)
		c.removed.note(time.Now(), everything)
	}
}

func (c *Cache) loadRemoved(ctx context.Context, key string) error {
	entry, err := c.storage.Get(ctx, key)
	if err != nil || entry == nil {
		return err
	}
	var u removedUser
	if json.Unmarshal(entry.Value, &u) != nil || time.Since(u.At) > keepRemoved {
		_ = c.storage.Delete(ctx, key) // or the next start does
		return nil
	}
	c.removed.note(u.At, c.removed.ofUser(u.ExternalID))
	return nil
}
