package pipedream

import (
	"math/rand/v2"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	firstBackoff = time.Second
	maxBackoff   = 30 * time.Second
	// maxHeldAccounts bounds the memory that guessed account ids can take.
	maxHeldAccounts = 10_000
)

// backoff is one hold-off: after a failure nothing is asked until it ends.
// The zero value holds nothing off.
type backoff struct {
	failures int
	until    time.Time
	err      error
}

// after returns the hold-off that follows b when err comes at now: 1 s,
// doubling to 30 s, less up to a quarter so that mounts and accounts which
// failed together do not come back together. least, if longer, is what the
// API asked for.
func (b backoff) after(now time.Time, err error, least time.Duration) backoff {
	wait := min(maxBackoff, firstBackoff<<min(b.failures, 5))
	wait -= rand.N(wait / 4) //nolint:gosec // spreads load, guards nothing
	return backoff{failures: b.failures + 1, until: now.Add(max(wait, least)), err: err}
}

func (b backoff) active(now time.Time) bool { return now.Before(b.until) }

// holdoffs are the hold-offs of one client: one for everything, and one for each
// account, or other key, that failed lately.
type holdoffs struct {
	mu       sync.Mutex // guards mount and the read-modify-write of accounts; never held across I/O
	mount    backoff
	accounts *lru.Cache[string, backoff]
}

func newHoldoffs() *holdoffs {
	accounts, err := lru.New[string, backoff](maxHeldAccounts)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return &holdoffs{accounts: accounts}
}

// check returns the error that key is held off with, nil where it is not. The
// waiting time in it counts from now.
func (h *holdoffs) check(key string) error {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mount.active(now) {
		return h.mount.remaining(now)
	}
	if b, ok := h.accounts.Peek(key); ok && b.active(now) {
		return b.remaining(now)
	}
	return nil
}

// checkMount is check for what is about no account.
func (h *holdoffs) checkMount() error { return h.check("") }

// held tells whether key is held off.
func (h *holdoffs) held(key string) bool { return h.check(key) != nil }

// remaining is the error of b, with the time that is left in it.
func (b backoff) remaining(now time.Time) error {
	api, ok := b.err.(*apiError) //nolint:errorlint // stored by this package, never wrapped
	if !ok {
		return b.err
	}
	held := *api
	held.retryAfter = b.until.Sub(now)
	return &held
}

func (h *holdoffs) failed(key string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last, _ := h.accounts.Peek(key)
	h.accounts.Add(key, last.after(time.Now(), err, 0))
}

func (h *holdoffs) failedMount(err error, least time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.mount.active(now) {
		// Requests that were under way together fail together: one failure, not many.
		if until := now.Add(least); until.After(h.mount.until) {
			h.mount.until = until
		}
		return
	}
	h.mount = h.mount.after(now, err, least)
}

func (h *holdoffs) succeeded(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.accounts.Remove(key)
}

// succeededMount ends the count of failures, but not a hold-off in force: an
// answer that was under way says nothing about the 429 after it.
func (h *holdoffs) succeededMount() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.mount.active(time.Now()) {
		h.mount = backoff{}
	}
}

// mountUntil is when the mount's hold-off ends, or ended.
func (h *holdoffs) mountUntil() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mount.until
}

// heldAccounts counts the accounts that are held off now.
func (h *holdoffs) heldAccounts() int {
	now := time.Now()
	count := 0
	for _, b := range h.accounts.Values() {
		if b.active(now) {
			count++
		}
	}
	return count
}
