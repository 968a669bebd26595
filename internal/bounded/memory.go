// Package bounded keeps values in memory within a number of entries and of bytes.
package bounded

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Memory keeps values by key. What was not used for the longest time makes room for what
// comes. It may be used by several goroutines.
type Memory[K comparable, V any] struct {
	size     func(K, V) int
	maxBytes int

	mu      sync.RWMutex // guards the fields below; never held across I/O
	entries *simplelru.LRU[K, sized[V]]
	bytes   int
}

type sized[V any] struct {
	value V
	size  int // when it was put; a value may grow later
}

// New returns an empty memory. size returns about how many bytes an entry takes. An entry
// that is larger than maxBytes is kept alone.
func New[K comparable, V any](maxEntries, maxBytes int, size func(K, V) int) *Memory[K, V] {
	m := &Memory[K, V]{size: size, maxBytes: maxBytes}
	var err error
	m.entries, err = simplelru.NewLRU(maxEntries, func(_ K, gone sized[V]) { m.bytes -= gone.size })
	if err != nil { // only for a number below 1
		panic(err)
	}
	return m
}

// Get returns the value of key, and counts as a use of it.
func (m *Memory[K, V]) Get(key K) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.entries.Get(key)
	return found.value, ok
}

// Peek is like [Memory.Get], but does not count as a use.
func (m *Memory[K, V]) Peek(key K) (value V, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	found, ok := m.entries.Peek(key)
	return found.value, ok
}

// Put sets the value of key, and makes room for it.
func (m *Memory[K, V]) Put(key K, value V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, _ := m.entries.Peek(key)
	size := m.size(key, value)
	m.bytes += size - before.size
	m.entries.Add(key, sized[V]{value: value, size: size})
	for m.entries.Len() > 1 && m.bytes > m.maxBytes {
		m.entries.RemoveOldest()
	}
}

// Remove drops key and reports whether it was there.
func (m *Memory[K, V]) Remove(key K) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.entries.Remove(key)
}

// RemoveIf drops all entries that are useless.
func (m *Memory[K, V]) RemoveIf(useless func(K, V) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range m.entries.Keys() {
		if found, ok := m.entries.Peek(key); ok && useless(key, found.value) {
			m.entries.Remove(key)
		}
	}
}

// Clear drops all entries.
func (m *Memory[K, V]) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries.Purge()
}

// Values returns all values, the least recently used first.
func (m *Memory[K, V]) Values() []V {
	m.mu.RLock()
	defer m.mu.RUnlock()
	values := make([]V, 0, m.entries.Len())
	for _, found := range m.entries.Values() {
		values = append(values, found.value)
	}
	return values
}

// Len returns how many entries there are.
func (m *Memory[K, V]) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.entries.Len()
}

// Bytes returns about how many bytes they take.
func (m *Memory[K, V]) Bytes() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.bytes
}
