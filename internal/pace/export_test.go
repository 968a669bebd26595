package pace

import "sync"

// Guard has lock guard b, for tests that measure.
func (b *Budget) Guard(lock sync.Locker) { b.mu = lock }
