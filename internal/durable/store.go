// Package durable puts a bounded memory in front of Vault's storage.
package durable

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-pipedream/internal/guard"
)

// Timeout bounds how long anybody can be kept by Vault's storage.
const Timeout = 5 * time.Second

// Codec is how a store treats its values.
type Codec[V any] struct {
	// Name is what log lines call a value.
	Name string
	// Encode and Decode turn a value into what storage keeps, and back. Their
	// errors are logged, so they must not hold any of it.
	Encode func(V) ([]byte, error)
	Decode func(key string, stored []byte) (V, error)
	// Size is about how many bytes a value takes in memory.
	Size func(V) int
	// Legacy is where a value was kept by older versions; nil for nowhere.
	Legacy *Legacy[V]
}

// Legacy is where older versions kept values. A value there is read until it was
// moved.
type Legacy[V any] struct {
	// Key is the key in storage.
	Key func(key string) string
	// Decode turns what is there into a value; not ok where that is of no use.
	Decode func(key string, stored []byte) (value V, ok bool)
	// Gone tells whether there is nothing left there.
	Gone func() bool
}

// Store keeps values by key: in memory, the least recently used go first, and
// behind that in Vault's storage, which has them all.
//
// Reading memory takes no lock but that of the memory itself. Whatever writes,
// deletes or loads a key holds the lock of that key, across the call to storage
// and for [Timeout] at most, and looks at memory again once it has it. So what
// storage and memory have of a key never differs, however late storage is,
// except where storage fails: what could not be stored is in memory alone, and
// what could not be deleted is remembered, never loaded, and deleted later.
type Store[V any] struct {
	ctx     context.Context // ends with the mount
	storage logical.Storage
	prefix  string
	codec   Codec[V]
	logger  func() hclog.Logger

	keys  keyLocks
	loads singleflight.Group

	mu       sync.Mutex // guards the fields below, and all changes of memory; never held across I/O
	memory   *lru.Cache[string, sized[V]]
	bytes    int
	maxBytes int
	deleted  map[string]struct{} // could not be deleted from storage
}

type sized[V any] struct {
	value V
	size  int
}

// New returns a store of what is below prefix in storage, with most values and
// about maxBytes bytes in memory. What it does on nobody's behalf ends with ctx.
func New[V any](ctx context.Context, storage logical.Storage, prefix string, most, maxBytes int, codec Codec[V], logger func() hclog.Logger) *Store[V] {
	s := &Store[V]{
		ctx: ctx, storage: storage, prefix: prefix, codec: codec, logger: logger,
		maxBytes: maxBytes, deleted: map[string]struct{}{},
	}
	var err error
	s.memory, err = lru.NewWithEvict(most, func(_ string, gone sized[V]) { s.bytes -= gone.size })
	if err != nil { // only for a size below 1
		panic(err)
	}
	return s
}

// Get returns what memory has under key.
func (s *Store[V]) Get(key string) (value V, ok bool) {
	found, ok := s.memory.Get(key)
	return found.value, ok
}

// Peek is Get without counting as a use.
func (s *Store[V]) Peek(key string) (value V, ok bool) {
	found, ok := s.memory.Peek(key)
	return found.value, ok
}

// Load returns what memory or storage has under key, and keeps it in memory.
// All who load a key share one call to storage, which goes on when they give
// up. A fault of storage is logged and as good as nothing. The error is ctx's.
func (s *Store[V]) Load(ctx context.Context, key string) (value V, ok bool, err error) {
	if value, ok = s.Get(key); ok {
		return value, true, nil
	}
	loaded := s.loads.DoChan(key, func() (any, error) {
		var found *V
		_ = guard.Run(s.logger(), func() error { // then there is nothing
			found = s.load(key)
			return nil
		})
		return found, nil
	})
	select {
	case result := <-loaded:
		if found := result.Val.(*V); found != nil {
			return *found, true, nil
		}
		return value, false, nil
	case <-ctx.Done():
		return value, false, ctx.Err()
	}
}

