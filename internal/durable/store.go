// Package durable keeps values in a bounded memory in front of Vault's storage.
package durable

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-pipedream/internal/bounded"
	"vault-plugin-secrets-pipedream/internal/guard"
)

// Timeout bounds how long a caller can be kept waiting by one call to Vault's
// storage, or for the lock of a key.
const Timeout = 5 * time.Second

// Codec says how a store handles its values.
type Codec[V any] struct {
	// Name is what log lines call a value.
	Name string
	// Encode and Decode convert a value to what storage keeps, and back. Their errors
	// are logged, so these must not contain any of it.
	Encode func(V) ([]byte, error)
	Decode func(key string, stored []byte) (V, error)
	// Size returns about how many bytes a value takes in memory.
	Size func(V) int
}

// Store keeps values by key. Storage has all of them, and memory those that were
// used most recently.
//
// Reading memory takes no lock except that of the memory itself. Whatever writes,
// deletes or loads a key holds the lock of that key across the call to storage,
// for [Timeout] at most, and looks at memory again once it has the lock. So memory
// and storage agree about a key, however slow storage is, unless storage fails. A
// key that could not be stored or deleted is remembered and never loaded, and
// [Store.Settle] tries again.
type Store[V any] struct {
	ctx     context.Context // ends when the mount does
	storage logical.Storage
	prefix  string
	codec   Codec[V]
	logger  func() hclog.Logger

	keys  keyLocks
	loads singleflight.Group

	mu        sync.Mutex // guards the fields below, and all changes of memory; never held across I/O
	memory    *bounded.Memory[string, V]
	unsettled map[string]struct{} // keys that could not be stored or deleted
}

// New returns a store of the keys below prefix in storage. It keeps up to
// maxEntries values, of about maxBytes bytes together, in memory. Calls to storage that several callers share
// end with ctx.
func New[V any](ctx context.Context, storage logical.Storage, prefix string, maxEntries, maxBytes int, codec Codec[V], logger func() hclog.Logger) *Store[V] {
	return &Store[V]{
		ctx: ctx, storage: storage, prefix: prefix, codec: codec, logger: logger,
		memory:    bounded.New(maxEntries, maxBytes, func(_ string, value V) int { return codec.Size(value) }),
		unsettled: map[string]struct{}{},
	}
}

// Get returns the value of key that is in memory.
func (s *Store[V]) Get(key string) (value V, ok bool) { return s.memory.Get(key) }

// Peek is like [Store.Get], but does not count as a use.
func (s *Store[V]) Peek(key string) (value V, ok bool) { return s.memory.Peek(key) }

// Load returns the value of key from memory or storage, and keeps it in memory.
// All callers who load a key share one call to storage, which goes on when they
// give up. The error is that of ctx, or of storage. The latter is logged.
func (s *Store[V]) Load(ctx context.Context, key string) (value V, ok bool, err error) {
	if value, ok = s.Get(key); ok {
		return value, true, nil
	}
	loaded := s.loads.DoChan(key, func() (any, error) {
		var found *V
		err := guard.Run(s.logger(), func() (err error) {
			found, err = s.load(key)
			return err
		})
		return found, err
	})
	select {
	case result := <-loaded:
		if found := result.Val.(*V); found != nil {
			return *found, true, nil
		}
		return value, false, result.Err
	case <-ctx.Done():
		return value, false, ctx.Err()
	}
}

// load does the work of Load for all callers who share it. It returns nil if there
// is nothing.
func (s *Store[V]) load(key string) (*V, error) {
	ctx, cancel := context.WithTimeout(s.ctx, Timeout)
	defer cancel()
	unlock, err := s.keys.lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if value, ok := s.Peek(key); ok {
		return &value, nil
	}
	if s.isUnsettled(key) { // what storage has is outdated
		return nil, nil
	}
	entry, err := s.storage.Get(ctx, s.prefix+key)
	if err != nil {
		s.warnUnread(key, err)
		return nil, err
	}
	if entry == nil {
		return nil, nil
	}
	value, err := s.codec.Decode(key, entry.Value)
	if err != nil { // it is as good as none
		s.warnUnread(key, err)
		return nil, nil
	}
	s.remember(key, value)
	return &value, nil
}

func (s *Store[V]) warnUnread(key string, err error) {
	s.logger().Warn("a "+s.codec.Name+" could not be read from storage", "key", s.prefix+key, "error", err)
}

// Update sets the value of key to what merge makes of the one in memory, and
// returns it. merge also says whether it must be stored. Storage comes before
// memory, so that a restart finds everything that a reader was given. If storage
// fails, the value is in memory only. If the key's lock is not free in time,
// because storage keeps others waiting, the value is kept in neither.
func (s *Store[V]) Update(key string, merge func(latest V, known bool) (value V, store bool)) V {
	ctx, cancel := context.WithTimeout(s.ctx, Timeout)
	defer cancel()
	unlock, err := s.keys.lock(ctx, key)
	latest, known := s.Peek(key)
	value, store := merge(latest, known)
	if err != nil { // storage kept others waiting, and would keep this caller waiting too
		s.logger().Warn("a "+s.codec.Name+" is served once, and neither kept nor stored", "key", s.prefix+key, "error", err)
		return value
	}
	defer unlock()
	if store {
		_ = s.put(key, value)
	} else {
		s.remember(key, value)
	}
	return value
}

