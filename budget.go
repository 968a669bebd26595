package pipedream

import (
	"context"
	"slices"
	"sync"
	"time"
)

// budgetWindow is the span in which Pipedream counts account requests.
const budgetWindow = time.Minute

// answerTime is what a caller that gets its slot late must have left for its
// request, else waiting would only turn a 429 into a time-out.
const answerTime = time.Second

// budget keeps the requests of one mount within limit for every 60 seconds,
// wherever they begin. A token bucket would not: it adds its burst on top.
//
// A request takes a slot when it goes out and gives it back a minute after
// its answer. Pipedream counted it somewhere in between, so however long it
// was under way, no window of Pipedream's clock sees more than the limit.
type budget struct {
	mu       sync.Mutex  // guards the fields below; never held across I/O or a wait
	limit    int         // 0: no limit
	inFlight int         // requests without an answer yet
	waiting  int         // callers that wait for a slot
	freeAt   []time.Time // when each answered request leaves the window; ascending
}

// setLimit changes the limit and keeps the record of what went out, so that
// writing config does not refill the budget.
func (b *budget) setLimit(limit int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = limit
}

// reserved is the part of the budget that is left alone, as a divisor: at
// least a slot, else a low limit would have none to leave.
func reserved(c *config, divisor int) int { return max(1, c.RateLimit/divisor) }

// acquire takes a slot. Where none is free it waits its turn, and fails at
// once with a failNoBudget error if that would come too late for ctx's deadline.
// A caller that leaves reserve slots to more urgent ones never waits.
// The caller must call release when its request has been answered.
func (b *budget) acquire(ctx context.Context, reserve int) (release func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ahead := b.waiting
	for {
		now := time.Now()
		wait := b.waitFor(now, ahead, reserve)
		if wait == 0 {
			b.inFlight++
			return sync.OnceFunc(b.release), nil
		}
		deadline, ok := ctx.Deadline()
		if reserve > 0 || !ok || deadline.Before(now.Add(wait+answerTime)) {
			return nil, &apiError{kind: failNoBudget, retryAfter: wait}
		}
		b.waiting++
		b.mu.Unlock()
		err := sleep(ctx, wait)
		b.mu.Lock()
		b.waiting--
		if err != nil {
			return nil, err
		}
		ahead = 0 // its turn has come; those who wait now came later
	}
}

// waitFor says how long until a slot is free for a caller that has ahead
// others before it and leaves reserve slots alone; 0 means now.
func (b *budget) waitFor(now time.Time, ahead, reserve int) time.Duration {
	b.prune(now)
	if b.limit == 0 {
		return 0
	}
	over := len(b.freeAt) + b.inFlight + ahead - max(1, b.limit-reserve)
	switch {
	case over < 0:
		return 0
	case over < len(b.freeAt):
		return b.freeAt[over].Sub(now)
	default: // taken by requests that are still under way
		return budgetWindow
	}
}

func (b *budget) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight--
	b.freeAt = append(b.freeAt, time.Now().Add(budgetWindow))
}

func (b *budget) prune(now time.Time) {
	n, _ := slices.BinarySearchFunc(b.freeAt, now, func(t, now time.Time) int {
		if t.After(now) {
			return 1
		}
		return -1
	})
	b.freeAt = slices.Delete(b.freeAt, 0, n)
}

// nextFree is how long until a request may go out that asks now.
func (b *budget) nextFree() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waitFor(time.Now(), b.waiting, 0)
}

// left is how many requests may go out now; -1 where there is no limit.
func (b *budget) left() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit == 0 {
		return -1
	}
	b.prune(time.Now())
	return max(0, b.limit-len(b.freeAt)-b.inFlight-b.waiting)
}

// sleep waits for d, or for the end of ctx and returns its error.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