// load is Load for all who share it; nil for nothing.
func (s *Store[V]) load(key string) *V {
	ctx, cancel := context.WithTimeout(s.ctx, Timeout)
	defer cancel()
	unlock, err := s.keys.lock(ctx, key)
	if err != nil {
		return nil
	}
	defer unlock()
	if value, ok := s.Peek(key); ok {
		return &value
	}
	if s.isDeleted(key) {
		return nil
	}
	value, ok, err := s.read(ctx, key)
	if err != nil {
		s.logger().Warn("a "+s.codec.Name+" could not be read from storage", "key", s.prefix+key, "error", err)
		return nil
	}
	if !ok {
		return nil
	}
	s.remember(key, value)
	return &value
}

// read returns what storage has under key. The caller holds the key's lock, or
// only looks.
func (s *Store[V]) read(ctx context.Context, key string) (value V, ok bool, err error) {
	entry, err := s.storage.Get(ctx, s.prefix+key)
	switch {
	case err != nil:
		return value, false, err
	case entry != nil:
		value, err = s.codec.Decode(key, entry.Value)
		return value, err == nil, err
	default:
		return s.readLegacy(ctx, key)
	}
}

func (s *Store[V]) readLegacy(ctx context.Context, key string) (value V, ok bool, err error) {
	old := s.codec.Legacy
	if old == nil || old.Gone() {
		return value, false, nil
	}
	entry, err := s.storage.Get(ctx, old.Key(key))
	if err != nil || entry == nil {
		return value, false, err
	}
	value, ok = old.Decode(key, entry.Value)
	return value, ok, nil
}

// Move takes a value from where older versions kept it to where it is kept now,
// if it is of use and nothing is there, and deletes it from the old place.
func (s *Store[V]) Move(ctx context.Context, key string, useful func(V) bool) error {
	unlock, err := s.keys.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	value, ok, err := s.readLegacy(ctx, key)
	if err != nil {
		return err
	}
	if ok && useful(value) && !s.isDeleted(key) {
		there, err := s.storage.Get(ctx, s.prefix+key)
		if err != nil {
			return err
		}
		if there == nil {
			if err := s.write(ctx, key, value); err != nil {
				return err
			}
		}
	}
	return s.storage.Delete(ctx, s.codec.Legacy.Key(key))
}

// Update puts a value under key: what merge makes of what memory has, and
// whether storage has to have it too. Storage comes first, so that a restart
// finds whatever a reader was given. Where it fails, the value is in memory
// alone. Where storage keeps others waiting for the key, it is in neither. Update
// returns the value.
func (s *Store[V]) Update(key string, merge func(latest V, known bool) (value V, store bool)) V {
	ctx, cancel := context.WithTimeout(s.ctx, Timeout)
	defer cancel()
	unlock, err := s.keys.lock(ctx, key)
	latest, known := s.Peek(key)
	value, store := merge(latest, known)
	if err != nil { // storage has kept others for so long that it would keep this one too
		s.logger().Warn("a "+s.codec.Name+" is served once, and neither kept nor stored", "key", s.prefix+key, "error", err)
		return value
	}
	defer unlock()
	if store {
		ctx, cancel := context.WithTimeout(s.ctx, Timeout)
		defer cancel()
		if err := s.write(ctx, key, value); err != nil {
			s.warnOfStorage(key, err)
		}
	}
	s.remember(key, value)
	return value
}

// write stores a value. The caller holds the key's lock.
func (s *Store[V]) write(ctx context.Context, key string, value V) error {
	raw, err := s.codec.Encode(value)
	if err != nil {
		return err
	}
	if err := s.storage.Put(ctx, &logical.StorageEntry{Key: s.prefix + key, Value: raw}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.deleted, key)
	return nil
}

func (s *Store[V]) warnOfStorage(key string, err error) {
	s.logger().Warn("a "+s.codec.Name+" is served, but could not be stored for the next start", "key", s.prefix+key, "error", err)
}

