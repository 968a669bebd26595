package pace

import (
	"math/rand/v2"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	firstHoldOff = time.Second
	// LongestHoldOff is how long anything is held off at most that may pass by
	// itself.
	LongestHoldOff = 30 * time.Second
	// LongestLasting is the same for what is wrong for good.
	LongestLasting = 5 * time.Minute
	// maxHeldOff bounds the memory that guessed names can take.
	maxHeldOff = 10_000
	// expectedEvery is how often something is asked for that is expected to come.
	expectedEvery = 3 * time.Second
	// guessesFrom is how many things that do not exist may be asked for in a
	// minute before somebody seems to be guessing.
	guessesFrom = 8
)

// Failure is what is known of a failed request.
type Failure struct {
	Err error
	// Lasting is set where the failure is of what was asked for, such as an
	// account that was deleted, and will not pass by itself.
	Lasting bool
	// Exists is set where what was asked for is there nonetheless, so that whoever
	// asked guessed nothing.
	Exists bool
	// Least is how long to hold off at the least.
	Least time.Duration
}

// holdOff is one hold-off: after a failure nothing is asked until it ends. The
// zero value holds nothing off.
type holdOff struct {
	failures int
	lasting  bool      // what the last failure was
	at       time.Time // of the last failure
	until    time.Time
	err      error
}

// after returns the hold-off that follows h when a failure comes at now: 1 s,
// doubling, less up to a quarter so that mounts and accounts which failed
// together do not come back together.
func (h holdOff) after(now time.Time, f Failure) holdOff {
	longest := LongestHoldOff
	if f.Lasting {
		longest = LongestLasting
	}
	wait := min(longest, firstHoldOff<<min(h.failures, 9))
	wait -= rand.N(wait / 4) //nolint:gosec // spreads load, guards nothing
	return holdOff{failures: h.failures + 1, lasting: f.Lasting, at: now, until: now.Add(max(wait, f.Least)), err: f.Err}
}

func (h holdOff) active(now time.Time) bool { return now.Before(h.until) }

// remaining is the error of h, with the time that is left in it.
func (h holdOff) remaining(now time.Time) error {
	if err, ok := h.err.(interface{ WithWait(time.Duration) error }); ok {
		return err.WithWait(h.until.Sub(now))
	}
	return h.err
}

// HoldOffs are the hold-offs of one connection: one for everything, and one for
// each account, or other name, that failed lately.
type HoldOffs struct {
	mu     sync.Mutex // guards the fields below, and the read-modify-write of named; never held across I/O
	all    holdOff
	named  *lru.Cache[string, holdOff]
	misses []time.Time // of the last minute, where nothing was there; ascending

	expected *lru.Cache[string, time.Time] // until when a name may come any moment
}

// NewHoldOffs returns hold-offs that hold nothing off.
func NewHoldOffs() *HoldOffs {
	named, err := lru.New[string, holdOff](maxHeldOff)
	if err != nil { // only for a size below 1
		panic(err)
	}
	expected, err := lru.New[string, time.Time](maxHeldOff)
	if err != nil {
		panic(err)
	}
	return &HoldOffs{named: named, expected: expected}
}

// Check returns the error that name is held off with, nil where it is not. Where
// that error has a method WithWait(time.Duration) error, it tells the time left.
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

// Held tells whether name is held off.
func (h *HoldOffs) Held(name string) bool { return h.Check(name) != nil }

// CheckAll is Check for what has no name.
func (h *HoldOffs) CheckAll() error { return h.Check("") }

// Failed holds name off.
func (h *HoldOffs) Failed(name string, f Failure) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if until, _ := h.expected.Peek(name); f.Lasting && now.Before(until) {
		h.named.Add(name, holdOff{lasting: true, at: now, until: now.Add(max(expectedEvery, f.Least)), err: f.Err})
		return
	}
	last, _ := h.named.Peek(name)
	h.named.Add(name, last.after(now, f))
	if f.Lasting && !f.Exists {
		recent := h.recentMisses(now)
		h.misses = append(recent[max(0, len(recent)-guessesFrom):], now)
	}
}

// Succeeded ends the hold-off of name, and the count of its failures.
func (h *HoldOffs) Succeeded(name string) {
	h.named.Remove(name)
	h.expected.Remove(name)
}

// Retry ends the hold-off of name and keeps the count of its failures.
func (h *HoldOffs) Retry(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held, ok := h.named.Peek(name); ok {
		held.until = time.Time{}
		h.named.Add(name, held)
	}
}

// Expect ends the hold-off of name, and the count of its failures. Until then it
// is asked for every few seconds, however often it is not there: it is about to
// come. Success ends that too.
func (h *HoldOffs) Expect(name string, until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if latest, _ := h.expected.Peek(name); until.After(latest) {
		h.expected.Add(name, until)
	}
	if held, ok := h.named.Peek(name); ok {
		h.named.Add(name, holdOff{lasting: held.lasting, at: held.at, err: held.err})
	}
}

// Doubtful tells whether name failed for good when it was last asked for.
func (h *HoldOffs) Doubtful(name string) bool {
	held, _ := h.named.Peek(name)
	return held.lasting
}

// FailedAt is when name failed last; zero where it did not.
func (h *HoldOffs) FailedAt(name string) time.Time {
	held, _ := h.named.Peek(name)
	return held.at
}

// Guessing tells whether so much was asked for lately that does not exist that
// somebody seems to be guessing names.
func (h *HoldOffs) Guessing() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.misses = h.recentMisses(time.Now())
	return len(h.misses) > guessesFrom
}

// recentMisses are the misses of the last minute. The caller holds mu.
func (h *HoldOffs) recentMisses(now time.Time) []time.Time {
	old := 0
	for old < len(h.misses) && now.Sub(h.misses[old]) > Window {
		old++
	}
	return h.misses[old:]
}

// FailedAll holds everything off.
func (h *HoldOffs) FailedAll(f Failure) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.all.active(now) {
		// Requests that were under way together fail together: one failure, not many.
		if until := now.Add(f.Least); until.After(h.all.until) {
			h.all.until, h.all.err = until, f.Err
		}
		return
	}
	h.all = h.all.after(now, f)
}

// SucceededAll ends the count of failures, but not a hold-off in force: an
// answer that was under way says nothing about the 429 after it.
func (h *HoldOffs) SucceededAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.all.active(time.Now()) {
		h.all = holdOff{}
	}
}

// AllUntil is when the hold-off of everything ends, or ended.
func (h *HoldOffs) AllUntil() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.until
}

// AllError is the failure that everything is or was held off for; nil where the
// last request succeeded.
func (h *HoldOffs) AllError() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.err
}

// Each calls f for every name that failed when it was last asked for, and that
// somebody still asks for: who does fails again every [LongestLasting].
func (h *HoldOffs) Each(f func(name string, err error)) {
	now := time.Now()
	for _, name := range h.named.Keys() {
		if held, ok := h.named.Peek(name); ok && now.Sub(held.at) <= 2*LongestLasting {
			f(name, held.err)
		}
	}
}

// Count is how many names are held off now.
func (h *HoldOffs) Count() (held int) {
	now := time.Now()
	for _, one := range h.named.Values() {
		if one.active(now) {
			held++
		}
	}
	return held
}
