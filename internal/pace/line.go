package pace

import (
	"container/list"
	"iter"
	"slices"
	"time"
)

// Caller is who waits for a request: the name of a caller, and for a caller who works
// for many users, of the user. Names are given by whoever logs in, users by the caller.
// So callers take turns and share the budget, and within a caller its users do.
type Caller struct{ Name, User string }

// Line is a queue in which callers take turns, and within a caller its users. A claim
// may wait for turns of several of them at once. Adding, dropping and finding the next
// one take the same time, whatever the number of callers. The turns of all lines of a
// budget are counted by one clock, so callers take turns across them. Budget.mu guards
// it.
type Line struct {
	clock   *uint64
	class   Class
	open    func(now time.Time) bool // whether anybody may go
	order   list.List                // of callers, as *turns; the one whose turn is next is first
	callers map[string]*turns
	users   map[Caller]*turns
	n       int // how many claims wait
}

// turns are those of a caller or of a user, who waits in a line.
type turns struct {
	who   Caller
	of    *turns        // a user's caller; nil for a caller
	since uint64        // when a caller came, or had the last turn
	queue list.List     // a caller's users, in order of turns, or a user's *Claim as they came
	n     int           // how many claims wait, each counted for each of a caller's users
	place *list.Element // in the order of those who take turns
}

type place struct {
	user  *turns
	claim *list.Element
}

// Len returns how many claims wait.
func (l *Line) Len() int { return l.n }

// All returns the claims that wait, each user's in the order in which they came.
func (l *Line) All() iter.Seq[*Claim] {
	return func(yield func(*Claim) bool) {
		for caller := range each[*turns](&l.order) {
			for user := range each[*turns](&caller.queue) {
				for c := range each[*Claim](&user.queue) {
					if c.places[0].user == user && !yield(c) {
						return
					}
				}
			}
		}
	}
}

func each[T any](of *list.List) iter.Seq[T] {
	return func(yield func(T) bool) {
		for el := of.Front(); el != nil && yield(el.Value.(T)); {
			el = el.Next()
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
	for _, who := range c.callers {
		if slices.ContainsFunc(c.places, func(p place) bool { return p.user.who == who }) {
			continue
		}
		user := l.userFor(who)
		user.n++
		user.of.n++
		c.places = append(c.places, place{user, user.queue.PushBack(c)})
	}
}

// userFor returns the turns of a user. Whoever comes anew has the last turn.
func (l *Line) userFor(who Caller) *turns {
	user := l.users[who]
	if user != nil {
		return user
	}
	caller := l.callers[who.Name]
	if caller == nil {
		*l.clock++
		caller = &turns{who: Caller{Name: who.Name}, since: *l.clock}
		caller.place = l.order.PushBack(caller)
		l.callers[who.Name] = caller
	}
	user = &turns{who: who, of: caller}
	user.place = caller.queue.PushBack(user)
	l.users[who] = user
	return user
}

func (l *Line) drop(c *Claim) {
	for _, p := range c.places {
		user, caller := p.user, p.user.of
		user.queue.Remove(p.claim)
		user.n--
		caller.n--
		if user.n == 0 {
			caller.queue.Remove(user.place)
			delete(l.users, user.who)
		}
		if caller.n == 0 {
			l.order.Remove(caller.place)
			delete(l.callers, caller.who.Name)
		}
	}
	c.places, c.line = nil, nil
	l.n--
}

// waiting returns how many claims of a caller wait, and how many of them are the user's.
func (l *Line) waiting(who Caller) (ofCaller, ofUser int) {
	if caller := l.callers[who.Name]; caller != nil {
		ofCaller = caller.n
	}
	if user := l.users[who]; user != nil {
		ofUser = user.n
	}
	return ofCaller, ofUser
}

// before returns about how many claims go before the next one of a user: how many of the
// user's, how many of the caller's, those included, and how many of others.
func (l *Line) before(who Caller) (ofUser, ofCaller, others int) {
	all, ofUser := l.waiting(who)
	if caller := l.callers[who.Name]; caller != nil {
		ofCaller = ofUser + min(all-ofUser, (ofUser+1)*caller.queue.Len())
	}
	return ofUser, ofCaller, max(0, min(l.n-all, (ofCaller+1)*l.order.Len()))
}

// head returns the user whose turn it is, passing over those who may not go; nil for
// none.
func (l *Line) head(mayGo func(Caller) bool) *turns {
	for caller := range each[*turns](&l.order) {
		if !mayGo(caller.who) {
			continue
		}
		for user := range each[*turns](&caller.queue) {
			if mayGo(user.who) {
				return user
			}
		}
	}
	return nil
}

// take ends the turn of a user, and returns the claim whose turn it was.
func (l *Line) take(user *turns) *Claim {
	*l.clock++
	user.of.since = *l.clock
	l.order.MoveToBack(user.of.place)
	user.of.queue.MoveToBack(user.place)
	return user.queue.Front().Value.(*Claim)
}
