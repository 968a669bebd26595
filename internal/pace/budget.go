// Package pace decides when a request may go to Pipedream. It keeps the requests
// of a mount within its limit, shares that limit fairly, and holds back what
// failed a moment ago.
package pace

import (
	"context"
	"fmt"
	"math"
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
	// forOthers bounds how much of the budget one caller may use: that many times as
	// many slots as it leaves to others. A caller who is alone gets two thirds. The
	// more callers take all they can get, the less each of them gets, and the less is
	// left for the next one. It applies if the limit is at least minLimitToKeep.
	forOthers = 2
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
// [Known] requests get slots first, and [Unproven] requests get half of the slots at
// most. Callers take turns, and a caller's known requests leave some slots to others.
type Budget struct {
	mu       sync.Mutex     // guards the fields below, all claims and all lines; never held across I/O or a wait
	limit    int            // 0: no limit
	inFlight slots          // taken, but not answered yet
	answered []answer       // still in the window; ascending by freeAt
	past     int            // how many of answered were unproven
	byCaller map[string]int // slots that each caller's known requests have, in flight or answered
	known    turns
	unproven turns
	wakeUp   *time.Timer // calls dispatch when the next slot comes free; nil before the first wait
}

// slots counts slots, and how many of them unproven requests took.
type slots struct{ all, unproven int }

// slot is a slot that a request took.
type slot struct {
	unproven bool
	caller   string // whose known request took it; empty for the engine's, and for other classes
}

// answer is the slot of a request that was answered.
type answer struct {
	slot

	freeAt time.Time
}

// NewBudget returns a budget of limit requests a minute; 0 means no limit.
func NewBudget(limit int) *Budget { return &Budget{limit: limit, byCaller: map[string]int{}} }

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
	taken, err := b.take(ctx, claim)
	if err != nil {
		return nil, err
	}
	return b.releaser(taken), nil
}

// TryAcquire takes a slot if one is free now.
func (b *Budget) TryAcquire() (release func(), ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prune(time.Now())
	if b.limit > 0 && b.used().all >= b.limit {
		return nil, false
	}
	b.charge(slot{})
	return b.releaser(slot{}), true
}

func (b *Budget) releaser(taken slot) func() {
	return sync.OnceFunc(func() { b.release(taken) })
}

// take waits for a slot and takes it.
func (b *Budget) take(ctx context.Context, claim *Claim) (slot, error) {
	b.mu.Lock()
	if claim.prepaid != nil {
		taken := *claim.prepaid
		claim.prepaid = nil
		b.mu.Unlock()
		return taken, nil
	}
	w, err := b.enter(ctx, claim)
	b.mu.Unlock()
	if err != nil {
		return slot{}, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-answerTime))
		defer cancel()
	}
	select {
	case <-w.granted:
		return w.taken, nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.granted: // at the same moment
		return w.taken, nil
	default:
	}
	w.leave()
	if ctx.Err() == context.DeadlineExceeded {
		return slot{}, &NoBudgetError{Wait: max(b.waitOf(time.Now(), claim), answerTime)}
	}
	return slot{}, ctx.Err()
}

// enter grants the claim a slot, or puts it into a queue. It fails if waiting is of
// no use. The caller holds mu.
func (b *Budget) enter(ctx context.Context, claim *Claim) (*waiter, error) {
	now := time.Now()
	b.prune(now)
	w := &waiter{claim: claim, line: &b.known, granted: make(chan struct{})}
	switch claim.class {
	case Known:
	case Unproven:
		w.line = &b.unproven
	default: // these do not queue for a slot that is free
		if b.waitFor(now, claim.class, 0) == 0 {
			b.grant(w, slot{})
			return w, nil
		}
		if !claim.class.waits() {
			return nil, &NoBudgetError{Wait: b.waitOf(now, claim)}
		}
	}
	if !b.queue(w, claim.callers) { // each of them has as many waiting as allowed
		return nil, &NoBudgetError{Wait: max(b.waitOf(now, claim), answerTime)}
	}
	claim.waiter = w
	b.dispatch()
	if w.isGranted() {
		return w, nil
	}
	wait := b.waitOf(now, claim)
	deadline, ok := ctx.Deadline()
	if !ok || deadline.Before(now.Add(answerTime)) || claim.class != Unproven && deadline.Before(now.Add(wait+answerTime)) {
		w.leave()
		return nil, &NoBudgetError{Wait: wait}
	}
	return w, nil
}

// queue has w wait in its line for a turn of any of the callers. It reports whether
// it waits there. The caller holds mu.
func (b *Budget) queue(w *waiter, callers []string) bool {
	most := math.MaxInt
	if w.line == &b.unproven {
		most = b.maxQueue()
	}
	for _, caller := range callers {
		w.line.add(caller, w, most)
	}
	return len(w.callers) > 0
}

