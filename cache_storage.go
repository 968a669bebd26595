package pipedream

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// storageTimeout bounds how long a reader can be kept by Vault's storage.
const storageTimeout = 5 * time.Second

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
	evictions := c.evictions.Load()
	stored, err := c.readStored(ctx, id)
	if err != nil {
		c.logger().Warn("a cached credential could not be read from storage", "account", id, "error", err)
		return nil
	}
	if stored == nil || stored.CacheID != d.config.CacheID {
		return nil
	}
	e := newEntry(stored.Credential, stored.CacheID, stored.CheckedAt)
	c.replacing.Lock()
	defer c.replacing.Unlock()
	if c.evictions.Load() != evictions {
		return nil
	}
	// A fetch may have been faster; its entry is newer.
	if newer, ok := c.memory.Peek(id); ok && newer.cacheID == e.cacheID {
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

// evict drops an account from memory and storage.
func (c *cache) evict(ctx context.Context, id string) {
	if e, ok := c.memory.Peek(id); ok {
		c.evictEntry(ctx, id, e)
	} else {
		c.evictEntry(ctx, id, nil)
	}
}

// evictEntry drops an account's entry e, nil for what is in storage alone,
// unless another has taken its place. Until storage has let go of it, a
// tombstone keeps it from being loaded again; where storage cannot, the
// tombstone stays, and the next sweep tries again.
func (c *cache) evictEntry(ctx context.Context, id string, e *entry) {
	tombstone := newTombstone(id)
	c.evictions.Add(1)
	if !c.replace(id, e, tombstone) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
	defer cancel()
	if err := c.storage.Delete(ctx, cachePrefix+id); err != nil {
		c.logger().Warn("an entry of the cache could not be deleted from storage", "account", id, "error", err)
		return
	}
	if !c.replace(id, tombstone, nil) {
		// Fetched meanwhile, and perhaps deleted from storage by the above.
		if newer, ok := c.memory.Peek(id); ok && newer.credential.servable(time.Now()) {
			c.store(ctx, newer)
		}
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

// empty drops everything. The new cache id in config has made it unusable
// already, so what cannot be deleted now is left to the sweep.
func (c *cache) empty(ctx context.Context, storage logical.Storage) {
	c.memory.Purge()
	if err := logical.ClearView(ctx, logical.NewStorageView(storage, cachePrefix)); err != nil {
		c.sweeper.restart()
		c.logger().Warn("the cache could not be emptied at once; it is never served, and goes with the next sweeps", "error", err)
	}
}
