package cache

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/durable"
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
	for _, key := range s.batch(ctx) {
		if ctx.Err() != nil {
			return
		}
		if err := s.sweep(ctx, current(), policy, key); err != nil && ctx.Err() == nil {
			s.logger().Warn("an entry of the cache could not be checked during the sweep", "key", Prefix+key, "error", err)
		}
	}
}

// sweep looks at one key.
func (s *Sweeper) sweep(ctx context.Context, current *Cache, policy credential.Policy, key string) error {
	generation, rest, _ := strings.Cut(key, "/")
	if current != nil && generation == current.generation {
		return current.sweepStored(ctx, policy, rest)
	}
	ctx, cancel := context.WithTimeout(ctx, durable.Timeout)
	defer cancel()
	return s.storage.Delete(ctx, Prefix+key)
}

// sweepStored deletes an account from storage if it is no longer of use, or an
// external user whose account is no longer cached. To search for that user again
// costs no more than to fetch the account.
func (c *Cache) sweepStored(ctx context.Context, policy credential.Policy, key string) error {
	if user, ok := strings.CutPrefix(key, usersFolder); ok {
		return c.users.Sweep(ctx, user, func(f found, _ bool) bool { return c.has(ctx, f.AccountID) })
	}
	unconfirmed := false
	err := c.credentials.Sweep(ctx, key, func(e *entry, inMemory bool) bool {
		unconfirmed = e.Unconfirmed()
		return inMemory || usable(e, policy)
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

// has reports whether an account's credential is cached.
func (c *Cache) has(ctx context.Context, id string) bool {
	if _, ok := c.credentials.Peek(id); ok {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, durable.Timeout)
	defer cancel()
	return c.credentials.Stored(ctx, id)
}

func usable(e *entry, policy credential.Policy) bool {
	now := time.Now()
	return !e.Ended(now) && !e.Abandoned(policy, true, now)
}

// batch returns the keys to look at now.
func (s *Sweeper) batch(ctx context.Context) []string {
	now := time.Now()
	s.mu.Lock()
	list := len(s.pending) == 0 && (s.listedAt.IsZero() || now.Sub(s.listedAt) >= sweepEvery)
	s.mu.Unlock()
	if list {
		keys, err := s.keys(ctx)
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

// keys returns all keys below Prefix.
func (s *Sweeper) keys(ctx context.Context) ([]string, error) {
	return logical.CollectKeys(ctx, logical.NewStorageView(s.storage, Prefix))
}

// Empty deletes everything from storage except the generation to keep. It stops
// when ctx ends. The sweeps delete later what it cannot, which nobody reads any
// more.
func (s *Sweeper) Empty(ctx context.Context, keep string) {
	keys, err := s.keys(ctx)
	for _, key := range keys {
		if keep != "" && strings.HasPrefix(key, keep+"/") {
			continue
		}
		if err = ctx.Err(); err == nil {
			ctx, cancel := context.WithTimeout(ctx, durable.Timeout)
			err = s.storage.Delete(ctx, Prefix+key)
			cancel()
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		s.mu.Lock()
		s.pending, s.listedAt = nil, time.Time{}
		s.mu.Unlock()
		s.logger().Warn("the cache could not be emptied at once; it is never served, and the next sweeps delete it", "error", err)
	}
}

// Forget drops a key of storage from memory, because another node changed it.
func (c *Cache) Forget(key string) {
	name, ok := strings.CutPrefix(key, Prefix+c.generation+"/")
	if !ok {
		return
	}
	if user, ok := strings.CutPrefix(name, usersFolder); ok {
		c.users.Forget(user)
		return
	}
	c.credentials.Forget(name)
}