// maxQueue returns how many of one caller's unproven requests may wait. The caller
// holds mu.
func (b *Budget) maxQueue() int { return max(minQueue, b.share(Unproven)) }

// grant gives w a slot. The caller holds mu.
func (b *Budget) grant(w *waiter, taken slot) {
	w.taken, w.claim.granted = taken, time.Now()
	if w.claim.waiter == w {
		w.claim.waiter = nil
	}
	b.charge(taken)
	close(w.granted)
}

// charge counts a slot that goes in flight. The caller holds mu.
func (b *Budget) charge(taken slot) {
	b.inFlight.all++
	if taken.unproven {
		b.inFlight.unproven++
	}
	if taken.caller != "" {
		b.byCaller[taken.caller]++
	}
}

// dispatch hands out the slots that are free. The caller holds mu.
func (b *Budget) dispatch() {
	now := time.Now()
	b.prune(now)
	mayTake := func(caller string, _ *waiter) bool { return b.leavesEnough(caller, b.used().all, b.byCaller[caller]) }
	for b.waitFor(now, Known, 0) == 0 {
		w, caller := b.known.next(mayTake)
		if w == nil {
			break
		}
		b.grant(w, slot{caller: caller})
	}
	for b.waitFor(now, Unproven, 0) == 0 {
		w, _ := b.unproven.next(nil)
		if w == nil {
			break
		}
		b.grant(w, slot{unproven: true})
	}
	b.schedule()
}

// leavesEnough reports whether a known request of a caller leaves enough slots to
// others, if all slots are taken so far and mine of them by that caller's known
// requests. The caller holds mu.
func (b *Budget) leavesEnough(caller string, all, mine int) bool {
	return caller == "" || b.limit < minLimitToKeep || mine < forOthers*(b.share(Known)-all)
}

// schedule sets the timer that calls dispatch when the next slot comes free. The
// caller holds mu.
func (b *Budget) schedule() {
	if len(b.answered) == 0 || b.known.empty() && b.unproven.empty() {
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

// waitOf returns how long until the claim gets a slot, if nobody else comes; 0 means
// now. The claim may be waiting already. The caller holds mu and has called prune.
func (b *Budget) waitOf(now time.Time, claim *Claim) time.Duration {
	if claim.class != Known {
		return b.waitFor(now, claim.class, b.known.waiters)
	}
	wait := Window
	for _, caller := range claim.callers {
		own, others := b.known.before(caller, claim.waiter)
		wait = min(wait, b.waitForTurn(now, caller, own, others))
	}
	return wait
}

// waitForTurn is like waitFor, for a known request of a caller with that many others
// before it, own of them the caller's. The caller holds mu and has called prune.
func (b *Budget) waitForTurn(now time.Time, caller string, own, others int) time.Duration {
	if b.limit == 0 {
		return 0
	}
	all, mine := b.used().all+own+others, b.byCaller[caller]+own
	wait := time.Duration(0)
	for _, a := range b.answered {
		if all < b.share(Known) && b.leavesEnough(caller, all, mine) {
			return wait
		}
		if all--; a.caller == caller {
			mine--
		}
		wait = a.freeAt.Sub(now)
	}
	if all < b.share(Known) && b.leavesEnough(caller, all, mine) {
		return wait
	}
	return Window // taken by requests that are still under way
}

// used counts the slots that are taken. The caller holds mu.
func (b *Budget) used() slots {
	return slots{all: b.inFlight.all + len(b.answered), unproven: b.inFlight.unproven + b.past}
}

// release has the slot of an answered request come free after Window.
func (b *Budget) release(taken slot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight.all--
	if taken.unproven {
		b.inFlight.unproven--
		b.past++
	}
	b.answered = append(b.answered, answer{slot: taken, freeAt: time.Now().Add(Window)})
	b.dispatch()
}

// refund gives back a slot that was not used. The caller holds mu.
func (b *Budget) refund(unused slot) {
	b.inFlight.all--
	if unused.unproven {
		b.inFlight.unproven--
	}
	b.discharge(unused)
	b.dispatch()
}

// discharge ends the count of a slot for its caller. The caller holds mu.
func (b *Budget) discharge(taken slot) {
	if taken.caller == "" {
		return
	}
	if b.byCaller[taken.caller]--; b.byCaller[taken.caller] == 0 {
		delete(b.byCaller, taken.caller)
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
		b.discharge(a.slot)
	}
	b.answered = slices.Delete(b.answered, 0, n)
}

// NextFree returns how long a [Known] request that asks now would have to wait.
func (b *Budget) NextFree() time.Duration { return b.NewClaim(Known, "").NextFree() }

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
	return max(0, b.limit-b.used().all-b.known.waiters)
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
