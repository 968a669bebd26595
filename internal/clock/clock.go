// Package clock compares this machine's clock with Pipedream's. The two must agree,
// because tokens end by the one and leases by the other.
package clock

import (
	"sync"
	"time"
)

const (
	// Wrong is the difference from which on the clock should be corrected.
	Wrong = 30 * time.Second
	// tolerance is the difference that is ignored. A Date counts whole seconds.
	tolerance = 2 * time.Second
	// slowest is how long an answer may take and still tell the time.
	slowest = 5 * time.Second
)

// Clock knows how far this machine's clock is ahead of Pipedream's. The zero value
// knows nothing yet. It is safe for concurrent use.
type Clock struct {
	mu      sync.Mutex // guards the fields below; never held across I/O
	known   bool
	ahead   time.Duration
	doubted *reading // contradicts ahead, and no other answer confirms it yet
}

// Ahead returns how far this machine's clock is ahead of Pipedream's, in whole
// seconds. It is below zero if the clock is behind, and zero for a difference of about
// two seconds or less. known reports whether an answer has told the time.
func (c *Clock) Ahead() (ahead time.Duration, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ahead, c.known
}

// Observe takes the Date of an answer to a request that this machine sent and had
// answered at these times. It reports whether Ahead changed. One answer alone never
// changes it: the next one, with a later Date, must agree. So neither one wrong Date
// does, nor an answer that a cache repeats.
func (c *Clock) Observe(date, sent, received time.Time) (changed bool) {
	r := newReading(date, sent, received)
	if r.most-r.least > slowest {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.fits(c.ahead) {
		c.known, c.doubted = true, nil
		return false
	}
	last := c.doubted
	if last == nil || !date.After(last.date) || !r.fits(last.middle()) {
		c.doubted = &r
		return false
	}
	c.known, c.ahead, c.doubted = true, r.middle().Round(time.Second), nil
	if c.ahead.Abs() <= tolerance {
		c.ahead = 0
	}
	return true
}

// reading says between which bounds a clock is ahead of Pipedream's, by one answer.
type reading struct {
	date        time.Time
	least, most time.Duration
}

func newReading(date, sent, received time.Time) reading {
	// The monotonic clocks say nothing about the time of day.
	return reading{date: date, least: sent.Round(0).Sub(date.Add(time.Second)), most: received.Round(0).Sub(date)}
}

func (r reading) middle() time.Duration { return (r.least + r.most) / 2 }

func (r reading) fits(ahead time.Duration) bool {
	return ahead >= r.least-tolerance && ahead <= r.most+tolerance
}
