// Package pace decides when a request may go to Pipedream. It keeps the requests
// of a mount within its limit, and shares that limit fairly.
package pace

import (
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-pipedream/internal/guard"
)

// Window is the span in which Pipedream counts account requests.
const Window = time.Minute

// afterPanic is how long after a panic in a planner it is asked again.
const afterPanic = time.Second

// Budget hands out the slots of one mount. [Known] requests get slots first, and
// [Unproven] requests get half of the slots at most. Callers take turns, and the requests
// of a caller leave some slots of their class to others. So do users of one caller.
type Budget struct {
	mu sync.Locker // guards the fields below, all claims and lines, and what planners know; never held across I/O or a wait
	slots

	logger   func() hclog.Logger
	clock    uint64 // counts turns
	known    *Line  // requests that wait in Acquire
	unproven *Line  // likewise, unproven ones
	planners []attached
	timer    *time.Timer // calls wake; nil before the first wait
	wakeAt   time.Time   // when the timer fires; zero if it does not
}

// Planner decides what to send. The budget calls its methods with its mutex held.
type Planner interface {
	// Tidy does what is due by now without a slot.
	Tidy(now time.Time)
	// Ahead returns the next request that nobody waits for yet, which takes the slot of
	// the claim that it is given; nil for none.
	Ahead(now time.Time) (send func(*Claim))
	// Wakes returns when there may be something new to do without any event; the zero
	// time for never. waits says whether something can be sent once there is a slot.
	Wakes(now time.Time) (at time.Time, waits bool)
	// Done reports whether it has nothing to do.
	Done(now time.Time) bool
}

// attached is a planner with the lines in which its work waits.
type attached struct {
	Planner

	lines []*Line
}

// NewBudget returns a budget of limit requests a minute; 0 means no limit.
func NewBudget(limit int) *Budget {
	b := &Budget{mu: &sync.Mutex{}, logger: hclog.NewNullLogger, slots: slots{limit: limit}}
	always := func(time.Time) bool { return true }
	b.known, b.unproven = b.NewLine(Known, always), b.NewLine(Unproven, always)
	return b
}

// NewLine returns a line for work of a class, [Known] or [Unproven]. Somebody there may
// go only while it is open.
func (b *Budget) NewLine(class Class, open func(now time.Time) bool) *Line {
	return &Line{clock: &b.clock, class: class, open: open, callers: map[string]*turns{}, users: map[Caller]*turns{}}
}

// LogTo has the budget log to what logger returns. It must be called before the budget is
// used.
func (b *Budget) LogTo(logger func() hclog.Logger) { b.logger = logger }

// Attach has the budget serve a planner and its lines until it is done, if it does not
// yet. It must be called within Do.
func (b *Budget) Attach(p Planner, lines ...*Line) {
	if !slices.ContainsFunc(b.planners, func(a attached) bool { return a.Planner == p }) {
		b.planners = append(b.planners, attached{p, lines})
	}
}

// Do runs f with the budget's mutex held, and then sends what can be sent.
func (b *Budget) Do(f func(now time.Time)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now, done := time.Now(), false
	defer func() {
		if !done { // it panics; what waits must not wait for ever
			b.wakeAfter(now, afterPanic)
		}
	}()
	b.prune(now)
	f(now)
	b.run(now)
	done = true
}

// run hands out the slots that are free, and sets the timer.
func (b *Budget) run(now time.Time) {
	for _, p := range b.planners {
		p.Tidy(now)
	}
	for b.grantNext(now) {
	}
	b.planners = slices.DeleteFunc(b.planners, func(p attached) bool { return p.Done(now) })
	b.schedule(now)
}

// grantNext hands out one slot, and reports whether it could.
func (b *Budget) grantNext(now time.Time) bool {
	for _, class := range []Class{Known, Unproven} {
		if b.freeIn(now, class, 0) > 0 {
			continue
		}
		if line, user := b.next(now, class); line != nil {
			b.grant(line.take(user), slot{unproven: class == Unproven, caller: user.who})
			return true
		}
	}
	if b.freeIn(now, Ahead, b.known.n) > 0 {
		return false
	}
	for _, p := range b.planners {
		if send := p.Ahead(now); send != nil {
			claim := b.NewClaim(Ahead, Caller{})
			b.charge(slot{})
			claim.taken = &slot{}
			send(claim)
			claim.GiveBack() // if it was not needed any more
			return true
		}
	}
	return false
}

// own returns the line for requests of a class that wait in Acquire.
func (b *Budget) own(class Class) *Line {
	if class == Unproven {
		return b.unproven
	}
	return b.known
}

