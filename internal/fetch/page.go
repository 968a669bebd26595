package fetch

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// maxBare is how many pages in a row may come without any credentials before the list
// counts as useless. Accounts without credentials are often next to each other.
const maxBare = 3

// page is a page of the list on which wants are, or the next page of a walk. The
// budget's mutex guards it.
type page struct {
	f     *Fetcher
	after string
	walk  *walk              // nil if it is not part of one
	wants map[*Want]struct{} // pending wants that were last seen on it
	by    time.Time          // when the first of those that nobody waits for can wait no longer; zero for none

	underWay bool
	asked    time.Time
	seq      int  // when it was asked for
	stalled  bool // whether nobody waits for it any more
}

// walk is a way through the list, page by page. It belongs to nobody.
type walk struct {
	page

	way     api.Walk
	fetched int
	served  int
	bare    int  // pages in a row without any credentials
	stock   bool // whether it goes to the end even if nobody waits
}

func (f *Fetcher) pageAt(after string) *page {
	pg := f.pages[after]
	if pg == nil {
		pg = &page{f: f, after: after, wants: map[*Want]struct{}{}}
		f.pages[after] = pg
	}
	return pg
}

// leave takes w from the page, which is forgotten with its last want.
func (pg *page) leave(w *Want) {
	delete(pg.wants, w)
	if len(pg.wants) == 0 {
		pg.by = time.Time{}
		pg.forget()
	}
}

func (pg *page) forget() {
	if len(pg.wants) == 0 && !pg.underWay && pg.f.pages[pg.after] == pg {
		delete(pg.f.pages, pg.after)
	}
}

// isComing reports whether the page is worth waiting for.
func (pg *page) isComing(now time.Time) bool { return pg.underWay && now.Sub(pg.asked) < lateAfter }

// isNewerThan reports whether the page was asked for late enough to serve w.
func (pg *page) isNewerThan(w *Want) bool { return pg.seq > w.seq || pg.asked.After(w.newerThan) }

// placeAgain has those who are on the page wait where they are served best by now.
func (pg *page) placeAgain(now time.Time) {
	inOrder := slices.SortedFunc(maps.Keys(pg.wants), func(a, b *Want) int { return cmp.Compare(a.seq, b.seq) })
	for _, w := range inOrder {
		pg.f.place(w, now)
	}
}

// takeStock has the list fetched to its end, to learn what exists.
func (f *Fetcher) takeStock() {
	f.budget.Do(func(now time.Time) {
		if f.closed || !f.useful(now) || now.Sub(f.fleet.stockAt) < takeStockEvery {
			return
		}
		f.fleet.stockAt = now
		f.beginWalk(now)
		f.walk.stock = true
	})
}

// beginWalk begins a walk, unless there is one, which goes on from where it is.
func (f *Fetcher) beginWalk(now time.Time) {
	f.attach()
	if f.walk == nil {
		f.walk = &walk{}
		f.walk.page = page{f: f, walk: f.walk, asked: now}
	}
}

// walkOn sends a request for the next page of the walk, with the slot of claim.
func (f *Fetcher) walkOn(claim *pace.Claim, now time.Time) {
	f.beginWalk(now)
	f.sendPage(&f.walk.page, claim.Pass(), now)
}

// endWalk ends the walk. If it was complete, those who still wait for it are not in the
// list.
func (f *Fetcher) endWalk(complete bool) {
	f.walk = nil
	for w := range f.ahead {
		w.single = w.single || complete
	}
	again := task{do: f.place}
	for _, line := range []*pace.Line{f.unlisted, f.late} {
		for claim := range line.All() {
			w := claim.For.(*Want)
			w.single = w.single || complete
			again.wants = append(again.wants, w)
		}
	}
	f.tasks = append(f.tasks, again)
}

