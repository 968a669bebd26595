package pace

import (
	"slices"
	"time"
)

const (
	// answerTime is how much time a request must have left once it gets its slot.
	// With less, waiting would only turn a 429 into a time-out.
	answerTime = time.Second
	// checkSlots are reserved for checks of a new configuration if the limit is at
	// least minLimitToKeep. An OAuth client's check takes two requests.
	checkSlots     = 2
	minLimitToKeep = 20
	// forOthers bounds how much of the budget callers who take all they can get may use:
	// that many times as many slots as they leave to others. One of them gets two
	// thirds, and several of them share two thirds. So may a user of what is left to the
	// user's caller. It applies if the limit is at least minLimitToKeep.
	forOthers = 2
	// fewSlots is the part of the limit below which a caller does not count as one who
	// takes all it can get: a tenth.
	fewSlots = 10
	// minQueue is how many of one caller's unproven requests may always wait.
	minQueue = 8
	// maxUnproven is how many unproven requests may be under way at a time. It
	// bounds them even if there is no limit.
	maxUnproven = 8
)

// slots keeps the requests of one mount within a limit in any 60 seconds. A token
// bucket would not: it adds its burst on top.
//
// A request takes a slot when it goes out, and the slot comes free a minute after its
// answer. Pipedream counts the request somewhere in between. So no minute of
// Pipedream's clock sees more requests than the limit, however long they take.
type slots struct {
	limit      int      // 0: no limit
	inFlight   int      // taken, but not answered yet
	guesses    int      // those of them that unproven requests took
	answered   []answer // still in the window; ascending by freeAt
	ofKnown    shares   // of known requests
	ofUnproven shares   // of unproven requests
}

// shares says whose the slots of a class are, in flight or answered.
type shares struct {
	all  int            // of everybody
	of   map[Caller]int // of each caller, and of each named user
	many int            // how many callers have many
}

// slot is a slot that a request took.
type slot struct {
	unproven bool
	caller   Caller // whose request took it; empty for the engine's, and for classes without turns
}

// answer is the slot of a request that was answered.
type answer struct {
	slot

	freeAt time.Time
}

func (s *slots) used() int { return s.inFlight + len(s.answered) }

// charge counts a slot that goes in flight.
func (s *slots) charge(taken slot) {
	s.inFlight++
	if taken.unproven {
		s.guesses++
	}
	s.count(taken, 1)
}

func (s *slots) sharesOf(unproven bool) *shares {
	if unproven {
		return &s.ofUnproven
	}
	return &s.ofKnown
}

// count adds n slots like taken to those of its caller, and of the user.
func (s *slots) count(taken slot, n int) {
	h, c := s.sharesOf(taken.unproven), taken.caller
	h.all += n
	if c.Name == "" {
		return
	}
	h.many -= s.hasMany(h, c)
	h.add(Caller{Name: c.Name}, n)
	if c.User != "" {
		h.add(c, n)
	}
	h.many += s.hasMany(h, c)
}

func (h *shares) add(who Caller, n int) {
	if h.of == nil {
		h.of = map[Caller]int{}
	}
	if h.of[who] += n; h.of[who] == 0 {
		delete(h.of, who)
	}
}

// setLimit changes the limit.
func (s *slots) setLimit(limit int) {
	s.limit = limit
	for _, h := range []*shares{&s.ofKnown, &s.ofUnproven} {
		h.many = 0
		for who := range h.of {
			if who.User == "" {
				h.many += s.hasMany(h, who)
			}
		}
	}
}

// release has the slot of an answered request come free after Window.
func (s *slots) release(taken slot, now time.Time) {
	s.inFlight--
	if taken.unproven {
		s.guesses--
	}
	s.answered = append(s.answered, answer{slot: taken, freeAt: now.Add(Window)})
}

// refund gives back a slot with which nothing was sent.
func (s *slots) refund(taken slot) {
	s.inFlight--
	if taken.unproven {
		s.guesses--
	}
	s.count(taken, -1)
}

// prune forgets the slots that are free by now.
func (s *slots) prune(now time.Time) {
	n := 0
	for ; n < len(s.answered) && !s.answered[n].freeAt.After(now); n++ {
		s.count(s.answered[n].slot, -1)
	}
	s.answered = slices.Delete(s.answered, 0, n)
}

