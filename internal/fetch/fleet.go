package fetch

import (
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	// rememberFor is how long a page is remembered, on top of the time that it takes
	// to fetch the list.
	rememberFor = time.Minute
	// uselessFor is how long the list is not tried again after it was refused or came
	// without credentials, and failedFor after it failed.
	uselessFor = 10 * time.Minute
	failedFor  = time.Minute
	// takeStockEvery is how often the list is fetched to learn what exists.
	takeStockEvery = 10 * time.Minute
)

// fleet is what is known of all accounts, and of the list of them. The budget's mutex guards it.
type fleet struct {
	index   *index
	memory  *pageMemory
	length  int       // in pages; 0 if unknown
	stockAt time.Time // when it was last fetched to its end, or that was tried

	// What readers wanted and was not cached: accounts on unknown and on known pages, and
	// those that were never seen to exist.
	unlisted, listed, unproven demand
}

func newFleet() *fleet { return &fleet{index: newIndex(), memory: newPageMemory()} }

// demandOf returns the demand in which an account counts. One that a walk brought shows
// what it is worth to walk on.
func (l *fleet) demandOf(id string, class pace.Class, walked bool) *demand {
	_, known := l.index.of(id)
	switch {
	case class == pace.Unproven:
		return &l.unproven
	case known && !walked:
		return &l.listed
	default:
		return &l.unlisted
	}
}

// learn takes note of a page.
func (l *fleet) learn(p *api.Page, after string) {
	l.index.saw(p, after)
	if p.Total > 0 {
		l.length = (p.Total + api.PageLimit - 1) / api.PageLimit
	}
}

// demand counts the accounts that were wanted recently.
type demand struct {
	order []wanted // ascending by at
	ids   map[string]struct{}
}

type wanted struct {
	id string
	at time.Time
}

// add notes that an account is wanted, and forgets those that were wanted longer than span ago.
func (d *demand) add(id string, now time.Time, span time.Duration) {
	d.count(now, span)
	if _, ok := d.ids[id]; ok || len(d.order) >= maxIndexed {
		return
	}
	if d.ids == nil {
		d.ids = map[string]struct{}{}
	}
	d.ids[id] = struct{}{}
	d.order = append(d.order, wanted{id: id, at: now})
}

// count returns how many different accounts were wanted within span before now.
func (d *demand) count(now time.Time, span time.Duration) int {
	old := 0
	for old < len(d.order) && now.Sub(d.order[old].at) > span {
		delete(d.ids, d.order[old].id)
		old++
	}
	d.order = d.order[old:]
	return len(d.order)
}