// sendPage sends a request for a page, with the slot of claim.
func (f *Fetcher) sendPage(pg *page, claim *pace.Claim, now time.Time) {
	if pg.walk != nil {
		pg.after = pg.walk.way.After()
	}
	pg.underWay, pg.stalled, pg.asked, pg.seq, pg.by = true, false, now, f.next(), time.Time{}
	f.running[pg] = struct{}{}
	for w := range pg.wants {
		w.claim.Leave()
	}
	guard.Go(f.logger(), func() {
		var p *api.Page
		// Half the time, so that readers who wait can still be served without the list.
		err := f.send("", f.client.Timeout()/2, claim, func(ctx context.Context) (err error) {
			p, err = f.client.Page(ctx, pg.after)
			return err
		})
		ended := func(err error) error {
			return guard.Run(f.logger(), func() error {
				f.budget.Do(func(now time.Time) {
					unsent := claim.GiveBack()
					f.noteUnsent(unsent, err, now)
					delete(f.running, pg)
					pg.underWay = false
					if err != nil {
						f.pageFailed(pg, err, unsent, now)
					} else {
						f.pageCame(pg, p, now)
					}
					pg.forget()
				})
				return nil
			})
		}
		if err := ended(err); err != nil { // those who wait for the page must not wait for ever
			_ = ended(err)
		}
	})
}

// pageFailed has those who wait for a page wait for something else. unsent says that
// everything was held off before the request for it went out.
func (f *Fetcher) pageFailed(pg *page, err error, unsent bool, now time.Time) {
	f.noteOutcome("", err, now)
	switch kind := api.KindOf(err); {
	case kind == api.Throttled && unsent: // says nothing about the list
	case kind == api.Throttled && f.throttled == 0: // requests for one account may go through
		f.throttled++
	case kind == api.NoBudget, kind == api.KeyRefused: // not the list's fault
	case kind == api.Forbidden, kind == api.NotFound, kind == api.Rejected:
		f.useless(now.Add(uselessFor))
	default:
		f.useless(now.Add(failedFor))
	}
	switch {
	case pg.walk == nil:
		pg.placeAgain(now)
	case pg.walk == f.walk && (!f.useful(now) || api.KindOf(err) == api.KeyRefused):
		f.endWalk(false)
	}
}

// useless has the list not be used until then.
func (f *Fetcher) useless(until time.Time) {
	if until.After(f.uselessUntil) {
		f.uselessUntil = until
	}
	f.pageCameAt = time.Time{}
}

func (f *Fetcher) pageCame(pg *page, p *api.Page, now time.Time) {
	f.fleet.learn(p, pg.after)
	f.throttled, f.pageCameAt = 0, now
	f.noteOutcome("", nil, now)
	found, hasCredentials := 0, false
	until := now.Add(f.rememberFor())
	var again []*Want
	for _, a := range p.Accounts {
		hasCredentials = hasCredentials || len(a.Credentials) > 0
		w := f.wants[a.ID]
		switch {
		case w == nil && !f.closed:
			f.fleet.memory.put(a, pg.asked, until, pg.walk != nil)
		case w == nil || w.state != pending:
		case a.Complete() && pg.isNewerThan(w):
			f.serve(w, a, pg.asked, nil)
			found++
		case !a.Complete():
			f.fleet.index.forget(a.ID)
			w.single = true
			again = append(again, w)
		case w.page == pg || pg.walk != nil && w.page == nil: // it must be newer
			again = append(again, w)
		}
	}
	for _, w := range again {
		f.place(w, now)
	}
	if pg.walk != nil {
		f.walkCame(pg.walk, p, found, hasCredentials, now)
		return
	}
	for w := range pg.wants { // it is no longer on that page
		f.fleet.index.forget(w.ID)
		w.single = true
	}
	pg.placeAgain(now)
}

// walkCame decides whether a walk goes on after a page of it came.
func (f *Fetcher) walkCame(walk *walk, p *api.Page, found int, hasCredentials bool, now time.Time) {
	walk.way.Note(p)
	walk.fetched++
	walk.served += found
	if hasCredentials {
		walk.bare = 0
	} else if walk.bare++; walk.bare >= maxBare {
		f.useless(now.Add(uselessFor))
	}
	if walk != f.walk {
		return
	}
	switch {
	case walk.way.Done():
		if walk.way.Whole() {
			f.fleet.stockAt = now
			f.fleet.index.setWhole(true)
		}
		f.fleet.unlisted = demand{}
		if walk.bare > 0 && walk.served == 0 {
			f.useless(now.Add(uselessFor))
		} else if walk.served == 0 && !walk.stock {
			f.useless(now.Add(failedFor))
		}
		f.endWalk(true)
	case p.Total == 0 && found == 0 && !walk.stock: // nobody knows how long it goes on so
		f.useless(now.Add(failedFor))
		f.endWalk(false)
	case !f.useful(now):
		f.endWalk(false)
	}
}
