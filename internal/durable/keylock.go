package durable

import (
	"context"
	"sync"
)

// keyLocks lets one at a time work at a key. No reader of memory takes one, so
// it may be held across a call to storage.
//
// Each lock is a channel and not a mutex, so that a wait for it can end with a
// context, and tests in fake time see that it waits.
type keyLocks struct {
	mu   sync.Mutex // guards held; never held across I/O or a wait
	held map[string]*keyLock
}

type keyLock struct {
	free  chan struct{} // has an element while the lock is held
	users int           // that hold it or wait for it
}

// lock waits for the lock of key, or for the end of ctx and returns its error.
func (k *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyLock{}
	}
	l := k.held[key]
	if l == nil {
		l = &keyLock{free: make(chan struct{}, 1)}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()
	select {
	case l.free <- struct{}{}:
		return func() {
			<-l.free
			k.leave(key, l)
		}, nil
	case <-ctx.Done():
		k.leave(key, l)
		return nil, ctx.Err()
	}
}

func (k *keyLocks) leave(key string, l *keyLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.held, key)
	}
}
