package cache

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// flight is work that is shared by all who want it at the same time.
type flight[T any] struct {
	claim  *pace.Claim
	began  time.Time
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
// claim on budget. It reports whether it joined one.
func (f *flights[T]) start(name string, budget *pace.Budget, class pace.Class, caller string, logger hclog.Logger, work func(*pace.Claim) (T, error)) (started *flight[T], joined bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if underWay, ok := f.byName[name]; ok {
		underWay.claim.Join(class, caller)
		return underWay, true
	}
	if f.byName == nil {
		f.byName = map[string]*flight[T]{}
	}
	started = &flight[T]{claim: budget.NewClaim(class, caller), began: time.Now(), landed: make(chan struct{})}
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
	return started, false
}

// await waits for the flight that start starts or joins. A flight that was joined may
// end before its turn came, because its first caller waited for too long. Then await
// starts again.
func await[T any](ctx context.Context, start func() (f *flight[T], joined bool)) (value T, err error) {
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
