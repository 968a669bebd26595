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
	// thirds, and several of them share two thirds. It applies if the limit is at least
	// minLimitToKeep.
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
	limit    int            // 0: no limit
	inFlight int            // taken, but not answered yet
	guesses  int            // those of them that unproven requests took
	answered []answer       // still in the window; ascending by freeAt
	past     int            // how many of answered were unproven
	byCaller map[string]int // slots that each caller's known requests have, in flight or answered
}

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

func (s *slots) used() int { return s.inFlight + len(s.answered) }

// charge counts a slot that goes in flight.
func (s *slots) charge(taken slot) {
	s.inFlight++
	if taken.unproven {
		s.guesses++
	}
	if taken.caller != "" {
		s.byCaller[taken.caller]++
	}
}

// release has the slot of an answered request come free after Window.
func (s *slots) release(taken slot, now time.Time) {
	s.inFlight--
	if taken.unproven {
		s.guesses--
		s.past++
	}
	s.answered = append(s.answered, answer{slot: taken, freeAt: now.Add(Window)})
}

// refund gives back a slot with which nothing was sent.
func (s *slots) refund(taken slot) {
	s.inFlight--
	if taken.unproven {
		s.guesses--
	}
	s.discharge(taken)
}

// discharge ends the count of a slot for its caller.
func (s *slots) discharge(taken slot) {
	if taken.caller == "" {
		return
	}
	if s.byCaller[taken.caller]--; s.byCaller[taken.caller] == 0 {
		delete(s.byCaller, taken.caller)
	}
}

// prune forgets the slots that are free by now.
func (s *slots) prune(now time.Time) {
	n := 0
	for ; n < len(s.answered) && !s.answered[n].freeAt.After(now); n++ {
		if s.answered[n].unproven {
			s.past--
		}
		s.discharge(s.answered[n].slot)
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

// leavesEnough reports whether a known request of a caller leaves enough slots to
// others, if all slots are taken so far and mine of them by that caller's known
// requests. rivals is the number of others who have many.
func (s *slots) leavesEnough(caller string, all, mine, rivals int) bool {
	if caller == "" || s.limit < minLimitToKeep {
		return true
	}
	if s.isMany(mine) {
		mine *= 1 + rivals
	}
	return mine < forOthers*(s.share(Known)-all)
}

func (s *slots) isMany(mine int) bool { return mine >= s.limit/fewSlots }

// rivals returns how many callers have many slots besides that one.
func (s *slots) rivals(caller string) (n int) {
	for other, theirs := range s.byCaller {
		if other != caller && s.isMany(theirs) {
			n++
		}
	}
	return n
}

func (s *slots) mayTake(caller string) bool {
	return s.leavesEnough(caller, s.used(), s.byCaller[caller], s.rivals(caller))
}

// waitFor returns how long until a slot is free for a request of that class with
// ahead others before it; 0 means now.
func (s *slots) waitFor(now time.Time, class Class, ahead int) time.Duration {
	if class == Unproven {
		if s.guesses >= maxUnproven {
			return answerTime // a guess: until one of them is answered
		}
		if s.limit > 0 && s.guesses+s.past >= s.share(Unproven) {
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

// waitForTurn is like waitFor, for a known request of a caller with that many others
// before it, own of them the caller's.
func (s *slots) waitForTurn(now time.Time, caller string, own, others int) time.Duration {
	if s.limit == 0 {
		return 0
	}
	all, mine, rivals := s.used()+own+others, s.byCaller[caller]+own, s.rivals(caller)
	wait := time.Duration(0)
	for i := 0; all >= s.share(Known) || !s.leavesEnough(caller, all, mine, rivals); i++ {
		if i == len(s.answered) {
			return Window // taken by requests that are still under way
		}
		if all--; s.answered[i].caller == caller {
			mine--
		}
		wait = s.answered[i].freeAt.Sub(now)
	}
	return wait
}
