package cache

import (
	"sync"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// flight is work that is shared by all who want it at the same time.
type flight[T any] struct {
	claim  *pace.Claim
	landed chan struct{} // closed once the fields below are set
	value  T
	err    error
}

// flights has the flights under way, by name. It is a singleflight whose work becomes
// as urgent as the most urgent caller who joins it.
type flights[T any] struct {
	mu     sync.Mutex // guards byName; never held across I/O
	byName map[string]*flight[T]
}

// start joins the flight of that name, or starts one on a goroutine of its own with a
// claim on budget.
func (f *flights[T]) start(name string, budget *pace.Budget, class pace.Class, caller string, logger hclog.Logger, work func(*pace.Claim) (T, error)) *flight[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	if underWay, ok := f.byName[name]; ok {
		underWay.claim.Join(class, caller)
		return underWay
	}
	if f.byName == nil {
		f.byName = map[string]*flight[T]{}
	}
	started := &flight[T]{claim: budget.NewClaim(class, caller), landed: make(chan struct{})}
	f.byName[name] = started
	go func() {
		started.err = guard.Run(logger, func() (err error) {
			started.value, err = work(started.claim)
			return err
		})
		f.mu.Lock()
		delete(f.byName, name)
		f.mu.Unlock()
		close(started.landed)
	}()
	return started
}
