// Package clock knows the time by Pipedream's clock, whatever this machine's shows.
// Tokens end by Pipedream's clock.
package clock

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Wrong is the difference from which on the clock should be corrected.
	Wrong = 30 * time.Second
	// tolerance is the difference that is ignored. A Date counts whole seconds.
	tolerance = 2 * time.Second
	// precision is how well a difference is known that is not ignored.
	precision = time.Second
	// slowest is how long an answer may take and still tell the time.
	slowest = 5 * time.Second
	// most is the largest difference that is believed. A duration holds 292 years.
	most = 100 * 365 * 24 * time.Hour
	// restFor is how long a contradiction is left alone that one more answer did not
	// settle, so that answers without order do not double the requests.
	restFor = time.Minute
)

// Moment is one moment by two clocks.
type Moment struct {
	// Here is the time by this machine's clock, as time.Now returns it. What happened
	// here is compared with it.
	Here time.Time
	// There is the time by Pipedream's clock, and the latest that it can be. It is
	// compared with times that Pipedream names.
	There time.Time
	// Unsure is set if this machine's clock was probably changed while the plugin did not
	// run, and Pipedream has not told the time since.
	Unsure bool
	// Jumped is set if this machine's clock jumped ahead, and Pipedream has not told the time
	// since. There may be too late then.
	Jumped bool
}

// At returns a moment at which both clocks show the same time.
func At(now time.Time) Moment { return Moment{Here: now, There: now} }

// ToHere returns the time by this machine's clock at which Pipedream's shows t. The zero
// time stays as it is.
func (m Moment) ToHere(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return m.Here.Add(t.Sub(m.There))
}

// Clock knows how far this machine's clock is ahead of Pipedream's. It is safe for
// concurrent use. A nil Clock takes the two for equal.
type Clock struct {
	wall  func(time.Time) time.Time
	known atomic.Pointer[known] // replaced while mu is held

	mu        sync.Mutex // guards the fields below; never held across I/O
	doubted   *reading   // contradicts what is known, and no other answer confirms it yet
	restUntil time.Time
}

// known is what is known about the difference since a moment here.
type known struct {
	at, wall time.Time // that moment: the monotonic clock and the clock on the wall
	ahead    time.Duration
	ever     bool // whether Pipedream ever told the time
	told     bool // whether it has since the plugin started
	unsure   bool
}

// New returns a clock that takes this machine's for right until an answer contradicts
// it. wall replaces the clock on the wall in tests; nil for the real one.
func New(wall func(time.Time) time.Time) *Clock {
	if wall == nil {
		wall = func(t time.Time) time.Time { return t.Round(0) } // without its monotonic part
	}
	c := &Clock{wall: wall}
	now := time.Now()
	c.known.Store(&known{at: now, wall: wall(now)})
	return c
}

// Now returns the present moment.
func (c *Clock) Now() Moment {
	now := time.Now()
	if c == nil {
		return At(now)
	}
	k := c.known.Load()
	wall := c.wall(now)
	ahead := k.aheadAt(now, wall)
	there := wall.Add(-ahead)
	if ahead != 0 {
		there = there.Add(precision)
	}
	return Moment{Here: now, There: there, Unsure: k.unsure, Jumped: k.stepped(now, wall) > tolerance}
}

// stepped returns how much further the clock on the wall went than the monotonic clock.
func (k *known) stepped(now, wall time.Time) time.Duration {
	return wall.Sub(k.wall) - now.Sub(k.at)
}

// aheadAt returns how far this machine's clock is ahead. If it was set back, as much time
// has passed as on the monotonic clock. If it jumped ahead, the machine may have been
// suspended, which stops the monotonic clock. So until an answer tells which, as much
// time is taken to have passed as on the clock that went further.
func (k *known) aheadAt(now, wall time.Time) time.Duration {
	if stepped := k.stepped(now, wall); stepped < -tolerance {
		return k.ahead + stepped.Round(time.Second)
	}
	return k.ahead
}

// Ahead returns how far this machine's clock is ahead of Pipedream's, in whole
// seconds. It is below zero if the clock is behind, and zero for a difference of about
// two seconds or less. ever reports whether an answer has told the time, even if that was
// before a restart.
func (c *Clock) Ahead() (ahead time.Duration, ever bool) {
	if c == nil {
		return 0, false
	}
	now := time.Now()
	k := c.known.Load()
	return k.aheadAt(now, c.wall(now)), k.ever
}

// Restore takes over the difference that was known before a restart, unless Pipedream has
// told the time since. A clock that was wrong may have been corrected meanwhile.
func (c *Clock) Restore(ahead time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known.Load().told && ahead.Abs() <= most {
		now := time.Now()
		c.known.Store(&known{at: now, wall: c.wall(now), ahead: ahead.Round(time.Second), ever: true, unsure: true})
	}
}

// Told reports whether Pipedream has told the time since the plugin started.
func (c *Clock) Told() bool { return c.known.Load().told }

// Suspect says that this machine's clock may have been changed while the plugin did not
// run. It has no effect once Pipedream has told the time.
func (c *Clock) Suspect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := *c.known.Load(); !k.told {
		k.unsure = true
		c.known.Store(&k)
	}
}

// Observe takes the Date of an answer to a request that this machine sent and had
// answered at these times. It reports whether the difference changed. One answer alone
// never changes it: the next one, with a later Date, must agree. So neither one wrong Date
// changes it, nor an answer that a cache repeats. Only if the clock on the wall jumped is
// one answer enough.
func (c *Clock) Observe(date, sent, received time.Time) (changed bool) {
	r := newReading(date, c.wall(sent), c.wall(received))
	if width := r.most - r.least; width < 0 || width > slowest || r.middle().Abs() > most {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.known.Load()
	ahead := k.aheadAt(received, c.wall(received))
	jumped := ahead + max(0, k.stepped(received, c.wall(received)).Round(time.Second))
	switch last := c.doubted; {
	case r.fits(ahead):
	case r.fits(jumped):
		ahead = jumped
	case last != nil && date.After(last.date) && r.fits(last.middle()):
		ahead = r.middle().Round(time.Second)
	default:
		c.doubted = &r
		return false
	}
	if ahead.Abs() <= tolerance {
		ahead = 0
	}
	c.doubted = nil
	c.known.Store(&known{at: received, wall: c.wall(received), ahead: ahead, ever: true, told: true})
	return ahead != k.ahead
}

// Doubts reports whether the last answer contradicts what is known, so that another one
// should settle it.
func (c *Clock) Doubts() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.doubted != nil && !time.Now().Before(c.restUntil)
}

// Rest says that another answer has been asked for. A contradiction that is still there
// is left alone for a minute.
func (c *Clock) Rest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.doubted != nil {
		c.restUntil = time.Now().Add(restFor)
	}
}

// reading says between which bounds a clock is ahead of Pipedream's, by one answer.
type reading struct {
	date        time.Time
	least, most time.Duration
}

// newReading takes times of the clock on the wall.
func newReading(date, sent, received time.Time) reading {
	return reading{date: date, least: sent.Sub(date.Add(time.Second)), most: received.Sub(date)}
}

func (r reading) middle() time.Duration { return r.least + (r.most-r.least)/2 }

func (r reading) fits(ahead time.Duration) bool {
	return ahead >= r.least-tolerance && ahead <= r.most+tolerance
}
