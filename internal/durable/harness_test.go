package durable

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// The operations of storage.
const (
	get    = "get"
	put    = "put"
	remove = "delete"
)

var errStorage = errors.New("storage is on fire")

// lateStorage is storage that is as slow, and fails as often, as a test says. When
// its caller gives up, it gives up too, without an effect.
type lateStorage struct {
	logical.InmemStorage

	mu     sync.Mutex // guards the fields below
	fault  func(operation, key string) (late time.Duration, err error)
	served []string        // operations and keys, in the order in which they came
	lacks  map[string]bool // keys whose last put failed
}

// does sets how slow storage is and when it fails, from now on.
func (s *lateStorage) does(fault func(operation, key string) (time.Duration, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// isLate makes one operation slow.
func (s *lateStorage) isLate(operation string, late time.Duration) {
	s.does(func(op, _ string) (time.Duration, error) {
		if op == operation {
			return late, nil
		}
		return 0, nil
	})
}

// fails makes some operations fail.
func (s *lateStorage) fails(operations ...string) {
	s.does(func(op, _ string) (time.Duration, error) {
		for _, operation := range operations {
			if op == operation {
				return 0, errStorage
			}
		}
		return 0, nil
	})
}

// isWell makes all operations fast and successful again.
func (s *lateStorage) isWell() { s.does(nil) }

func (s *lateStorage) serve(ctx context.Context, operation, key string) error {
	s.mu.Lock()
	s.served = append(s.served, operation+" "+key)
	fault := s.fault
	s.mu.Unlock()
	if fault == nil {
		return ctx.Err()
	}
	late, err := fault(operation, key)
	timer := time.NewTimer(late)
	defer timer.Stop()
	select {
	case <-timer.C:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *lateStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := s.serve(ctx, get, key); err != nil {
		return nil, err
	}
	return s.InmemStorage.Get(context.WithoutCancel(ctx), key)
}

func (s *lateStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	err := s.serve(ctx, put, entry.Key)
	s.mu.Lock()
	s.lacks[entry.Key] = err != nil
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.InmemStorage.Put(context.WithoutCancel(ctx), entry)
}

func (s *lateStorage) Delete(ctx context.Context, key string) error {
	if err := s.serve(ctx, remove, key); err != nil {
		return err
	}
	return s.InmemStorage.Delete(context.WithoutCancel(ctx), key)
}

// operations returns the operations since its last call.
func (s *lateStorage) operations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	served := s.served
	s.served = nil
	return served
}

// store is a store of numbers. They are below "new/".
type store struct {
	*Store[int]
	*testing.T

	storage *lateStorage
	logs    *bytes.Buffer // to be read only while nothing goes on
}

// most and maxBytes bound the memory of a store. A number takes 10 bytes for each
// of its digits.
const (
	most     = 8
	maxBytes = 200
)

func inBubble(t *testing.T, f func(*testing.T, *store)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newStore(t)) })
}

func newStore(t *testing.T) *store {
	t.Helper()
	s := &store{T: t, storage: &lateStorage{lacks: map[string]bool{}}, logs: &bytes.Buffer{}}
	logger := hclog.New(&hclog.LoggerOptions{Output: s.logs, Level: hclog.Trace})
	decode := func(_ string, stored []byte) (int, error) {
		if bytes.Equal(stored, []byte("panic")) {
			panic("a value that no decoder expected")
		}
		n, err := strconv.Atoi(string(stored))
		if err != nil {
			return 0, errors.New("not a number")
		}
		return n, nil
	}
	s.Store = New(t.Context(), s.storage, "new/", most, maxBytes, Codec[int]{
		Name:   "number",
		Encode: func(n int) ([]byte, error) { return []byte(strconv.Itoa(n)), nil },
		Decode: decode,
		Size:   func(n int) int { return 10 * len(strconv.Itoa(n)) },
	}, func() hclog.Logger { return logger })
	return s
}

// restarted returns a store with an empty memory on the same storage.
func (s *store) restarted() *store {
	s.Helper()
	other := newStore(s.T)
	other.Store.storage, other.storage = s.storage, s.storage
	return other
}

// put sets the number of a key, whatever is there.
func (s *store) put(key string, n int) {
	s.Helper()
	require.Equal(s, n, s.Update(key, func(int, bool) (int, bool) { return n, true }))
}

// load returns what a reader of key finds; -1 for nothing, also if storage fails.
func (s *store) load(key string) int {
	s.Helper()
	n, ok, err := s.Load(s.Context(), key)
	if err != nil {
		require.False(s, ok)
		require.NoError(s, s.Context().Err())
		return -1
	}
	if !ok {
		return -1
	}
	return n
}

// inMemory returns what memory has of key; -1 for nothing.
func (s *store) inMemory(key string) int {
	if n, ok := s.Peek(key); ok {
		return n
	}
	return -1
}

// stored returns what storage has under one of its own keys; -1 for nothing.
func (s *store) stored(key string) int {
	s.Helper()
	entry, err := s.storage.InmemStorage.Get(context.Background(), key)
	require.NoError(s, err)
	if entry == nil {
		return -1
	}
	n, err := strconv.Atoi(string(entry.Value))
	require.NoError(s, err)
	return n
}

// has puts something into storage behind the store's back.
func (s *store) has(key, value string) {
	s.Helper()
	require.NoError(s, s.storage.InmemStorage.Put(context.Background(), &logical.StorageEntry{Key: key, Value: []byte(value)}))
}

// agree asserts that memory and storage both have n of key; -1 is nothing.
func (s *store) agree(key string, n int) {
	s.Helper()
	require.Equal(s, n, s.inMemory(key), "memory")
	require.Equal(s, n, s.stored("new/"+key), "storage")
}

// after waits until nothing else can go on, and runs f on a goroutine of its own.
// It returns a channel that is closed when f returns.
func after(f func()) <-chan struct{} {
	synctest.Wait()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f()
	}()
	synctest.Wait()
	return ended
}

// open reports whether what closes ended still goes on.
func open(ended <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-ended:
		return false
	default:
		return true
	}
}

func key(i int) string { return fmt.Sprintf("key-%d", i) }
