package pipedream

import (
	"context"
	"errors"
	"hash/fnv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// storageTimeout bounds how long a reader can be kept by Vault's storage.
const storageTimeout = 5 * time.Second

// deletes counts the deletes of keys from storage, a few keys to a counter. Who
// wrote a key while it was deleted cannot know which came last, and writes again.
type deletes struct{ counters [256]atomic.Int64 }

func (d *deletes) of(key string) *atomic.Int64 {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(key)) // never fails
	return &d.counters[hash.Sum32()%uint32(len(d.counters))]
}

// storedEntry is an entry as storage keeps it.
type storedEntry struct {
	opaque

	Credential *credential `json:"credential"`
	CacheID    string      `json:"cache_id"`
	CheckedAt  time.Time   `json:"checked_at"`
}

// errNotOurs stands for the decoder's own error, which may quote what it read.
var errNotOurs = errors.New("the stored entry is not one of this engine's")

// load brings an account's entry from storage to memory; nil where there is
// none that may be used. A fault of storage is as good as nothing: Pipedream
// has the credential too.
func (c *cache) load(d demand, id string) *entry {
	ctx, cancel := context.WithTimeout(c.ctx, storageTimeout)
	defer cancel()
	stored, err := c.readStored(ctx, id)
	if err != nil {
		c.logger().Warn("a cached credential could not be read from storage", "account", id, "error", err)
		return nil
	}
	if stored == nil || stored.CacheID != d.config.CacheID {
		return nil
	}
	e := newEntry(stored.Credential, stored.CacheID, stored.CheckedAt)
	if !c.inForce(ctx, e.cacheID) {
		return e // for those who ask over the old connection, and nobody else
	}
	c.replacing.Lock()
	defer c.replacing.Unlock()
	// A fetch may have been faster, or an eviction; what it left is newer.
	switch newer, ok := c.memory.Peek(id); {
	case ok && newer.isTombstone():
		return nil
	case ok && newer.cacheID == e.cacheID:
		return newer
	}
	c.memory.Add(id, e)
	return e
}

// readStored returns an account's entry in storage, whatever cache it belongs to.
func (c *cache) readStored(ctx context.Context, id string) (*storedEntry, error) {
	raw, err := c.storage.Get(ctx, cachePrefix+id)
	if err != nil || raw == nil {
		return nil, err
	}
	var stored storedEntry
	if raw.DecodeJSON(&stored) != nil || stored.Credential == nil || stored.Credential.AccountID != id || len(stored.Credential.Fields) == 0 {
		return nil, errNotOurs
	}
	return &stored, nil
}

// store writes e for the next start of the plugin. A failure costs a request
// then, and nothing now.
func (c *cache) store(ctx context.Context, e *entry) {
	id := e.credential.AccountID
	raw, err := logical.StorageEntryJSON(cachePrefix+id, storedEntry{
		Credential: e.credential,
		CacheID:    e.cacheID,
		CheckedAt:  e.checkedAt,
	})
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
		defer cancel()
		err = c.storage.Put(ctx, raw)
	}
	if err != nil {
		c.logger().Warn("a fetched credential is served, but could not be stored for the next start", "account", id, "error", err)
	}
}

// evict drops an account from memory and storage. Storage may have what memory
// does not, where it failed before or is still being read; the tombstone comes
// first, so that what is being read is not served.
func (c *cache) evict(ctx context.Context, id string) {
	tombstone := newTombstone(id, time.Now())
	c.replacing.Lock()
	known := c.memory.Contains(id)
	c.memory.Add(id, tombstone)
	c.replacing.Unlock()
	if !known && !c.mayBeStored(ctx, id) {
		c.replace(id, tombstone, nil)
		return
	}
	c.deleteStored(ctx, id, tombstone)
}

// mayBeStored tells whether storage has an entry of the account, or cannot say.
func (c *cache) mayBeStored(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
	defer cancel()
	raw, err := c.storage.Get(ctx, cachePrefix+id)
	return raw != nil || err != nil
}

// evictEntry drops an account's entry e, unless another has taken its place. A
// tombstone in its place keeps what storage has of it from being loaded again,
// until a sweep buries it.
func (c *cache) evictEntry(ctx context.Context, id string, e *entry) {
	tombstone := newTombstone(id, time.Now())
	if c.replace(id, e, tombstone) {
		c.deleteStored(ctx, id, tombstone)
	}
}

// bury removes a tombstone once nobody can still be loading what was there
// before it, and storage has let go of that.
func (c *cache) bury(ctx context.Context, id string, tombstone *entry, now time.Time) {
	if now.Sub(tombstone.checkedAt) > 2*storageTimeout && c.deleteStored(ctx, id, tombstone) {
		c.replace(id, tombstone, nil)
	}
}

// deleteStored deletes an account's entry in storage, or what is remembered of
// an external user, and tells whether that could be done. What memory has of it
// since the tombstone is stored again: the delete may have come after it.
func (c *cache) deleteStored(ctx context.Context, id string, tombstone *entry) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
	defer cancel()
	if err := c.storage.Delete(ctx, cachePrefix+id); err != nil {
		c.logger().Warn("an entry of the cache could not be deleted from storage", "key", id, "error", err)
		return false
	}
	c.deletes.of(id).Add(1)
	if key, ok := strings.CutPrefix(id, usersFolder); ok {
		c.users.storeAgain(ctx, key)
	} else {
		c.storeAgain(ctx, id, tombstone)
	}
	return true
}

func (c *cache) storeAgain(ctx context.Context, id string, tombstone *entry) {
	newer, ok := c.memory.Peek(id)
	if ok && newer != tombstone && newer.credential.servable(time.Now()) && c.inForce(ctx, newer.cacheID) {
		c.store(ctx, newer)
	}
}

// replace puts after in the place of before, either of which may be nil for no
// entry, if before is still there.
func (c *cache) replace(id string, before, after *entry) bool {
	c.replacing.Lock()
	defer c.replacing.Unlock()
	if latest, _ := c.memory.Peek(id); latest != before {
		return false
	}
	if after == nil {
		c.memory.Remove(id)
	} else {
		c.memory.Add(id, after)
	}
	return true
}

// empty drops everything that was cached so far, and nothing that is fetched
// meanwhile. The new cache id in config has made it unusable already, so what
// cannot be deleted now is left to the sweep.
func (c *cache) empty(ctx context.Context) {
	c.memory.Purge()
	c.users.memory.Purge()
	ids, err := c.storedIDs(ctx)
	for _, id := range ids {
		if err = ctx.Err(); err != nil {
			break
		}
		if !c.inMemory(id) && !c.deleteStored(ctx, id, nil) {
			err = errNotDeleted
			break
		}
	}
	if err != nil {
		c.sweeper.restart()
		c.logger().Warn("the cache could not be emptied at once; it is never served, and goes with the next sweeps", "error", err)
	}
}

// inMemory tells whether memory has what storage has under id.
func (c *cache) inMemory(id string) bool {
	if key, ok := strings.CutPrefix(id, usersFolder); ok {
		return c.users.memory.Contains(key)
	}
	return c.memory.Contains(id)
}

var errNotDeleted = errors.New("an entry could not be deleted")
