package pace

import (
	"context"
	"slices"
)

// Class says how urgent a request is, and how much of the budget requests of its
// class may use.
type Class int

const (
	// Known requests are for what is known to exist and somebody waits for. They go
	// first.
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

// Claim is the claim that a piece of work has on a budget. Others who need the
// same work can join it while it waits, and make it more urgent. Budget.mu guards
// its fields.
type Claim struct {
	budget  *Budget
	class   Class
	callers []string // whose turns it may take
	waiter  *waiter  // while it waits
	joined  *Claim   // claim of the work that this one became part of; nil for none
	prepaid *bool    // a slot taken by Reserve, and whether it is an unproven one
}

// waiter waits for a slot. It may be in the queues of several callers at once.
type waiter struct {
	granted  chan struct{} // closed once it has a slot
	unproven bool          // whether the slot is an unproven one; set before granted is closed
	gone     bool          // whether it has a slot or gave up
}

type claimKey struct{}

// NewClaim returns a claim on b for work that caller asked for.
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

// join does the work of Join and reports whether it changed anything. The caller
// holds mu.
func (c *Claim) join(class Class, caller string) (changed bool) {
	b := c.budget
	if c.joined != nil {
		changed = c.joined.join(class, caller)
	}
	waiting := c.waiter != nil && !c.waiter.gone
	switch {
	case class == Ahead || class == Listing:
		return changed // these never make work more urgent, and have no turns
	case c.class == Known || c.class == Check:
		return changed
	case class == Known:
		if waiting {
			b.unproven.drop(c.callers, c.waiter)
			b.known = append(b.known, c.waiter)
		}
		c.class = Known
	case c.class == Ahead || c.class == Listing:
		if class == Unproven {
			c.class, c.callers = Unproven, []string{caller}
		}
	case c.class == Unproven && !slices.Contains(c.callers, caller):
		c.callers = append(c.callers, caller)
		if waiting {
			b.unproven.add(caller, c.waiter, b.maxQueue())
		}
	}
	return true
}

// Reserve takes a slot for the next request of the claim. It waits and fails like
// [Budget.Acquire].
func (c *Claim) Reserve(ctx context.Context) error {
	unproven, err := c.budget.take(ctx, c)
	if err != nil {
		return err
	}
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	c.prepaid = &unproven
	return nil
}

// Refund gives back a slot that was reserved but not used.
func (c *Claim) Refund() {
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	if c.prepaid != nil {
		c.budget.returned(*c.prepaid)
		c.budget.dispatch()
		c.prepaid = nil
	}
}

// turns is a queue in which callers take turns. The zero value is empty.
type turns struct {
	order   []string             // callers who wait; the next one is first
	waiting map[string][]*waiter // by caller, in the order in which they came
}

func (t *turns) empty() bool { return len(t.order) == 0 }

// add puts w into the caller's queue, unless most others wait there already. It
// reports whether it did.
func (t *turns) add(caller string, w *waiter, most int) bool {
	if len(t.waiting[caller]) >= most {
		return false
	}
	if t.waiting == nil {
		t.waiting = map[string][]*waiter{}
	}
	if len(t.waiting[caller]) == 0 {
		t.order = append(t.order, caller)
	}
	t.waiting[caller] = append(t.waiting[caller], w)
	return true
}

// next removes and returns the waiter whose turn it is, or nil if nobody waits.
func (t *turns) next() *waiter {
	for len(t.order) > 0 {
		caller := t.order[0]
		t.order = t.order[1:]
		queue := t.waiting[caller]
		for len(queue) > 0 && queue[0].gone {
			queue = queue[1:]
		}
		if len(queue) == 0 {
			delete(t.waiting, caller)
			continue
		}
		t.waiting[caller] = queue[1:]
		if len(queue) > 1 {
			t.order = append(t.order, caller)
		} else {
			delete(t.waiting, caller)
		}
		return queue[0]
	}
	return nil
}

// drop removes w from the callers' queues.
func (t *turns) drop(callers []string, w *waiter) {
	for _, caller := range callers {
		queue := slices.DeleteFunc(t.waiting[caller], func(other *waiter) bool { return other == w })
		if len(queue) > 0 {
			t.waiting[caller] = queue
			continue
		}
		delete(t.waiting, caller)
		t.order = slices.DeleteFunc(t.order, func(other string) bool { return other == caller })
	}
}
