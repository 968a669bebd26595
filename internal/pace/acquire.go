package pace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// NoBudgetError says that the limit is used up.
type NoBudgetError struct {
	// Wait is how long until a request may go out.
	Wait time.Duration
}

func (e *NoBudgetError) Error() string {
	return fmt.Sprintf("the budget of requests is used up for another %s", e.Wait.Round(time.Second))
}

// Acquire takes a slot for a request of the claim in ctx, or for a [Known] request
// if ctx has no claim. It waits for its turn, and returns a [*NoBudgetError] as
// soon as that turn would come too late for ctx's deadline. The caller must call
// release once the request has been answered.
func (b *Budget) Acquire(ctx context.Context) (release func(), err error) {
	claim, _ := ctx.Value(claimKey{}).(*Claim)
	if claim == nil {
		claim = b.NewClaim(Known, Caller{})
	}
	taken, err := b.take(ctx, claim)
	if err != nil {
		return nil, err
	}
	return b.releaser(*taken), nil
}

// take waits for a slot, and takes it.
func (b *Budget) take(ctx context.Context, claim *Claim) (taken *slot, err error) {
	var granted chan struct{}
	b.Do(func(now time.Time) {
		if claim.line != nil { // a request of the same work waits already
			claim = &Claim{budget: b, class: claim.class, callers: slices.Clone(claim.callers)}
		}
		granted, err = b.enter(ctx, claim, now)
		taken, claim.taken = claim.taken, nil
	})
	if err != nil || taken != nil {
		return taken, err
	}
	return b.await(ctx, claim, granted)
}

// TryAcquire takes a slot if one is free now.
func (b *Budget) TryAcquire() (release func(), ok bool) {
	b.Do(func(time.Time) {
		if ok = b.limit == 0 || b.used() < b.limit; ok {
			b.charge(slot{})
		}
	})
	return b.releaser(slot{}), ok
}

func (b *Budget) releaser(taken slot) func() {
	return sync.OnceFunc(func() { b.Do(func(now time.Time) { b.release(taken, now) }) })
}

// enter grants the claim a slot, or has it wait for one until granted is closed. It
// fails if waiting is of no use.
func (b *Budget) enter(ctx context.Context, claim *Claim, now time.Time) (granted chan struct{}, err error) {
	if claim.taken != nil {
		return nil, nil
	}
	if claim.class != Known && claim.class != Unproven { // these do not queue for a slot that is free
		wait := b.freeIn(now, claim.class, 0)
		if wait == 0 {
			b.charge(slot{})
			claim.taken, claim.granted = &slot{}, now
			return nil, nil
		}
		if !claim.class.waits() {
			return nil, &NoBudgetError{Wait: b.wait(now, claim)}
		}
	}
	wait := b.wait(now, claim)
	if claim.class == Unproven && !claim.MayQueue() {
		return nil, &NoBudgetError{Wait: max(wait, answerTime)}
	}
	granted = make(chan struct{})
	b.own(claim.class).Add(claim, func() {
		claim.Leave()
		close(granted)
	})
	b.run(now)
	deadline, ok := ctx.Deadline()
	if claim.line != nil && (!ok || deadline.Before(now.Add(answerTime)) || claim.class != Unproven && deadline.Before(now.Add(wait+answerTime))) {
		claim.Leave()
		return nil, &NoBudgetError{Wait: max(wait, b.freeIn(now, claim.class, 0))}
	}
	return granted, nil
}

// await waits until a claim is granted its slot.
func (b *Budget) await(ctx context.Context, claim *Claim, granted chan struct{}) (taken *slot, err error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-answerTime))
		defer cancel()
	}
	select {
	case <-granted:
	case <-ctx.Done():
	}
	b.Do(func(now time.Time) {
		if taken, claim.taken = claim.taken, nil; taken != nil { // maybe at the same moment
			return
		}
		claim.Leave()
		if err = ctx.Err(); errors.Is(err, context.DeadlineExceeded) {
			err = &NoBudgetError{Wait: max(b.wait(now, claim), answerTime)}
		}
	})
	if taken == nil && err == nil { // another request of the same work came first, and took the slot
		return b.take(ctx, claim)
	}
	return taken, err
}
