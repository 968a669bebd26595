package cache

import (
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	// lookSoon is how often the accounts of a user with an open link are listed, at
	// most, for soonFor after the link was made, and while somebody waits for it.
	// lookLater is how often after that.
	lookSoon  = 3 * time.Second
	lookLater = 15 * time.Second
	soonFor   = 2 * time.Minute
	// looksPart is the part of the limit that all looks together may take: a quarter.
	looksPart = 4
	// askedLately is how long a user who asked for a look keeps their place.
	askedLately = 5 * time.Second
	// maxLooked bounds how many users with open links are remembered.
	maxLooked = 10_000

	// maxWaits is how many requests wait for the links of one user, for one caller.
	// maxAllWaits is how many do in all. A request in flight delays a step-down.
	maxWaits    = 2
	maxAllWaits = 200
)

// looks decides when the accounts of users with open links are listed. Users who were
// looked at longest ago go first.
type looks struct {
	mu      sync.Mutex // guards the fields below; never held across I/O or a wait
	users   map[string]looked
	sent    []time.Time              // of the looks within the last minute; ascending
	waits   map[waiter]int           // requests that wait for a link
	waiting map[string]int           // the same, by user
	all     int                      // all of them
	news    map[string]chan struct{} // closed when a link of the user connected an account
}

// looked says when a user was last looked at, and when that was last asked for.
type looked struct{ at, asked time.Time }

// waiter is a caller who waits for a link of a user.
type waiter struct{ caller, user string }

func newLooks() *looks {
	return &looks{users: map[string]looked{}, waits: map[waiter]int{}, waiting: map[string]int{}, news: map[string]chan struct{}{}}
}

// every returns how often a user is looked at whose latest open link was made then.
// The caller holds mu.
func (s *looks) every(user string, made, now time.Time) time.Duration {
	if s.waiting[user] > 0 || now.Sub(made) < soonFor {
		return lookSoon
	}
	return lookLater
}

// isDue reports whether it may be time for a look.
func (s *looks) isDue(user string, made, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Sub(s.users[user].at) >= s.every(user, made, now)
}

// take takes the user's turn to be looked at, if it has come. every is how long after
// this look there may be another.
func (s *looks) take(user string, made, now time.Time, limit int) (every time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	every = s.every(user, made, now)
	mine := s.users[user]
	mine.asked = now
	defer func() { s.users[user] = mine }()
	s.forget(now)
	if now.Sub(mine.at) < every || limit > 0 && s.ahead(mine.at, now) >= max(1, limit/looksPart)-len(s.sent) {
		return every, false
	}
	mine.at = now
	s.sent = append(s.sent, now)
	return every, true
}

// ahead returns how many users who asked lately were looked at before at. The caller
// holds mu.
func (s *looks) ahead(at, now time.Time) (n int) {
	for _, other := range s.users {
		if other.at.Before(at) && now.Sub(other.asked) < askedLately && now.Sub(other.at) >= lookSoon {
			n++
		}
	}
	return n
}

// forget forgets looks that no longer count, and users whose links ended long ago. The
// caller holds mu.
func (s *looks) forget(now time.Time) {
	s.sent = slices.DeleteFunc(s.sent, func(at time.Time) bool { return now.Sub(at) >= pace.Window })
	if len(s.users) < maxLooked {
		return
	}
	for user, one := range s.users {
		if now.Sub(one.asked) >= lookLater {
			delete(s.users, user)
		}
	}
}

// wait counts a request that waits for a link of a user, and returns what ends that;
// nil if there are too many.
func (s *looks) wait(caller, user string) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := waiter{caller, user}
	if s.all >= maxAllWaits || s.waits[w] >= maxWaits {
		return nil
	}
	s.count(w, 1)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.count(w, -1)
	}
}

// count adds n requests that wait. The caller holds mu.
func (s *looks) count(w waiter, n int) {
	s.all += n
	if s.waits[w] += n; s.waits[w] == 0 {
		delete(s.waits, w)
	}
	if s.waiting[w.user] += n; s.waiting[w.user] == 0 {
		delete(s.waiting, w.user)
		delete(s.news, w.user)
	}
}

// newsOf returns a channel that is closed when a link of the user connects an account.
// The user must be waited for.
func (s *looks) newsOf(user string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.news[user] == nil {
		s.news[user] = make(chan struct{})
	}
	return s.news[user]
}

// tell tells those who wait that a link of the user connected an account.
func (s *looks) tell(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if news := s.news[user]; news != nil {
		close(news)
		delete(s.news, user)
	}
}
