package pace

import "slices"

// turns is a queue in which callers take turns. The zero value is empty. Budget.mu
// guards it.
type turns struct {
	order   []string             // callers who wait; the next one is first
	waiting map[string][]*waiter // by caller, in the order in which they came
	waiters int                  // how many different ones wait
}

func (t *turns) empty() bool { return t.waiters == 0 }

// add puts w into the caller's queue, unless it or most others wait there already.
func (t *turns) add(caller string, w *waiter, most int) {
	queue := t.waiting[caller]
	if len(queue) >= most || slices.Contains(w.callers, caller) {
		return
	}
	if t.waiting == nil {
		t.waiting = map[string][]*waiter{}
	}
	if len(queue) == 0 {
		t.order = append(t.order, caller)
	}
	if len(w.callers) == 0 {
		t.waiters++
	}
	t.waiting[caller] = append(queue, w)
	w.callers = append(w.callers, caller)
}

// next removes and returns the waiter whose turn it is, and whose turn it takes. It
// passes over callers whose first waiter may not go; a nil function lets all go. It
// returns nil if there is none.
func (t *turns) next(mayGo func(caller string, first *waiter) bool) (w *waiter, caller string) {
	for i, caller := range t.order {
		w := t.waiting[caller][0]
		if mayGo != nil && !mayGo(caller, w) {
			continue
		}
		t.order = append(slices.Delete(t.order, i, i+1), caller)
		t.drop(w)
		return w, caller
	}
	return nil, ""
}

// drop removes w from all queues.
func (t *turns) drop(w *waiter) {
	for _, caller := range w.callers {
		queue := t.waiting[caller]
		i := slices.Index(queue, w)
		switch {
		case len(queue) == 1:
			delete(t.waiting, caller)
			t.order = slices.DeleteFunc(t.order, func(other string) bool { return other == caller })
		case i == 0: // without moving all others
			queue[0] = nil
			t.waiting[caller] = queue[1:]
		default:
			t.waiting[caller] = slices.Delete(queue, i, i+1)
		}
	}
	if len(w.callers) > 0 {
		t.waiters--
	}
	w.callers = nil
}

// before returns how many waiters go before w in the caller's turns: own of them in
// the caller's queue, and others. A nil w stands for one who comes now.
func (t *turns) before(caller string, w *waiter) (own, others int) {
	if own = slices.Index(t.waiting[caller], w); own < 0 {
		own = len(t.waiting[caller])
	}
	rounds := own + 1 // that callers who come earlier in the order have before
	for _, other := range t.order {
		if other == caller {
			rounds--
			continue
		}
		others += min(len(t.waiting[other]), rounds)
	}
	return own, others
}

// Line is a queue outside of the budget in which callers take turns, too. Each item
// waits in it with a claim. Whoever joins the claim lets the item take their turns.
type Line[T any] struct {
	budget *Budget // its mu guards the fields below
	turns  turns
	items  map[*waiter]T
}

// NewLine returns an empty line for work that has claims on b.
func NewLine[T any](b *Budget) *Line[T] {
	return &Line[T]{budget: b, items: map[*waiter]T{}}
}

// Len returns how many items wait.
func (l *Line[T]) Len() int {
	l.budget.mu.Lock()
	defer l.budget.mu.Unlock()
	return l.turns.waiters
}

// Add puts an item at the end of the queues of its callers. Its claim must not be
// waiting.
func (l *Line[T]) Add(c *Claim, item T) {
	l.budget.mu.Lock()
	defer l.budget.mu.Unlock()
	w := &waiter{claim: c, line: &l.turns}
	c.waiter = w
	l.items[w] = item
	l.budget.queue(w, c.callers)
}

// Next removes and returns the item whose turn it is. It passes over callers whose
// first item may not go.
func (l *Line[T]) Next(mayGo func(T) bool) (item T, ok bool) {
	l.budget.mu.Lock()
	defer l.budget.mu.Unlock()
	w, _ := l.turns.next(func(_ string, first *waiter) bool { return mayGo(l.items[first]) })
	if w == nil {
		return item, false
	}
	return l.removed(w), true
}

// Remove removes the item with that claim, if it waits.
func (l *Line[T]) Remove(c *Claim) {
	l.budget.mu.Lock()
	defer l.budget.mu.Unlock()
	if w := c.waiter; w != nil && w.line == &l.turns {
		l.turns.drop(w)
		l.removed(w)
	}
}

// RemoveAll removes and returns all items, those of each caller in the order in
// which they came.
func (l *Line[T]) RemoveAll() (items []T) {
	l.budget.mu.Lock()
	defer l.budget.mu.Unlock()
	for w, _ := l.turns.next(nil); w != nil; w, _ = l.turns.next(nil) {
		items = append(items, l.removed(w))
	}
	return items
}

// removed forgets a waiter who left the line, and returns its item. The caller holds
// mu.
func (l *Line[T]) removed(w *waiter) T {
	item := l.items[w]
	delete(l.items, w)
	w.claim.waiter = nil
	return item
}
