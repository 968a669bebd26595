package fetch

import (
	"hash/maphash"
	"sync"

	"vault-plugin-secrets-pipedream/internal/api"
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

// saw remembers that the accounts of p are on the page after that cursor.
func (x *index) saw(p *api.Page, after string) {
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

// setWhole says whether the index has all accounts.
func (x *index) setWhole(whole bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.whole = whole && len(x.after) > 0
}

func (x *index) isWhole() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.whole
}
