// Package pace decides when a request may go to Pipedream. It keeps the requests
// of a mount within its limit, shares that limit fairly, and holds back what
// failed a moment ago.
package pace

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Window is the span in which Pipedream counts account requests.
const Window = time.Minute

const (
	// answerTime is how much time a request must have left once it gets its slot.
	// With less, waiting would only turn a 429 into a time-out.
	answerTime = time.Second
	// checkSlots are reserved for checks of a new configuration if the limit is at
	// least minLimitToKeep. An OAuth client's check takes two requests.
	checkSlots     = 2
	minLimitToKeep = 20
	// minQueue is how many of one caller's unproven requests may always wait.
	minQueue = 8
	// maxUnproven is how many unproven requests may be under way at a time. It
	// bounds them even if there is no limit.
	maxUnproven = 8
)

// NoBudgetError says that the limit is used up.
type NoBudgetError struct {
	// Wait is how long until a request may go out.
	Wait time.Duration
}

func (e *NoBudgetError) Error() string {
	return fmt.Sprintf("the budget of requests is used up for another %s", e.Wait.Round(time.Second))
}

// Budget keeps the requests of one mount within a limit in any 60 seconds. A
// token bucket would not: it adds its burst on top.
//
// A request takes a slot when it goes out, and the slot comes free a minute
// after its answer. Pipedream counts the request somewhere in between. So no
// minute of Pipedream's clock sees more requests than the limit, however long
// they take.
//
// [Known] requests get slots first, in the order in which they came. [Unproven]
// requests get half of the slots at most, and their callers take turns.
type Budget struct {
	mu       sync.Mutex // guards the fields below and all claims; never held across I/O or a wait
	limit    int        // 0: no limit
	inFlight slots      // taken, but not answered yet
	answered []answer   // still in the window; ascending by freeAt
	past     int        // how many of answered were unproven
	known    []*waiter  // first come, first served
	unproven turns
	wakeUp   *time.Timer // calls dispatch when the next slot comes free; nil before the first wait
}

// slots counts slots, and how many of them unproven requests took.
type slots struct{ all, unproven int }

// answer is the slot of a request that was answered.
type answer struct {
	freeAt   time.Time
	unproven bool
}

// NewBudget returns a budget of limit requests a minute; 0 means no limit.
func NewBudget(limit int) *Budget { return &Budget{limit: limit} }

// SetLimit changes the limit. The record of what went out stays, so that writing
// config does not refill the budget.
func (b *Budget) SetLimit(limit int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = limit
	b.dispatch()
}

// Limit returns how many requests a minute are allowed; 0 means no limit.
func (b *Budget) Limit() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limit
}

// Acquire takes a slot for a request of the claim in ctx, or for a [Known] request
// if ctx has no claim. It waits for its turn, and returns a [*NoBudgetError] as
// soon as that turn would come too late for ctx's deadline. The caller must call
// release once the request has been answered.
func (b *Budget) Acquire(ctx context.Context) (release func(), err error) {
	claim := claimOf(ctx)
	if claim == nil {
		claim = b.NewClaim(Known, "")
	}
	unproven, err := b.take(ctx, claim)
	if err != nil {
		return nil, err
	}
	return b.releaser(unproven), nil
}

// TryAcquire takes a slot if one is free now.
func (b *Budget) TryAcquire() (release func(), ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prune(time.Now())
	if b.limit > 0 && b.used().all >= b.limit {
		return nil, false
	}
	b.inFlight.all++
	return b.releaser(false), true
}

func (b *Budget) releaser(unproven bool) func() {
	return sync.OnceFunc(func() { b.release(unproven) })
}

// take waits for a slot and takes it. It reports whether the slot counts as
// unproven.
func (b *Budget) take(ctx context.Context, claim *Claim) (unproven bool, err error) {
	b.mu.Lock()
	if claim.prepaid != nil {
		unproven = *claim.prepaid
		claim.prepaid = nil
		b.mu.Unlock()
		return unproven, nil
	}
	w, err := b.enter(ctx, claim)
	b.mu.Unlock()
	if err != nil {
		return false, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-answerTime))
		defer cancel()
	}
	select {
	case <-w.granted:
		return w.unproven, nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.granted: // at the same moment
		return w.unproven, nil
	default:
	}
	b.leave(claim, w)
	if ctx.Err() == context.DeadlineExceeded {
		return false, &NoBudgetError{Wait: max(b.waitFor(time.Now(), claim.class, len(b.known)), answerTime)}
	}
	return false, ctx.Err()
}

// enter grants the claim a slot, or puts it into the queue. It fails if waiting is
// of no use. The caller holds mu.
func (b *Budget) enter(ctx context.Context, claim *Claim) (*waiter, error) {
	now := time.Now()
	b.prune(now)
	w := &waiter{granted: make(chan struct{})}
	first := claim.class != Known || len(b.known) == 0
	if first && b.waitFor(now, claim.class, 0) == 0 && (claim.class != Unproven || b.unproven.empty()) {
		b.grant(w, claim.class == Unproven)
		return w, nil
	}
	wait := b.waitFor(now, claim.class, len(b.known))
	deadline, ok := ctx.Deadline()
	if !claim.class.waits() || !ok || deadline.Before(now.Add(answerTime)) ||
		claim.class != Unproven && deadline.Before(now.Add(wait+answerTime)) {
		return nil, &NoBudgetError{Wait: wait}
	}
	claim.waiter = w
	if claim.class == Unproven {
		queued := false
		for _, caller := range claim.callers {
			queued = b.unproven.add(caller, w, b.maxQueue()) || queued
		}
		if !queued { // each of them has as many waiting as allowed
			claim.waiter = nil
			return nil, &NoBudgetError{Wait: max(wait, answerTime)}
		}
	} else {
		b.known = append(b.known, w)
	}
	// A slot may have come free just now, and the timer that would hand it out may
	// be late. Only setting that timer again would leave the slot unused.
	b.dispatch()
	return w, nil
}

