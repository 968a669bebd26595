// Package backoff holds back requests for what failed a moment ago.
package backoff

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	firstHoldOff = time.Second
	// LongestHoldOff is the longest hold-off after a failure that may pass by
	// itself.
	LongestHoldOff = 30 * time.Second
	// LongestLasting is the longest hold-off after a lasting failure.
	LongestLasting = 5 * time.Minute
	// maxHeldOff bounds the memory that guessed names can take.
	maxHeldOff = 10_000
	// guessesFrom is how many lasting failures in a minute are still normal. More
	// look like somebody guessing names.
	guessesFrom = 8
)

// Failure describes a failed request.
type Failure struct {
	Err error
	// Lasting is set if the failure will not pass by itself, such as that of a
	// deleted account.
	Lasting bool
	// Exists is set if what was asked for exists, so that the failure does not
	// count as a guess.
	Exists bool
	// Gone is set if what was asked for is of no more use, as a deleted account is.
	Gone bool
	// Least is the shortest time to hold off.
	Least time.Duration
}

// holdOff is one hold-off: after a failure, no request goes out until it ends.
// The zero value holds nothing off.
type holdOff struct {
	failures int
	lasting  bool      // whether the last failure was lasting
	gone     time.Time // of the first failure that was [Failure.Gone]; zero for none
	at       time.Time // of the last failure
	until    time.Time
	err      error
}

// after returns the hold-off that follows h after a failure at now. It starts
// at 1 s and doubles with each failure. Up to a quarter is taken off at random,
// so that mounts and accounts that failed together do not retry together.
func (h holdOff) after(now time.Time, f Failure) holdOff {
	longest := LongestHoldOff
	if f.Lasting {
		longest = LongestLasting
	}
	wait := min(longest, firstHoldOff<<min(h.failures, 9))
	wait -= rand.N(wait / 4) //nolint:gosec // spreads load, guards nothing
	gone := h.gone
	if f.Gone && gone.IsZero() {
		gone = now
	}
	return holdOff{failures: h.failures + 1, lasting: f.Lasting, gone: gone, at: now, until: now.Add(max(wait, f.Least)), err: f.Err}
}

// restarted returns h as if it had ended and its next failure were the first.
func (h holdOff) restarted() holdOff {
	return holdOff{lasting: h.lasting, gone: h.gone, at: h.at, err: h.err}
}

func (h holdOff) active(now time.Time) bool { return now.Before(h.until) }

// remaining returns the error of h, updated with the time left.
func (h holdOff) remaining(now time.Time) error {
	if err, ok := h.err.(interface{ WithWait(time.Duration) error }); ok {
		return err.WithWait(h.until.Sub(now))
	}
	return h.err
}

// HoldOffs are the hold-offs of one connection: one for everything, and one for
// each account, or other name, that failed recently.
type HoldOffs struct {
	mu     sync.Mutex // guards all and misses, and every change of named; never held across I/O
	all    holdOff
	named  *lru.Cache[string, holdOff]
	misses []time.Time // lasting failures of the last minute that may be guesses; ascending
}

// NewHoldOffs returns HoldOffs that hold nothing off.
func NewHoldOffs() *HoldOffs {
	named, err := lru.New[string, holdOff](maxHeldOff)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return &HoldOffs{named: named}
}

// Check returns the error that name is held off with, or nil if it is not held
// off. If that error has a method WithWait(time.Duration) error, the result of
// that method is returned, called with the time left.
func (h *HoldOffs) Check(name string) error {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all.active(now) {
		return h.all.remaining(now)
	}
	if held, ok := h.named.Peek(name); ok && held.active(now) {
		return held.remaining(now)
	}
	return nil
}

// Held reports whether name is held off.
func (h *HoldOffs) Held(name string) bool { return h.Check(name) != nil }

// CheckAll is like [HoldOffs.Check], for requests without a name.
func (h *HoldOffs) CheckAll() error { return h.Check("") }

// Failed records a failure of name and holds it off.
func (h *HoldOffs) Failed(name string, f Failure) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	last, _ := h.named.Peek(name)
	h.named.Add(name, last.after(now, f))
	if f.Lasting && !f.Exists {
		recent := h.recentMisses(now)
		h.misses = append(recent[max(0, len(recent)-guessesFrom):], now)
	}
}

// Succeeded ends the hold-off of name and resets the count of its failures.
func (h *HoldOffs) Succeeded(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.named.Remove(name)
}

// Retry ends the hold-off of name but keeps the count of its failures.
func (h *HoldOffs) Retry(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held, ok := h.named.Peek(name); ok {
		held.until = time.Time{}
		h.named.Add(name, held)
	}
}

// Lost says that name has lost part, which is another name. It ends the hold-off of
// name and resets the count of its failures if part turned out to be gone since name
// last failed. What is gone stays gone, so it does that once for each loss.
func (h *HoldOffs) Lost(name, part string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	held, ok := h.named.Peek(name)
	if lost, _ := h.named.Peek(part); ok && lost.gone.After(held.at) {
		h.named.Add(name, held.restarted())
	}
}

// Doubtful reports whether the last request for name had a lasting failure.
func (h *HoldOffs) Doubtful(name string) bool {
	held, _ := h.named.Peek(name)
	return held.lasting
}

// FailedAt returns when name last failed, or the zero time if it did not fail
// since its last success.
func (h *HoldOffs) FailedAt(name string) time.Time {
	held, _ := h.named.Peek(name)
	return held.at
}

// Guessing reports whether so many names had a lasting failure within the last
// minute that somebody seems to be guessing.
func (h *HoldOffs) Guessing() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.misses = h.recentMisses(time.Now())
	return len(h.misses) > guessesFrom
}

// recentMisses returns the misses of the last minute. The caller holds mu.
func (h *HoldOffs) recentMisses(now time.Time) []time.Time {
	old := 0
	for old < len(h.misses) && now.Sub(h.misses[old]) > time.Minute {
		old++
	}
	return h.misses[old:]
}

// FailedAll records a failure that concerns every request, and holds everything
// off.
func (h *HoldOffs) FailedAll(f Failure) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.all.active(now) {
		// Requests that were under way at the same time fail together, which is one
		// failure, not many.
		if until := now.Add(f.Least); until.After(h.all.until) {
			h.all.until, h.all.err = until, f.Err
		}
		return
	}
	h.all = h.all.after(now, f)
}

// SucceededAll resets the count of failures, but does not end a hold-off in
// force: an answer that was under way says nothing about the 429 after it.
func (h *HoldOffs) SucceededAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.all.active(time.Now()) {
		h.all = holdOff{}
	}
}

// AllUntil returns when the hold-off of everything ends, or ended.
func (h *HoldOffs) AllUntil() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.until
}

// AllError returns the failure that everything is or was held off for, or nil if
// the last request succeeded.
func (h *HoldOffs) AllError() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.err
}

// Each calls f for every name whose last request failed and that somebody still
// asks for: those fail again every [LongestLasting] at the latest.
func (h *HoldOffs) Each(f func(name string, err error)) {
	now := time.Now()
	for _, name := range h.named.Keys() {
		if held, ok := h.named.Peek(name); ok && now.Sub(held.at) <= 2*LongestLasting {
			f(name, held.err)
		}
	}
}

// Count returns how many names are held off now.
func (h *HoldOffs) Count() (held int) {
	now := time.Now()
	for _, one := range h.named.Values() {
		if one.active(now) {
			held++
		}
	}
	return held
}

// Sleep waits for d, or until ctx ends and returns its error.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
