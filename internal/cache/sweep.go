package cache

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
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
// pass, and deletes what is no longer of use. It moves entries of version 0.1.
type Sweeper struct {
	storage logical.Storage
	logger  func() hclog.Logger

	legacyGone atomic.Bool // whether nothing is left from version 0.1

	mu       sync.Mutex // guards the fields below; never held across storage
	pending  []string   // keys below Prefix
	listedAt time.Time
}

// NewSweeper returns a sweeper for a mount's storage.
func NewSweeper(storage logical.Storage, logger func() hclog.Logger) *Sweeper {
	return &Sweeper{storage: storage, logger: logger}
}

// LegacyGone reports whether storage has nothing left from version 0.1.
func (s *Sweeper) LegacyGone() bool { return s.legacyGone.Load() }

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
	generation, rest, inFolder := strings.Cut(key, "/")
	legacy := !inFolder || generation+"/" == usersFolder
	switch {
	case current != nil && legacy:
		return current.move(ctx, policy, key)
	case current != nil && generation == current.generation:
		return current.sweepStored(ctx, policy, rest)
	default:
		ctx, cancel := context.WithTimeout(ctx, durable.Timeout)
		defer cancel()
		return s.storage.Delete(ctx, Prefix+key)
	}
}

// sweepStored deletes an account from storage if it is no longer of use, or an
// external user whose account is no longer cached. To search for that user again
// costs no more than to fetch the account.
func (c *Cache) sweepStored(ctx context.Context, policy credential.Policy, key string) error {
	if user, ok := strings.CutPrefix(key, usersFolder); ok {
		return c.users.Sweep(ctx, user, func(f found, _ bool) bool { return c.has(ctx, f.AccountID) })
	}
	return c.credentials.Sweep(ctx, key, func(e *entry, inMemory bool) bool { return inMemory || usable(e, policy) })
}

// move moves an entry of version 0.1 if it is still of use.
func (c *Cache) move(ctx context.Context, policy credential.Policy, key string) error {
	if user, ok := strings.CutPrefix(key, usersFolder); ok {
		return c.users.Move(ctx, user, func(f found) bool { return c.has(ctx, f.AccountID) })
	}
	return c.credentials.Move(ctx, key, func(e *entry) bool { return usable(e, policy) })
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
	return !e.Ended(now) && !e.Abandoned(policy, now)
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

// keys returns all keys below Prefix. Those of a generation's users come after
// those of its accounts.
func (s *Sweeper) keys(ctx context.Context) ([]string, error) {
	top, err := s.storage.List(ctx, Prefix)
	if err != nil {
		return nil, err
	}
	var keys []string
	legacy := false
	for _, key := range top {
		if !strings.HasSuffix(key, "/") {
			keys = append(keys, key)
			legacy = true
			continue
		}
		inside, err := s.storage.List(ctx, Prefix+key)
		if err != nil {
			return nil, err
		}
		legacy = legacy || key == usersFolder
		users := false
		for _, name := range inside {
			if name == usersFolder {
				users = true
				continue
			}
			keys = append(keys, key+name)
		}
		if !users {
			continue
		}
		inside, err = s.storage.List(ctx, Prefix+key+usersFolder)
		if err != nil {
			return nil, err
		}
		for _, name := range inside {
			keys = append(keys, key+usersFolder+name)
		}
	}
	s.legacyGone.Store(!legacy)
	return keys, nil
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