// maxQueue returns how many of one caller's unproven requests may wait. The caller
// holds mu.
func (b *Budget) maxQueue() int { return max(minQueue, b.share(Unproven)) }

// leave removes a waiter who gave up from the queues. The caller holds mu.
func (b *Budget) leave(claim *Claim, w *waiter) {
	w.gone = true
	if claim.waiter == w {
		claim.waiter = nil
	}
	b.known = slices.DeleteFunc(b.known, func(other *waiter) bool { return other == w })
	b.unproven.drop(claim.callers, w)
}

// grant gives w a slot. The caller holds mu.
func (b *Budget) grant(w *waiter, unproven bool) {
	w.gone, w.unproven = true, unproven
	b.inFlight.all++
	if unproven {
		b.inFlight.unproven++
	}
	close(w.granted)
}

// dispatch hands out the slots that are free. The caller holds mu.
func (b *Budget) dispatch() {
	now := time.Now()
	b.prune(now)
	for len(b.known) > 0 && b.waitFor(now, Known, 0) == 0 {
		b.grant(b.known[0], false)
		b.known = b.known[1:]
	}
	for len(b.known) == 0 && b.waitFor(now, Unproven, 0) == 0 {
		w := b.unproven.next()
		if w == nil {
			break
		}
		b.grant(w, true)
	}
	b.schedule()
}

// schedule sets the timer that calls dispatch when the next slot comes free. The
// caller holds mu.
func (b *Budget) schedule() {
	if len(b.answered) == 0 || len(b.known) == 0 && b.unproven.empty() {
		return // the next release calls dispatch, or nobody waits
	}
	wait := time.Until(b.answered[0].freeAt)
	if b.wakeUp != nil {
		b.wakeUp.Reset(wait)
		return
	}
	b.wakeUp = time.AfterFunc(wait, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.dispatch()
	})
}

// share returns how many slots may be taken for a request of that class to still
// get one. The slots of all classes count, except that for [Unproven] only its own
// count. The caller holds mu.
func (b *Budget) share(class Class) int {
	kept := 0
	if b.limit >= minLimitToKeep {
		kept = checkSlots
	}
	switch class {
	case Check:
		return b.limit
	case Ahead:
		return max(1, b.limit-max(1, b.limit/5))
	case Listing:
		return max(1, b.limit-max(1, b.limit/4))
	case Unproven:
		return max(1, b.limit/2)
	default:
		return b.limit - kept
	}
}

// waitFor returns how long until a slot is free for a request of that class with
// ahead others before it; 0 means now. The caller holds mu and has called prune.
func (b *Budget) waitFor(now time.Time, class Class, ahead int) time.Duration {
	used := b.used()
	if class == Unproven {
		if b.inFlight.unproven >= maxUnproven {
			return answerTime // a guess: until one of them is answered
		}
		if b.limit > 0 && used.unproven >= b.share(Unproven) {
			if i := slices.IndexFunc(b.answered, func(a answer) bool { return a.unproven }); i >= 0 {
				return b.answered[i].freeAt.Sub(now)
			}
			return Window
		}
	}
	if b.limit == 0 {
		return 0
	}
	share := b.share(class)
	if class == Unproven { // of the whole limit, they leave more unused than the other classes
		share = max(1, b.limit-max(1, b.limit*3/10))
	}
	over := used.all + ahead - share
	switch {
	case over < 0:
		return 0
	case over < len(b.answered):
		return b.answered[over].freeAt.Sub(now)
	default: // taken by requests that are still under way
		return Window
	}
}

// used counts the slots that are taken. The caller holds mu.
func (b *Budget) used() slots {
	return slots{all: b.inFlight.all + len(b.answered), unproven: b.inFlight.unproven + b.past}
}

// release has the slot of an answered request come free after Window.
func (b *Budget) release(unproven bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.returned(unproven)
	b.answered = append(b.answered, answer{freeAt: time.Now().Add(Window), unproven: unproven})
	if unproven {
		b.past++
	}
	b.dispatch()
}

// returned takes a slot off those in flight. The caller holds mu.
func (b *Budget) returned(unproven bool) {
	b.inFlight.all--
	if unproven {
		b.inFlight.unproven--
	}
}

// prune forgets the slots that are free by now. The caller holds mu.
func (b *Budget) prune(now time.Time) {
	n, _ := slices.BinarySearchFunc(b.answered, now, func(a answer, now time.Time) int {
		if a.freeAt.After(now) {
			return 1
		}
		return -1
	})
	for _, a := range b.answered[:n] {
		if a.unproven {
			b.past--
		}
	}
	b.answered = slices.Delete(b.answered, 0, n)
}

// NextFree returns how long a [Known] request that asks now would have to wait.
func (b *Budget) NextFree() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.prune(now)
	return b.waitFor(now, Known, len(b.known))
}

// Used returns how many requests count against the limit now.
func (b *Budget) Used() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prune(time.Now())
	return b.used().all
}

// Left returns how many requests may go out now; -1 means no limit.
func (b *Budget) Left() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit == 0 {
		return -1
	}
	b.prune(time.Now())
	return max(0, b.limit-b.used().all-len(b.known))
}

// Pages returns how many requests of a class an unspent budget allows within
// span; -1 means no limit.
func (b *Budget) Pages(class Class, span time.Duration) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit == 0 {
		return -1
	}
	return b.share(class) * int((span+Window-1)/Window)
}

// Sleep waits for d, or until ctx ends and returns its error.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
