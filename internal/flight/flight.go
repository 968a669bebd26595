// Package flight shares work among all who want it at the same time. It is a
// singleflight whose work becomes as urgent as the most urgent caller who joins it.
package flight

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// Flight is work under way.
type Flight[T any] struct {
	Claim  *pace.Claim
	Began  time.Time
	landed chan struct{} // closed once the fields below are set
	value  T
	err    error
}

// Group has the flights under way, by name. The zero value has none.
type Group[T any] struct {
	mu     sync.Mutex // guards byName; never held across I/O
	byName map[string]*Flight[T]
}

// Start joins the flight of that name, or starts one on a goroutine of its own with a
// claim on budget. It reports whether it joined one.
func (f *Group[T]) Start(name string, budget *pace.Budget, class pace.Class, caller pace.Caller, logger hclog.Logger, work func(*pace.Claim) (T, error)) (started *Flight[T], joined bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if underWay, ok := f.byName[name]; ok {
		underWay.Claim.Join(class, caller)
		return underWay, true
	}
	if f.byName == nil {
		f.byName = map[string]*Flight[T]{}
	}
	started = &Flight[T]{Claim: budget.NewClaim(class, caller), Began: time.Now(), landed: make(chan struct{})}
	f.byName[name] = started
	go func() {
		started.err = guard.Run(logger, func() (err error) {
			started.value, err = work(started.Claim)
			return err
		})
		f.mu.Lock()
		delete(f.byName, name)
		f.mu.Unlock()
		close(started.landed)
	}()
	return started, false
}

// Await waits for the flight that start starts or joins, which goes on when ctx ends. A
// flight that was joined may end before its turn came, because its first caller waited
// for too long. Then Await starts again.
func Await[T any](ctx context.Context, start func() (f *Flight[T], joined bool)) (value T, err error) {
	for {
		f, joined := start()
		select {
		case <-f.landed:
			if !joined || !api.Unsent(f.err) {
				return f.value, f.err
			}
		case <-ctx.Done():
			return value, ctx.Err()
		}
	}
}
