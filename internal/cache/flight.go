package cache

import (
	"sync"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// flight is work that all who want it at the same time share.
type flight[T any] struct {
	claim  *pace.Claim
	landed chan struct{} // closed when the fields below are set
	value  T
	err    error
}

// flights are the flights under way, by name. It is a singleflight whose work
// becomes as urgent as the most urgent of those who join it.
type flights[T any] struct {
	mu     sync.Mutex // guards byName; never held across I/O
	byName map[string]*flight[T]
}

// start joins the flight of that name, or begins one on a goroutine of its own.
func (f *flights[T]) start(name string, logger hclog.Logger, claim func() *pace.Claim, join func(*pace.Claim), work func(*pace.Claim) (T, error)) *flight[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if under, ok := f.byName[name]; ok {
		join(under.claim)
		return under
	}
	if f.byName == nil {
		f.byName = map[string]*flight[T]{}
	}
	begun := &flight[T]{claim: claim(), landed: make(chan struct{})}
	f.byName[name] = begun
	go func() {
		begun.err = guard.Run(logger, func() (err error) {
			begun.value, err = work(begun.claim)
			return err
		})
		f.mu.Lock()
		delete(f.byName, name)
		f.mu.Unlock()
		close(begun.landed)
	}()
	return begun
}
