package fetch

import (
	"hash/maphash"
	"sync"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// maxIndexed bounds how many accounts the index and the demand hold.
const maxIndexed = 4 * maxRemembered

// index remembers which accounts exist, and on which page of the list they were
// last seen. Accounts that were connected one after the other are on the same page,
// and their tokens are due at the same time. So one page brings all of them, and
// the rest of the list is not needed.
type index struct {
	seed maphash.Seed

	mu sync.Mutex // guards the fields below; never held across I/O
	// after has the cursor that fetches an account's page, by the hash of its id: the
	// cursor at the end of the page before, empty for the first page. If two ids have
	// the same hash, one of them is missing on that page, and is asked for by itself.
	after map[uint64]string
	whole bool // whether it had all accounts when the list was last fetched
}

func newIndex() *index { return &index{seed: maphash.MakeSeed(), after: map[uint64]string{}} }

// note remembers that the accounts of p are on the page after that cursor.
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

// of returns the cursor of the page that an account was on, if it is known to
// exist.
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

// demand counts the accounts that were wanted recently and had to be fetched. The
// demand of the last minute predicts that of the next. The queue alone does not: a
// fleet that reads over few connections never has more accounts in it at a time
// than connections. Fetcher.mu guards it.
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

// count returns how many different accounts were wanted within span before now. It
// forgets older ones.
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

// listTime returns how long the budget makes a fetch of that many pages take, at
// least.
func listTime(budget *pace.Budget, pages int) time.Duration {
	limit := budget.Pages(pace.Ahead, pace.Window)
	if limit < 0 {
		return 0
	}
	return time.Duration(pages) * pace.Window / time.Duration(max(1, limit))
}
