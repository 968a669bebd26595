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

// maxCallersOfClaim is how many callers' turns one piece of work can take. It bounds
// the time that each turn takes to find.
const maxCallersOfClaim = 64

// Claim is the claim that a piece of work has on a budget. Others who need the
// same work can join it while it waits, and make it more urgent. Budget.mu guards
// its fields.
type Claim struct {
	budget  *Budget
	class   Class
	callers []string  // whose turns it may take
	waiter  *waiter   // while it waits in a line
	joined  *Claim    // claim of the work that this one became part of; nil for none
	prepaid *slot     // a slot taken by Reserve
	granted time.Time // when it last got a slot; zero for never
}

// waiter waits for its turn in a line. It may be in the queues of several callers at
// once. Budget.mu guards its fields until granted is closed.
type waiter struct {
	claim   *Claim
	line    *turns
	callers []string // in whose queues it is
	granted chan struct{}
	taken   slot // set before granted is closed
}

func (w *waiter) isGranted() bool {
	select {
	case <-w.granted:
		return true
	default:
		return false
	}
}

type claimKey struct{}

// NewClaim returns a claim on b for work that caller asked for. An empty name stands
// for the engine itself, which need not leave slots to others.
func (b *Budget) NewClaim(class Class, caller string) *Claim {
	return &Claim{budget: b, class: class, callers: []string{caller}}
}

// With returns a copy of ctx whose requests take their slots through c.
func (c *Claim) With(ctx context.Context) context.Context {
	return context.WithValue(ctx, claimKey{}, c)
}

func claimOf(ctx context.Context) *Claim {
	claim, _ := ctx.Value(claimKey{}).(*Claim)
	return claim
}

// ClassOf returns the class of the requests of ctx: that of its claim, or [Known] if it
// has none.
func (b *Budget) ClassOf(ctx context.Context) Class {
	if claim := claimOf(ctx); claim != nil {
		return claim.Class()
	}
	return Known
}

// Class returns how urgent the work is by now.
func (c *Claim) Class() Class {
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	return c.class
}

// Join adds a caller who waits for the work too, with a request of that class. It
// makes the work more urgent if need be, and lets it take that caller's turns.
func (c *Claim) Join(class Class, caller string) {
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.join(class, caller) {
		b.dispatch()
	}
}

// JoinTo makes the work of c part of the work of other. Everybody who joined c,
// or joins it from now on, joins other too.
func (c *Claim) JoinTo(other *Claim) {
	if c == other {
		return
	}
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	c.joined = other
	for _, caller := range c.callers {
		other.join(c.class, caller)
	}
	b.dispatch()
}

// LendTo makes other, which does not wait yet, as urgent as c and lets it take the
// turns of c's callers, if c is [Known]. It returns the class of c.
func (c *Claim) LendTo(other *Claim) Class {
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	if c.class == Known {
		for _, caller := range c.callers {
			other.join(Known, caller)
		}
	}
	return c.class
}

// join does the work of Join and reports whether it changed anything. The caller
// holds mu.
func (c *Claim) join(class Class, caller string) (changed bool) {
	if c.joined != nil {
		changed = c.joined.join(class, caller)
	}
	switch {
	case class == Ahead || class == Listing: // these never make work more urgent, and have no turns
		return changed
	case c.class == Check, c.class == Known && class == Unproven:
		return changed
	case c.class == Ahead || c.class == Listing:
		c.callers = nil
	}
	isNew := len(c.callers) < maxCallersOfClaim && !slices.Contains(c.callers, caller)
	if !isNew && c.class == class {
		return changed
	}
	c.class = class
	if isNew {
		c.callers = append(c.callers, caller)
	}
	c.requeue()
	return true
}

// requeue has the claim, if it waits, wait in the line of its class for turns of all
// its callers. The caller holds mu.
func (c *Claim) requeue() {
	b, w := c.budget, c.waiter
	if w == nil {
		return
	}
	if w.line == &b.unproven && c.class == Known {
		w.line.drop(w)
		w.line = &b.known
	}
	b.queue(w, c.callers)
}

// leave ends the wait of w. The caller holds Budget.mu.
func (w *waiter) leave() {
	w.line.drop(w)
	if w.claim.waiter == w {
		w.claim.waiter = nil
	}
}

// NextFree returns how long until the claim gets a slot, if nobody else comes.
func (c *Claim) NextFree() time.Duration {
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.prune(now)
	return b.waitOf(now, c)
}

// Granted returns when the claim last got a slot, or the zero time if it never did. It
// also reports whether the claim waits for another one.
func (c *Claim) Granted() (at time.Time, waits bool) {
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	return c.granted, c.waiter != nil
}

// Reserve takes a slot for the next request of the claim. It waits and fails like
// [Budget.Acquire], and tries again if others made the claim more urgent meanwhile.
func (c *Claim) Reserve(ctx context.Context) error {
	for {
		class := c.Class()
		taken, err := c.budget.take(ctx, c)
		var refused *NoBudgetError
		switch {
		case err == nil:
			c.budget.mu.Lock()
			defer c.budget.mu.Unlock()
			c.prepaid = &taken
			return nil
		case !errors.As(err, &refused) || c.Class() == class:
			return err
		}
	}
}

// Refund gives back a slot that was reserved but not used.
func (c *Claim) Refund() {
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	if c.prepaid != nil {
		c.budget.refund(*c.prepaid)
		c.prepaid = nil
	}
}
