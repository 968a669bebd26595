package pace

import (
	"container/heap"
	"container/list"
	"iter"
	"slices"
	"time"
)

// Line is a queue in which callers take turns. A claim may wait for turns of several
// callers at once. Adding, dropping and finding the next one take logarithmic time,
// whatever the number of callers. The turns of all lines of a budget are counted by
// one clock, so callers take turns across them. Budget.mu guards it.
type Line struct {
	clock  *uint64
	open   func(now time.Time) bool // whether anybody may go
	order  callerHeap               // callers who wait; the one whose turn is next is first
	byName map[string]*callerTurn
	n      int // how many claims wait
}

// callerTurn is a caller who waits in a line.
type callerTurn struct {
	name  string
	since uint64     // when the caller came, or had the last turn
	queue *list.List // of *Claim, in the order in which they came
	index int        // in order
}

type place struct {
	caller *callerTurn
	claim  *list.Element
}

// Len returns how many claims wait.
func (l *Line) Len() int { return l.n }

// All returns the claims that wait, each caller's in the order in which they came.
func (l *Line) All() iter.Seq[*Claim] {
	return func(yield func(*Claim) bool) {
		for _, caller := range l.order {
			for el := caller.queue.Front(); el != nil; el = el.Next() {
				if c := el.Value.(*Claim); c.places[0].caller == caller && !yield(c) {
					return
				}
			}
		}
	}
}

// Add has c wait for turns of its callers, here and in no other line. When its turn
// comes, turn is called with the budget's mutex held. It must end the wait, or keep
// c waiting and give its slot to other work. A slot that c still has without waiting is
// for its next request.
func (l *Line) Add(c *Claim, turn func()) {
	if c.line != l {
		c.Leave()
		l.n++
	}
	c.line, c.turn = l, turn
	for _, name := range c.callers {
		if slices.ContainsFunc(c.places, func(p place) bool { return p.caller.name == name }) {
			continue
		}
		caller := l.byName[name]
		if caller == nil {
			*l.clock++
			caller = &callerTurn{name: name, since: *l.clock, queue: list.New()}
			l.byName[name] = caller
			heap.Push(&l.order, caller)
		}
		c.places = append(c.places, place{caller, caller.queue.PushBack(c)})
	}
}

func (l *Line) drop(c *Claim) {
	for _, p := range c.places {
		p.caller.queue.Remove(p.claim)
		if p.caller.queue.Len() == 0 {
			heap.Remove(&l.order, p.caller.index)
			delete(l.byName, p.caller.name)
		}
	}
	c.places, c.line = nil, nil
	l.n--
}

// waiting returns how many claims of a caller wait.
func (l *Line) waiting(caller string) int {
	if c := l.byName[caller]; c != nil {
		return c.queue.Len()
	}
	return 0
}

// before returns about how many claims of others go before the next one of a caller
// who has own waiting.
func (l *Line) before(own int) int { return min(l.n-own, (own+1)*len(l.order)) }

// head returns the caller whose turn it is, passing over those who may not go; nil for
// none.
func (l *Line) head(mayGo func(caller string) bool) (next *callerTurn) {
	var passed []*callerTurn
	for len(l.order) > 0 && next == nil {
		if first := l.order[0]; mayGo(first.name) {
			next = first
		} else {
			passed = append(passed, heap.Pop(&l.order).(*callerTurn))
		}
	}
	for _, c := range passed {
		heap.Push(&l.order, c)
	}
	return next
}

// take ends the turn of a caller, and returns the claim whose turn it was.
func (l *Line) take(caller *callerTurn) *Claim {
	*l.clock++
	caller.since = *l.clock
	heap.Fix(&l.order, caller.index)
	return caller.queue.Front().Value.(*Claim)
}

type callerHeap []*callerTurn

func (h callerHeap) Len() int           { return len(h) }
func (h callerHeap) Less(i, j int) bool { return h[i].since < h[j].since }
func (h callerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *callerHeap) Push(x any) {
	c := x.(*callerTurn)
	c.index = len(*h)
	*h = append(*h, c)
}

func (h *callerHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	*h = old[:len(old)-1]
	return c
}