// put sets a value in storage, and then in memory, in any case. The caller holds the
// key's lock.
func (s *Store[V]) put(key string, value V) error {
	ctx, cancel := context.WithTimeout(s.ctx, Timeout)
	defer cancel()
	raw, err := s.codec.Encode(value)
	if err == nil {
		err = s.storage.Put(ctx, &logical.StorageEntry{Key: s.prefix + key, Value: raw})
	}
	s.setUnsettled(key, err != nil)
	if err != nil {
		s.logger().Warn("a "+s.codec.Name+" is served, but could not be stored for the next start", "key", s.prefix+key, "error", err)
	}
	s.remember(key, value)
	return err
}

// Delete deletes key from memory and storage. Memory comes first, so that no
// reader gets a value that is being deleted. A key that storage does not have
// costs no write. A key that storage cannot delete now is never loaded again, and
// [Store.Settle] deletes it.
func (s *Store[V]) Delete(key string) {
	known := s.Forget(key)
	ctx, cancel := context.WithTimeout(s.ctx, Timeout)
	defer cancel()
	unlock, err := s.keys.lock(ctx, key)
	if err != nil {
		s.setUnsettled(key, true)
		return
	}
	defer unlock()
	known = s.Forget(key) || known
	ctx, cancel = context.WithTimeout(s.ctx, Timeout)
	defer cancel()
	if !known {
		entry, err := s.storage.Get(ctx, s.prefix+key)
		known = entry != nil || err != nil
	}
	if known {
		_ = s.erase(ctx, key)
	}
}

// Unstore deletes key from storage alone. If memory has its value, that stays there, and
// [Store.Restore] or [Store.Settle] stores it again. It returns the error of storage, or
// that the key's lock was not free in time.
func (s *Store[V]) Unstore(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	unlock, err := s.keys.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.erase(ctx, key); err != nil {
		return err
	}
	if _, ok := s.Peek(key); ok {
		s.setUnsettled(key, true)
	}
	return nil
}

// Restore stores again what [Store.Unstore] deleted, if memory still has it.
func (s *Store[V]) Restore(ctx context.Context, key string) { _ = s.settle(ctx, key) }

// DeleteIf deletes key from memory and storage if memory has a value that matches.
func (s *Store[V]) DeleteIf(ctx context.Context, key string, matches func(V) bool) {
	s.changeIf(ctx, key, matches, func() {
		s.Forget(key)
		_ = s.erase(s.ctx, key)
	})
}

// Replace sets the value of key in memory and storage if memory has one that matches. Unlike [Store.Update], it never brings back what was deleted.
func (s *Store[V]) Replace(ctx context.Context, key string, matches func(V) bool, value V) {
	s.changeIf(ctx, key, matches, func() { _ = s.put(key, value) })
}

func (s *Store[V]) changeIf(ctx context.Context, key string, matches func(V) bool, change func()) {
	unlock, err := s.keys.lock(ctx, key)
	if err != nil {
		return
	}
	defer unlock()
	if value, ok := s.Peek(key); ok && matches(value) {
		change()
	}
}

// erase deletes a key from storage. The caller holds the key's lock.
func (s *Store[V]) erase(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	err := s.storage.Delete(ctx, s.prefix+key)
	if err != nil {
		s.logger().Warn("a "+s.codec.Name+" could not be deleted from storage", "key", s.prefix+key, "error", err)
	}
	s.setUnsettled(key, err != nil)
	return err
}

// setUnsettled notes whether storage disagrees with memory about key.
func (s *Store[V]) setUnsettled(key string, unsettled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if unsettled {
		s.unsettled[key] = struct{}{}
	} else {
		delete(s.unsettled, key)
	}
}

func (s *Store[V]) isUnsettled(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.unsettled[key]
	return ok
}

// Settle stores and deletes what could not be stored or deleted before. It stops
// when ctx ends, or when storage fails again.
func (s *Store[V]) Settle(ctx context.Context) {
	s.mu.Lock()
	keys := slices.Collect(maps.Keys(s.unsettled))
	s.mu.Unlock()
	for _, key := range keys {
		if s.settle(ctx, key) != nil {
			return
		}
	}
}

func (s *Store[V]) settle(ctx context.Context, key string) error {
	unlock, err := s.keys.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	if !s.isUnsettled(key) { // it was stored or deleted since
		return nil
	}
	if value, ok := s.Peek(key); ok {
		return s.put(key, value)
	}
	return s.erase(ctx, key)
}

// Sweep deletes key unless its value is useful. It asks useful about the value in
// memory, and about the one in storage if memory has no useful one. It returns the
// error of storage.
func (s *Store[V]) Sweep(ctx context.Context, key string, useful func(value V, inMemory bool) bool) error {
	unlock, err := s.keys.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	if value, ok := s.Peek(key); ok {
		if useful(value, true) {
			return nil
		}
		s.Forget(key)
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	entry, err := s.storage.Get(ctx, s.prefix+key)
	if err != nil || entry == nil {
		return err
	}
	if value, err := s.codec.Decode(key, entry.Value); err == nil && useful(value, false) {
		return nil
	}
	return s.storage.Delete(ctx, s.prefix+key)
}

// Forget drops key from memory and reports whether it was there.
func (s *Store[V]) Forget(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory.Remove(key)
}

// Values returns all values in memory, the least recently used first.
func (s *Store[V]) Values() []V { return s.memory.Values() }

// Len returns how many values are in memory.
func (s *Store[V]) Len() int { return s.memory.Len() }

// Bytes returns about how many bytes the values in memory take.
func (s *Store[V]) Bytes() int { return s.memory.Bytes() }

// remember puts a value into memory and makes room for it.
func (s *Store[V]) remember(key string, value V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memory.Put(key, value)
}