// lines returns the lines of a class.
func (b *Budget) lines(class Class) iter.Seq[*Line] {
	return func(yield func(*Line) bool) {
		if own := b.own(class); !yield(own) {
			return
		}
		for _, p := range b.planners {
			for _, l := range p.lines {
				if l.class == class && !yield(l) {
					return
				}
			}
		}
	}
}

// next returns the user whose turn it is of those who may go, and the line in which that
// is.
func (b *Budget) next(now time.Time, class Class) (line *Line, next *turns) {
	mayGo := func(c Caller) bool { return b.mayTake(class, c) }
	for l := range b.lines(class) {
		if l.n == 0 || !l.open(now) {
			continue
		}
		if user := l.head(mayGo); user != nil && (next == nil || user.of.since < next.of.since) {
			line, next = l, user
		}
	}
	return line, next
}

// grant gives c a slot.
func (b *Budget) grant(c *Claim, taken slot) {
	b.charge(taken)
	c.taken, c.granted = &taken, time.Now()
	c.turn()
	if c.line != nil { // it goes on waiting, and has no use for the slot
		c.GiveBack()
	}
}

// schedule sets the timer to when something may have changed without an event.
func (b *Budget) schedule(now time.Time) {
	var at time.Time
	sooner := func(t time.Time) {
		if t.After(now) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	waits := b.known.n+b.unproven.n > 0
	for _, p := range b.planners {
		wakes, more := p.Wakes(now)
		sooner(wakes)
		waits = waits || more
	}
	if waits && len(b.answered) > 0 {
		sooner(b.answered[0].freeAt)
	}
	switch {
	case at.Equal(b.wakeAt):
		return
	case at.IsZero(): // it may fire once for nothing
		return
	default:
		b.wakeAfter(now, at.Sub(now))
	}
}

func (b *Budget) wakeAfter(now time.Time, d time.Duration) {
	if b.timer == nil {
		b.timer = time.AfterFunc(d, b.wake)
	} else {
		b.timer.Reset(d)
	}
	b.wakeAt = now.Add(d)
}

func (b *Budget) wake() {
	_ = guard.Run(b.logger(), func() error { // a panic is in the log
		b.Do(func(time.Time) { b.wakeAt = time.Time{} })
		return nil
	})
}

// SetLimit changes the limit. The record of what went out stays, so that writing
// config does not refill the budget.
func (b *Budget) SetLimit(limit int) { b.Do(func(time.Time) { b.setLimit(limit) }) }

// wait returns about how long until the claim, which does not wait yet, gets a slot
// if nobody else comes; 0 means now.
func (b *Budget) wait(now time.Time, claim *Claim) time.Duration {
	if claim.class != Known {
		return b.freeIn(now, claim.class, b.known.n)
	}
	wait := Window
	for _, caller := range claim.callers {
		var ofUser, own, others int
		for l := range b.lines(Known) {
			u, o, n := l.before(caller)
			ofUser, own, others = ofUser+u, own+o, others+n
		}
		wait = min(wait, b.turnIn(now, caller, ofUser, own, others))
	}
	return wait
}

// read returns what f returns, with the mutex held.
func (b *Budget) read(f func(now time.Time) int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.prune(now)
	return f(now)
}

// Limit returns how many requests a minute are allowed; 0 means no limit.
func (b *Budget) Limit() int { return b.read(func(time.Time) int { return b.limit }) }

// Used returns how many requests count against the limit now.
func (b *Budget) Used() int { return b.read(func(time.Time) int { return b.used() }) }

// Left returns how many requests may go out now; -1 means no limit.
func (b *Budget) Left() int {
	return b.read(func(time.Time) int {
		if b.limit == 0 {
			return -1
		}
		return max(0, b.limit-b.used()-b.known.n)
	})
}

// NextFree returns how long a [Known] request that asks now would have to wait.
func (b *Budget) NextFree() time.Duration {
	return time.Duration(b.read(func(now time.Time) int { return int(b.wait(now, b.NewClaim(Known, Caller{}))) }))
}

// Pages returns how many requests of a class an unspent budget allows within span; -1
// means no limit.
func (b *Budget) Pages(class Class, span time.Duration) int {
	return b.read(func(time.Time) int { return b.PagesIn(class, span) })
}

// PagesIn is like Pages, for use within [Budget.Do].
func (b *Budget) PagesIn(class Class, span time.Duration) int {
	if b.limit == 0 {
		return -1
	}
	return b.share(class) * int((span+Window-1)/Window)
}
