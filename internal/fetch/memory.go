package fetch

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"vault-plugin-secrets-pipedream/internal/api"
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
	mu    sync.Mutex // guards the fields below; never held across I/O
	byID  *lru.Cache[string, brought]
	bytes int
	timer *time.Timer // tidies; nil while there is nothing to tidy
}

func newPageMemory() *pageMemory {
	m := &pageMemory{}
	var err error
	m.byID, err = lru.NewWithEvict(maxRemembered, func(_ string, b brought) { m.bytes -= b.account.Size() })
	if err != nil { // only for a size below 1
		panic(err)
	}
	return m
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
	m.byID.Remove(a.ID)
	m.bytes += a.Size()
	m.byID.Add(a.ID, brought{account: a, at: at, until: until, walked: walked})
	for m.bytes > maxRememberedBytes {
		m.byID.RemoveOldest()
	}
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
	for _, id := range m.byID.Keys() {
		if b, ok := m.byID.Peek(id); ok && !now.Before(b.until) {
			m.byID.Remove(id)
		}
	}
	if m.byID.Len() == 0 {
		m.timer = nil
		return
	}
	m.timer.Reset(tidyEvery)
}
