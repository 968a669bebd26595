package cache

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/durable"
	"vault-plugin-secrets-pipedream/internal/guard"
)

const (
	// sweepEvery is how often the keys in storage are listed. sweepBatch is how many
	// of them one pass looks at, so that no pass reads all of them.
	sweepEvery = time.Hour
	sweepBatch = 500
)

// Sweeper goes through what the caches of a mount have in storage, one batch a
// pass, and deletes what is no longer of use.
type Sweeper struct {
	storage logical.Storage
	logger  func() hclog.Logger

	mu       sync.Mutex // guards the fields below; never held across storage
	pending  []string   // keys below Prefix
	listedAt time.Time
}

// NewSweeper returns a sweeper for a mount's storage.
func NewSweeper(storage logical.Storage, logger func() hclog.Logger) *Sweeper {
	return &Sweeper{storage: storage, logger: logger}
}

// Sweep looks at the next batch of keys. It calls current for each of them, because
// the cache in use may change meanwhile, and the new one must lose nothing. current
// returns nil if no cache is in use.
func (s *Sweeper) Sweep(ctx context.Context, current func() *Cache, policy credential.Policy) {
	batch := s.batch(ctx, current)
	for i, key := range batch {
		err := s.sweep(ctx, current(), policy, key)
		if ctx.Err() != nil { // the next sweep goes on from here
			s.mu.Lock()
			s.pending = slices.Concat(batch[i:], s.pending)
			s.mu.Unlock()
			return
		}
		if err != nil {
			s.logger().Warn("an entry of the cache could not be checked during the sweep", "key", Prefix+key, "error", err)
		}
	}
}

// sweep looks at one key.
func (s *Sweeper) sweep(ctx context.Context, current *Cache, policy credential.Policy, key string) error {
	folder, rest, _ := strings.Cut(key, "/")
	switch {
	case current != nil && folder == current.generation:
		return current.sweepStored(ctx, policy, rest)
	case current != nil && folder == current.place:
		return nil // users are kept until their account is at fault
	default:
		return s.delete(ctx, key)
	}
}

func (s *Sweeper) delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, durable.Timeout)
	defer cancel()
	return s.storage.Delete(ctx, Prefix+key)
}

// sweepStored deletes an account from storage if it is no longer of use.
func (c *Cache) sweepStored(ctx context.Context, policy credential.Policy, key string) error {
	unconfirmed := false
	err := c.credentials.Sweep(ctx, key, func(e *entry, inMemory bool) bool {
		unconfirmed = e.Unconfirmed()
		return inMemory || c.usable(e, policy)
	})
	if err != nil || !unconfirmed {
		return err
	}
	// Its time in storage is in the future, and would look like a good one later.
	if e, ok, err := c.credentials.Load(ctx, key); ok && err == nil {
		c.credentials.Replace(ctx, key, func(latest *entry) bool { return latest == e }, e)
	}
	return nil
}

// hasEnded reports whether e has ended for sure. A clock that may be wrong proves nothing.
func hasEnded(e *entry, now clock.Moment) bool { return e.Ended(now) && !now.Unsure && !now.Jumped }

func (c *Cache) usable(e *entry, policy credential.Policy) bool {
	now := c.clock.Now()
	return !hasEnded(e, now) && !e.Abandoned(policy, true, now.Here) && !c.removed.isOutdated(e.AccountID, e.OwnerOrLast(), e.CheckedAt)
}

// batch returns the keys to look at now.
func (s *Sweeper) batch(ctx context.Context, current func() *Cache) []string {
	now := time.Now()
	s.mu.Lock()
	list := len(s.pending) == 0 && (s.listedAt.IsZero() || now.Sub(s.listedAt) >= sweepEvery)
	s.mu.Unlock()
	if list {
		keys, err := s.keys(ctx, current())
		if err != nil {
			s.logger().Warn("the stored cache could not be listed for its sweep", "error", err)
			return nil
		}
		s.mu.Lock()
		s.pending, s.listedAt = keys, now
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(sweepBatch, len(s.pending))
	batch := s.pending[:n]
	s.pending = s.pending[n:]
	return batch
}

// keys returns all keys below Prefix, except the users of the cache in use.
func (s *Sweeper) keys(ctx context.Context, current *Cache) (keys []string, err error) {
	folders, err := s.storage.List(ctx, Prefix)
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		if current != nil && folder == current.place+"/" {
			continue
		}
		inside, err := s.inside(ctx, folder)
		if err != nil {
			return nil, err
		}
		keys = append(keys, inside...)
	}
	return keys, nil
}

// inside returns all keys in a folder, or the key itself if it is none.
func (s *Sweeper) inside(ctx context.Context, folder string) ([]string, error) {
	if !strings.HasSuffix(folder, "/") {
		return []string{folder}, nil
	}
	keys, err := logical.CollectKeys(ctx, logical.NewStorageView(s.storage, Prefix+folder))
	for i := range keys {
		keys[i] = folder + keys[i]
	}
	return keys, err
}

// Empty deletes a folder that is no longer in use, and never will be again, on a
// goroutine of its own. It stops when ctx ends. The sweeps delete later what it
// cannot. Nobody reads it any more.
func (s *Sweeper) Empty(ctx context.Context, folder string) {
	guard.Go(s.logger(), func() {
		keys, err := s.inside(ctx, folder+"/")
		for _, key := range keys {
			if err != nil {
				break
			}
			err = s.delete(ctx, key)
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.pending, s.listedAt = nil, time.Time{}
		s.mu.Unlock()
		s.logger().Warn("the cache could not be emptied at once; it is never served, and the next sweeps delete it", "error", err)
	})
}

// Forget drops a key of storage from memory, because another node changed it.
func (c *Cache) Forget(key string) {
	switch folder, name, _ := strings.Cut(strings.TrimPrefix(key, Prefix), "/"); folder {
	case c.generation:
		c.credentials.Forget(name)
	case c.place:
		c.users.Forget(name)
	}
}
