package pace

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Class says how urgent a request is, and how much of the budget requests of its
// class may use.
type Class int

const (
	// Known requests are for what is known to exist and somebody waits for. They go
	// first. Callers take turns, and each leaves some slots to others.
	Known Class = iota
	// Ahead requests fetch what no reader needs yet. They leave a fifth of the
	// limit unused and never wait.
	Ahead
	// Listing requests are for lists and metadata. They leave a quarter of the
	// limit unused and never wait.
	Listing
	// Unproven requests are for what was never seen to exist, or had a lasting
	// failure last time. They may use half of the limit. They wait, and callers
	// take turns.
	Unproven
	// Check requests try a new configuration. Some slots are reserved for them.
	Check
)

func (c Class) waits() bool { return c == Known || c == Unproven || c == Check }

const (
	// maxCallersOfClaim is how many callers' turns one piece of work can take. It bounds
	// the time that joining it takes.
	maxCallersOfClaim = 64
	// maxUsersOfClaim is how many of them can be those of users of one caller, who might
	// invent users to keep others from taking part.
	maxUsersOfClaim = 4
)

// Claim is the claim that a piece of work has on a budget. Others who need the same
// work can join it, and make it more urgent. Budget.mu guards its fields.
type Claim struct {
	// For is what the claim is for, for its planner to know.
	For any

	budget  *Budget
	class   Class
	callers []Caller  // whose turns it may take
	taken   *slot     // a slot that it has, and with which nothing was sent yet
	line    *Line     // where it waits; nil if it does not
	places  []place   // in that line, one for each caller
	turn    func()    // called with Budget.mu held when its turn comes
	granted time.Time // when it last got a slot; zero for never
}

type claimKey struct{}

// NewClaim returns a claim on b for work that caller asked for. An empty name stands
// for the engine itself, which need not leave slots to others.
func (b *Budget) NewClaim(class Class, caller Caller) *Claim {
	return &Claim{budget: b, class: class, callers: []Caller{caller}}
}

// With returns a copy of ctx whose requests take their slots through c.
func (c *Claim) With(ctx context.Context) context.Context {
	return context.WithValue(ctx, claimKey{}, c)
}

// ClassOf returns the class of the requests of ctx: that of its claim, or [Known] if it
// has none.
func (b *Budget) ClassOf(ctx context.Context) Class {
	if claim, _ := ctx.Value(claimKey{}).(*Claim); claim != nil {
		return claim.Class()
	}
	return Known
}

// Class returns how urgent the work is by now.
func (c *Claim) Class() (class Class) {
	c.budget.Do(func(time.Time) { class = c.class })
	return class
}

// ClassNow is like Class, for use within [Budget.Do].
func (c *Claim) ClassNow() Class { return c.class }

// Line returns the line in which c waits; nil for none. It must be called within Do.
func (c *Claim) Line() *Line { return c.line }

// Join adds a caller who waits for the work too, with a request of that class.
func (c *Claim) Join(class Class, caller Caller) {
	c.budget.Do(func(time.Time) { c.Add(class, caller) })
}

// Add does the work of Join. It makes the work more urgent if need be, and lets it take
// that caller's turns.
func (c *Claim) Add(class Class, caller Caller) {
	switch {
	case class == Ahead || class == Listing: // these never make work more urgent, and have no turns
		return
	case c.class == Check, c.class == Known && class == Unproven:
		return
	case c.class == Ahead || c.class == Listing:
		c.callers = nil
	}
	if c.hasRoomFor(caller) {
		c.callers = append(c.callers, caller)
	}
	c.class = class
	switch b := c.budget; {
	case c.line == nil:
	case c.line == b.unproven && class == Known:
		b.known.Add(c, c.turn)
	case c.line.class != class: // its planner places it
		c.Leave()
	default:
		c.line.Add(c, c.turn)
	}
}

func (c *Claim) hasRoomFor(caller Caller) bool {
	users := 0
	for _, other := range c.callers {
		if other == caller {
			return false
		}
		if other.Name == caller.Name {
			users++
		}
	}
	return len(c.callers) < maxCallersOfClaim && users < maxUsersOfClaim
}

// Prove makes unproven work known. It must not wait.
func (c *Claim) Prove() {
	c.Leave()
	c.class = Known
}

// Leave ends the wait of c.
func (c *Claim) Leave() {
	if c.line != nil {
		c.line.drop(c)
	}
}

// Reserve takes a slot for the next request of c. It waits and fails like
// [Budget.Acquire], and tries again if others made c more urgent meanwhile.
func (c *Claim) Reserve(ctx context.Context) error {
	for {
		class := c.Class()
		taken, err := c.budget.take(ctx, c)
		if err == nil {
			c.budget.Do(func(time.Time) { c.taken = taken })
			return nil
		}
		if refused := (*NoBudgetError)(nil); !errors.As(err, &refused) || c.Class() == class {
			return err
		}
	}
}

// Refund gives back a slot that was reserved but not used.
func (c *Claim) Refund() { c.budget.Do(func(time.Time) { c.GiveBack() }) }

// NextFree returns how long until c gets a slot, if nobody else comes.
func (c *Claim) NextFree() (wait time.Duration) {
	c.budget.Do(func(now time.Time) { wait = c.Wait(now) })
	return wait
}

// Granted returns when the claim last got a slot, or the zero time if it never did. It
// also reports whether the claim waits for another one.
func (c *Claim) Granted() (at time.Time, waits bool) {
	c.budget.Do(func(time.Time) { at, waits = c.granted, c.line != nil })
	return at, waits
}

// GiveBack gives back the slot that c has, if nothing was sent with it, and reports
// whether that is so. Like the methods below, it must be called within [Budget.Do].
func (c *Claim) GiveBack() (unsent bool) {
	if c.taken == nil {
		return false
	}
	c.budget.refund(*c.taken)
	c.taken = nil
	return true
}

// Pass returns a claim for another request that serves the work of c, with the slot of c.
func (c *Claim) Pass() *Claim {
	other := &Claim{budget: c.budget, class: c.class, callers: slices.Clone(c.callers), taken: c.taken}
	c.taken = nil
	return other
}

// PassTo gives the slot of c to another claim.
func (c *Claim) PassTo(other *Claim) { other.taken, c.taken = c.taken, nil }

// Wait returns about how long until c, which does not wait yet, gets a slot if nobody
// else comes; 0 means now.
func (c *Claim) Wait(now time.Time) time.Duration { return c.budget.wait(now, c) }

// Free returns how long until there is a slot that c may take if it is its turn.
func (c *Claim) Free(now time.Time) time.Duration {
	if c.class != Known {
		return c.budget.freeIn(now, c.class, 0)
	}
	wait := Window
	for _, caller := range c.callers {
		wait = min(wait, c.budget.turnIn(now, caller, 0, 0, 0))
	}
	return wait
}

// MayQueue reports whether one of the callers of c may have one more unproven request
// wait. A user leaves some room to other users of the caller.
func (c *Claim) MayQueue() bool {
	b := c.budget
	most := max(minQueue, b.share(Unproven))
	return slices.ContainsFunc(c.callers, func(caller Caller) bool {
		all, ofUser := 0, 0
		for l := range b.lines(Unproven) {
			a, u := l.waiting(caller)
			all, ofUser = all+a, ofUser+u
		}
		return all < most && (caller.User == "" || ofUser < forOthers*(most-all))
	})
}