// Delete drops what memory and storage have under key. Memory comes first, so
// that nobody is served what is being deleted. What storage does not have costs
// no write. What it cannot delete now is never loaded again, and is deleted by
// [Store.DeleteLater].
func (s *Store[V]) Delete(key string) {
	known := s.Forget(key)
	ctx, cancel := context.WithTimeout(s.ctx, Timeout)
	defer cancel()
	unlock, err := s.keys.lock(ctx, key)
	if err != nil {
		s.noteDeleted(key)
		return
	}
	defer unlock()
	known = s.Forget(key) || known
	ctx, cancel = context.WithTimeout(s.ctx, Timeout)
	defer cancel()
	if known || s.Stored(ctx, key) {
		s.erase(ctx, key)
	}
}

// DeleteIf is Delete where memory has a value for which is holds.
func (s *Store[V]) DeleteIf(ctx context.Context, key string, is func(V) bool) {
	unlock, err := s.keys.lock(ctx, key)
	if err != nil {
		return
	}
	defer unlock()
	if value, ok := s.Peek(key); !ok || !is(value) {
		return
	}
	s.Forget(key)
	ctx, cancel := context.WithTimeout(s.ctx, Timeout)
	defer cancel()
	s.erase(ctx, key)
}

// Stored tells whether storage has something under key, or cannot say.
func (s *Store[V]) Stored(ctx context.Context, key string) bool {
	_, ok, err := s.read(ctx, key)
	return ok || err != nil
}

// erase deletes a key from storage. The caller holds the key's lock.
func (s *Store[V]) erase(ctx context.Context, key string) {
	err := s.storage.Delete(ctx, s.prefix+key)
	if old := s.codec.Legacy; err == nil && old != nil && !old.Gone() {
		err = s.storage.Delete(ctx, old.Key(key))
	}
	if err != nil {
		s.logger().Warn("a "+s.codec.Name+" could not be deleted from storage", "key", s.prefix+key, "error", err)
		s.noteDeleted(key)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.deleted, key)
}

func (s *Store[V]) noteDeleted(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleted[key] = struct{}{}
}

func (s *Store[V]) isDeleted(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.deleted[key]
	return ok
}

// DeleteLater deletes from storage what could not be deleted before, until ctx
// ends.
func (s *Store[V]) DeleteLater(ctx context.Context) {
	s.mu.Lock()
	keys := slices.Collect(maps.Keys(s.deleted))
	s.mu.Unlock()
	for _, key := range keys {
		unlock, err := s.keys.lock(ctx, key)
		if err != nil {
			return
		}
		if s.isDeleted(key) { // and was not stored anew since
			ctx, cancel := context.WithTimeout(ctx, Timeout)
			s.erase(ctx, key)
			cancel()
		}
		unlock()
	}
}

// Sweep deletes a key if it is of no more use: useful is asked about what memory
// has under it, or else storage. It returns storage's error.
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

// Forget drops what memory has under key, and tells whether it had anything.
func (s *Store[V]) Forget(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory.Remove(key)
}

// Values are all values in memory, the least recently used first.
func (s *Store[V]) Values() []V {
	found := s.memory.Values()
	values := make([]V, len(found))
	for i, f := range found {
		values[i] = f.value
	}
	return values
}

// Len is how many values memory has.
func (s *Store[V]) Len() int { return s.memory.Len() }

// Bytes is about how many bytes the values in memory take.
func (s *Store[V]) Bytes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// remember puts a value into memory, and makes room for it.
func (s *Store[V]) remember(key string, value V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, _ := s.memory.Peek(key)
	size := s.codec.Size(value)
	s.bytes += size - before.size
	s.memory.Add(key, sized[V]{value: value, size: size})
	for s.memory.Len() > 1 && s.bytes > s.maxBytes {
		s.memory.RemoveOldest()
	}
}
