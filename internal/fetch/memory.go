package fetch

import (
	"sync"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/bounded"
)

const (
	// maxRemembered and maxRememberedBytes bound the accounts that pages brought and
	// nobody has read yet.
	maxRemembered      = 32_768
	maxRememberedBytes = 32 << 20
	// tidyEvery is how often accounts that are too old are dropped.
	tidyEvery = 10 * time.Second
)

// brought is an account that a page brought.
type brought struct {
	account *api.Account
	at      time.Time // when its page was asked for
	until   time.Time // when it is too old
	walked  bool      // whether it came with a walk
}

// pageMemory remembers whole pages for about a minute, only in memory. Readers who
// come a moment after a page find their account here.
type pageMemory struct {
	mu    sync.Mutex // guards timer, and all changes of byID; never held across I/O
	byID  *bounded.Memory[string, brought]
	timer *time.Timer // tidies; nil while there is nothing to tidy
}

func newPageMemory() *pageMemory {
	return &pageMemory{byID: bounded.New(maxRemembered, maxRememberedBytes, func(_ string, b brought) int { return b.account.Size() })}
}

// put remembers an account until it is taken or too old. It leaves out an account
// that is dead or has no credentials, which gets a request of its own.
func (m *pageMemory) put(a *api.Account, at, until time.Time, walked bool) {
	if a.Dead || len(a.Credentials) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if before, ok := m.byID.Peek(a.ID); ok && before.at.After(at) {
		return
	}
	m.byID.Put(a.ID, brought{account: a, at: at, until: until, walked: walked})
	if m.timer == nil {
		m.timer = time.AfterFunc(tidyEvery, m.tidy)
	}
}

// take returns an account if its page was asked for after newerThan. In any case it
// forgets the account.
func (m *pageMemory) take(id string, newerThan time.Time) (brought, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.byID.Peek(id)
	if !ok {
		return b, false
	}
	m.byID.Remove(id)
	return b, b.at.After(newerThan) && time.Now().Before(b.until)
}

// tidy drops what is too old, and runs again as long as anything is left.
func (m *pageMemory) tidy() {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.byID.RemoveIf(func(_ string, b brought) bool { return !now.Before(b.until) })
	if m.byID.Len() == 0 {
		m.timer = nil
		return
	}
	m.timer.Reset(tidyEvery)
}
