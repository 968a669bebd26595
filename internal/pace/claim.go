package pace

import (
	"context"
	"slices"
)

// Class says how urgent a request is, and how much of the budget its like may
// use.
type Class int

const (
	// Known requests are for what is known to exist, and somebody waits for them.
	// They go first.
	Known Class = iota
	// Ahead requests fetch what no reader needs yet. They leave a fifth of the
	// limit alone and never wait.
	Ahead
	// Listing requests are for lists and metadata. They leave a quarter of the
	// limit alone and never wait.
	Listing
	// Unproven requests are for what was never seen to exist, or failed when it
	// was last asked for. They have half of the limit at most, wait their turn,
	// and take turns by caller.
	Unproven
	// Check requests try a new configuration. Some slots are kept for them.
	Check
)

func (c Class) waits() bool { return c == Known || c == Unproven || c == Check }

// Claim is what a piece of work may have of a budget. Whoever joins the work
// while it waits can make it more urgent. Budget.mu guards its fields.
type Claim struct {
	budget  *Budget
	class   Class
	callers []string // whose turns it may take
	waiter  *waiter  // while it waits
	joined  *Claim   // of the work that this became a part of; nil for none
	prepaid *bool    // a slot taken by Reserve, and whether it is one of the unproven
}

// waiter waits for a slot. It may be in the queues of several callers.
type waiter struct {
	granted  chan struct{} // closed once it has a slot
	unproven bool          // which kind of slot; set before granted is closed
	gone     bool          // it has a slot, or gave up
}

type claimKey struct{}

// NewClaim returns a claim on b of work that caller asked for.
func (b *Budget) NewClaim(class Class, caller string) *Claim {
	return &Claim{budget: b, class: class, callers: []string{caller}}
}

// With returns ctx for requests that are paid for by claim.
func (c *Claim) With(ctx context.Context) context.Context {
	return context.WithValue(ctx, claimKey{}, c)
}

func claimOf(ctx context.Context) *Claim {
	claim, _ := ctx.Value(claimKey{}).(*Claim)
	return claim
}

// Class is how urgent the work is by now.
func (c *Claim) Class() Class {
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	return c.class
}

// Join makes the work as urgent as somebody of that class who joins it needs,
// and lets it take that caller's turns too.
func (c *Claim) Join(class Class, caller string) {
	b := c.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.join(class, caller) {
		b.dispatch()
	}
}

// JoinTo joins c's work to work that is paid for by other, and whoever joins c
// from now on too.
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

// join is Join, and tells whether it changed anything. The caller holds mu.
func (c *Claim) join(class Class, caller string) (changed bool) {
	b := c.budget
	if c.joined != nil {
		changed = c.joined.join(class, caller)
	}
	waiting := c.waiter != nil && !c.waiter.gone
	switch {
	case class == Ahead || class == Listing:
		return changed // never more urgent, and nobody's turn
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

// Reserve takes a slot for the next request of the claim. It waits and fails as
// [Budget.Acquire] does.
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

// Refund gives back a slot that was reserved and not used.
func (c *Claim) Refund() {
	c.budget.mu.Lock()
	defer c.budget.mu.Unlock()
	if c.prepaid != nil {
		c.budget.refund(*c.prepaid)
		c.prepaid = nil
	}
}

// turns is a queue in which callers take turns. Its zero value is empty.
type turns struct {
	order   []string             // callers that wait, the next one first
	waiting map[string][]*waiter // of each, first come first
}

func (t *turns) empty() bool { return len(t.order) == 0 }

// add puts w into a caller's queue, unless that is as long as most already.
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

// next takes out whoever's turn it is; nil where nobody waits.
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

// drop takes w out of the callers' queues.
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