// share returns how many slots may be taken for a request of that class to still get
// one. The slots of all classes count, except that for [Unproven] only its own count.
func (s *slots) share(class Class) int {
	kept := 0
	if s.limit >= minLimitToKeep {
		kept = checkSlots
	}
	switch class {
	case Check:
		return s.limit
	case Ahead:
		return max(1, s.limit-max(1, s.limit/5))
	case Listing:
		return max(1, s.limit-max(1, s.limit/4))
	case Unproven:
		return max(1, s.limit/2)
	default:
		return s.limit - kept
	}
}

// held are the slots that count for a caller's next request of a class.
type held struct {
	all    int // taken so far
	mine   int // those of them of the caller's requests of the class
	ofUser int // those of them of the user's, if there is one
	rivals int // how many others have many
}

// heldFor returns what is held if own more slots of the caller, ofUser of them the
// user's, and those of that many others are taken.
func (s *slots) heldFor(class Class, c Caller, ofUser, own, others int) held {
	of, all := &s.ofKnown, s.used()
	if class == Unproven {
		of, all = &s.ofUnproven, s.ofUnproven.all
	}
	h := held{all: all + own + others, mine: of.of[Caller{Name: c.Name}] + own, rivals: of.many - s.hasMany(of, c)}
	if c.User != "" {
		h.ofUser = of.of[c] + ofUser
	}
	return h
}

// leavesEnough reports whether another request of a caller leaves enough slots of its class
// to other callers, and to other users of the caller.
func (s *slots) leavesEnough(class Class, c Caller, h held) bool {
	if c.Name == "" || s.limit < minLimitToKeep {
		return true
	}
	mine := h.mine
	if s.isMany(mine) {
		mine *= 1 + h.rivals
	}
	left := forOthers*(s.share(class)-h.all) - mine // which falls by so much with each slot that the caller takes: 1 + forOthers
	return left > 0 && h.ofUser*(1+forOthers) < forOthers*left
}

func (s *slots) isMany(mine int) bool { return mine >= s.limit/fewSlots }

// hasMany returns 1 if a caller has many slots.
func (s *slots) hasMany(h *shares, c Caller) int {
	if mine := h.of[Caller{Name: c.Name}]; mine > 0 && s.isMany(mine) {
		return 1
	}
	return 0
}

func (s *slots) mayTake(class Class, c Caller) bool {
	return s.leavesEnough(class, c, s.heldFor(class, c, 0, 0, 0))
}

// freeIn returns how long until a slot is free for a request of that class with
// ahead others before it; 0 means now.
func (s *slots) freeIn(now time.Time, class Class, ahead int) time.Duration {
	if class == Unproven {
		if s.guesses >= maxUnproven {
			return answerTime // a guess: until one of them is answered
		}
		if s.limit > 0 && s.ofUnproven.all >= s.share(Unproven) {
			if i := slices.IndexFunc(s.answered, func(a answer) bool { return a.unproven }); i >= 0 {
				return s.answered[i].freeAt.Sub(now)
			}
			return Window
		}
	}
	if s.limit == 0 {
		return 0
	}
	share := s.share(class)
	if class == Unproven { // of the whole limit, they leave more unused than the other classes
		share = max(1, s.limit-max(1, s.limit*3/10))
	}
	over := s.used() + ahead - share
	switch {
	case over < 0:
		return 0
	case over < len(s.answered):
		return s.answered[over].freeAt.Sub(now)
	default: // taken by requests that are still under way
		return Window
	}
}

// turnIn is like freeIn, for a known request of a caller before which others go:
// so many of the user's, of the caller's, those included, and of others.
func (s *slots) turnIn(now time.Time, c Caller, ofUser, own, others int) (wait time.Duration) {
	if s.limit == 0 {
		return 0
	}
	h, most := s.heldFor(Known, c, ofUser, own, others), s.share(Known)
	if h.all-len(s.answered) >= most {
		return Window // taken by requests that are still under way, or by those before
	}
	for i := 0; h.all >= most || !s.leavesEnough(Known, c, h); i++ {
		if i == len(s.answered) {
			return Window
		}
		h.all--
		if of := s.answered[i].caller; of.Name == c.Name {
			h.mine--
			if of == c && c.User != "" {
				h.ofUser--
			}
		}
		wait = s.answered[i].freeAt.Sub(now)
	}
	return wait
}
