package durable

import (
	"context"
	"sync"
)

// keyLocks has a lock for each key. Readers of memory take none, so a lock may be
// held across a call to storage.
//
// Each lock is a channel, not a mutex. So a wait for it can end with a context, and
// is visible to tests in fake time.
type keyLocks struct {
	mu   sync.Mutex // guards held; never held across I/O or a wait
	held map[string]*keyLock
}

type keyLock struct {
	held  chan struct{} // has an element while the lock is held
	users int           // how many hold it or wait for it
}

// lock waits for the lock of key, or until ctx ends and returns its error.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyLock{}
	}
	l := k.held[key]
	if l == nil {
		l = &keyLock{held: make(chan struct{}, 1)}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()
	select {
	case l.held <- struct{}{}:
		return func() {
			<-l.held
			k.leave(key, l)
		}, nil
	case <-ctx.Done():
		k.leave(key, l)
		return nil, ctx.Err()
	}
}

// leave counts one user less, and drops a lock without users.
func (k *keyLocks) leave(key string, l *keyLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.held, key)
	}
}
