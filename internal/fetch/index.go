package fetch

import (
	"hash/maphash"
	"sync"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// maxIndexed bounds the accounts whose page is remembered.
const maxIndexed = 4 * maxRemembered

// index remembers which accounts exist, and on which page of the list they
// were last seen. Accounts that were connected one after the other lie
// together, and their tokens are due together: then one page brings what is
// due, and the rest of the list can be left alone.
type index struct {
	seed maphash.Seed

	mu sync.Mutex // guards the fields below; not held across I/O
	// after has, by the hash of an account's id, what its page is asked for with:
	// the cursor at the end of the page before it, empty for the first. An id
	// whose hash is another's is missed on that page, and asked for by itself.
	after map[uint64]string
	whole bool // it had all accounts when the list was last fetched
}

func newIndex() *index { return &index{seed: maphash.MakeSeed(), after: map[uint64]string{}} }

// note remembers all accounts on a page.
func (x *index) note(p *api.Page, after string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.after)+len(p.Accounts) > maxIndexed {
		clear(x.after)
		x.whole = false
	}
	for _, a := range p.Accounts {
		x.after[maphash.String(x.seed, a.ID)] = after
	}
}

func (x *index) forget(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.after, maphash.String(x.seed, id))
}

// of is the page that an account was on, if it is known to exist.
func (x *index) of(id string) (after string, known bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	after, known = x.after[maphash.String(x.seed, id)]
	return after, known
}

func (x *index) setWhole() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.whole = len(x.after) > 0
}

func (x *index) isWhole() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.whole
}

// demand counts the accounts that were wanted lately and had to be fetched.
// What was wanted in the last minute tells what will be in the next: a fleet
// that reads over few connections never shows more of itself at a time.
// Fetcher.mu guards it.
type demand struct {
	order []wanted // ascending by at
	ids   map[string]struct{}
}

type wanted struct {
	id string
	at time.Time
}

func (d *demand) note(id string, now time.Time) {
	if _, ok := d.ids[id]; ok || len(d.order) >= maxIndexed {
		return
	}
	if d.ids == nil {
		d.ids = map[string]struct{}{}
	}
	d.ids[id] = struct{}{}
	d.order = append(d.order, wanted{id: id, at: now})
}

// count is how many different accounts were wanted within span before now.
func (d *demand) count(now time.Time, span time.Duration) int {
	old := 0
	for old < len(d.order) && now.Sub(d.order[old].at) > span {
		delete(d.ids, d.order[old].id)
		old++
	}
	d.order = d.order[old:]
	return len(d.order)
}

func (d *demand) reset() { *d = demand{} }

// listTime is how long a list of so many pages takes to fetch at the least, by
// the budget.
func listTime(budget *pace.Budget, pages int) time.Duration {
	limit := budget.Pages(pace.Ahead, pace.Window)
	if limit < 0 {
		return 0
	}
	return time.Duration(pages) * pace.Window / time.Duration(max(1, limit))
}
