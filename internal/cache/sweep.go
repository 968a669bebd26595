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
	// sweepEvery is how often the keys in storage are listed, and sweepBatch how
	// many of them a pass looks into, so that no pass reads them all.
	sweepEvery = time.Hour
	sweepBatch = 500
)

// Sweeper walks through what a mount's caches have in storage, a batch a pass,
// and deletes what is of no more use. It moves what version 0.1 stored.
type Sweeper struct {
	storage logical.Storage
	logger  func() hclog.Logger

	legacyGone atomic.Bool // nothing of version 0.1 is left

	mu       sync.Mutex // guards the fields below; not held across storage
	pending  []string   // keys below Prefix
	listedAt time.Time
}

// NewSweeper returns a sweeper of a mount's storage.
func NewSweeper(storage logical.Storage, logger func() hclog.Logger) *Sweeper {
	return &Sweeper{storage: storage, logger: logger}
}

// LegacyGone tells whether nothing of version 0.1 is left in storage.
func (s *Sweeper) LegacyGone() bool { return s.legacyGone.Load() }

// Sweep looks at the next batch. current is the cache in use by then, nil for
// none: another may take its place meanwhile, and must lose nothing.
func (s *Sweeper) Sweep(ctx context.Context, current func() *Cache, policy credential.Policy) {
	for _, key := range s.batch(ctx) {
		if ctx.Err() != nil {
			return
		}
		if err := s.sweep(ctx, current(), policy, key); err != nil && ctx.Err() == nil {
			s.logger().Warn("an entry of the cache could not be looked at for its sweep", "key", Prefix+key, "error", err)
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

// sweepStored deletes what storage has of an account, or of an external user
// whose account is not cached any more: a search costs no more than to fetch it.
func (c *Cache) sweepStored(ctx context.Context, policy credential.Policy, key string) error {
	if user, ok := strings.CutPrefix(key, usersFolder); ok {
		return c.users.Sweep(ctx, user, func(f found, _ bool) bool { return c.has(ctx, f.AccountID) })
	}
	return c.credentials.Sweep(ctx, key, func(e *entry, inMemory bool) bool { return inMemory || usable(e, policy) })
}

func (c *Cache) move(ctx context.Context, policy credential.Policy, key string) error {
	if user, ok := strings.CutPrefix(key, usersFolder); ok {
		return c.users.Move(ctx, user, func(f found) bool { return c.has(ctx, f.AccountID) })
	}
	return c.credentials.Move(ctx, key, func(e *entry) bool { return usable(e, policy) })
}

// has tells whether an account's credential is cached.
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

// batch returns the keys that are to be looked at now.
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

// keys are all keys below Prefix, users after accounts.
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

// Empty deletes all that is stored but for the generation to keep, until ctx
// ends. Nobody reads it any more, so what cannot be deleted now is left to the
// sweeps.
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
		s.logger().Warn("the cache could not be emptied at once; it is never served, and goes with the next sweeps", "error", err)
	}
}

// Forget drops what memory has of a key of storage that was changed elsewhere.
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
