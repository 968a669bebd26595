package fetch

import (
	"context"
	"errors"
	"slices"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	// The list is not tried again for so long after it came without credentials
	// or was refused, and after it failed.
	listUselessFor = 10 * time.Minute
	listFailedFor  = time.Minute
	// maxBare is how many pages in a row may come without any credentials before
	// the list is of no use. Accounts that come without lie together at times.
	maxBare = 3
	// pagesKnownFor is how long the length of the list is relied upon.
	pagesKnownFor = time.Hour
	// pagePatience is how long a page that is fetched ahead waits for the budget:
	// until it is as good to leave it to the next pass.
	pagePatience = 45 * time.Second
	// takeStockEvery is how often the list is fetched to tell what exists.
	takeStockEvery = 10 * time.Minute
	// anyPage stands for the cursor of a call that waits for the list.
	anyPage = "*"
)

// listState is what is known of the list. Fetcher.mu guards it.
type listState struct {
	underWay     bool
	pageSince    time.Time     // when the latest page was asked for
	ended        chan struct{} // closed when the one under way ends
	ahead        int           // accounts for which somebody waits for it ahead of readers
	bare         int           // pages in a row without any credentials
	stockTaking  bool          // it is fetched to its end, whoever waits
	stockTakenAt time.Time     // or tried
	pages        int           // that it has; 0 if unknown
	pagesUntil   time.Time     // until when pages is relied upon
	uselessUntil time.Time     // until when the list is not tried
}

func (l *listState) knownPages(now time.Time) int {
	if now.After(l.pagesUntil) {
		return 0
	}
	return l.pages
}

func (l *listState) setUseless(until time.Time) {
	if until.After(l.uselessUntil) {
		l.uselessUntil = until
	}
}

// ListTime is how long the list takes to fetch at the least, by the budget.
func (f *Fetcher) ListTime() time.Duration {
	f.mu.Lock()
	pages := f.list.knownPages(time.Now())
	f.mu.Unlock()
	return listTime(f.budget, pages)
}

// rememberFor is how long a page is remembered. The caller holds mu.
func (f *Fetcher) rememberFor(now time.Time) time.Duration {
	return rememberFor + listTime(f.budget, f.list.knownPages(now))
}

// remember keeps what a page brought, as of at, for whoever reads it next. The
// caller holds mu.
func (f *Fetcher) remember(a *api.Account, at time.Time) {
	now := time.Now()
	f.memory.put(a, at, now.Add(f.rememberFor(now)))
}

// Page is the page of the list that an account was last seen on.
func (f *Fetcher) Page(id string) (cursor string, known bool) { return f.index.of(id) }

// PrefetchList fetches the list ahead of readers of so many accounts whose pages
// are not known, if that is cheaper than one by one, and waits for its end. A
// list under way serves too.
func (f *Fetcher) PrefetchList(ctx context.Context, accounts int) {
	f.mu.Lock()
	now := time.Now()
	worthIt := accounts > max(MaxSingles, f.list.knownPages(now)) && now.After(f.list.uselessUntil) && !f.closed
	if worthIt && !f.list.underWay {
		f.startList()
	}
	if worthIt {
		f.list.ahead = max(f.list.ahead, accounts)
	}
	ended := f.list.ended
	f.mu.Unlock()
	if !worthIt {
		return
	}
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// listPays tells whether the list is the cheaper way to what is wanted. The
// caller holds mu.
func (f *Fetcher) listPays(now time.Time) bool {
	if f.list.underWay || !now.After(f.list.uselessUntil) {
		return false
	}
	f.queue = live(f.queue)
	pages := f.list.knownPages(now)
	waiting := len(f.queue)
	return waiting > max(MaxSingles, pages) ||
		waiting > 0 && f.demand.count(now, f.rememberFor(now)) > max(demandFrom, pages)
}

// live returns the calls that wait for their turn, in the same memory.
func live(calls []*call) []*call {
	kept := calls[:0]
	for _, c := range calls {
		if c.state == queued && c.stop == nil {
			kept = append(kept, c)
		}
	}
	clear(calls[len(kept):])
	return kept
}

// takeStock has the list fetched to its end, so that what exists is known.
func (f *Fetcher) takeStock() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.closed || f.list.underWay || f.index.isWhole() || now.Before(f.list.uselessUntil) || now.Sub(f.list.stockTakenAt) < takeStockEvery {
		return
	}
	f.list.stockTakenAt = now
	f.startList()
	f.list.stockTaking = true
}

// startList fetches the list on a goroutine of its own. The caller holds mu.
func (f *Fetcher) startList() {
	f.list.underWay, f.list.pageSince, f.list.ended, f.list.bare = true, time.Now(), make(chan struct{}), 0
	guard.Go(f.logger(), f.fetchList)
}

// fetchList fetches pages for as long as that pays.
func (f *Fetcher) fetchList() {
	var walk api.Walk
	served := 0
	err := guard.Run(f.logger(), func() error {
		for fetched := 1; !walk.Done(); fetched++ {
			after := walk.After()
			p, at, err := f.listPage(after)
			if err != nil {
				return err
			}
			n := f.arrived(p, after, at, fetched == 1)
			served += n
			walk.Note(p)
			if !f.pays(p, fetched, n) {
				return nil
			}
		}
		return nil
	})
	f.listed(&walk, served, err)
}

// listPage fetches one page of the list, and waits for the budget to allow it
// while somebody waits for the page. It tells when the page was asked for.
func (f *Fetcher) listPage(after string) (p *api.Page, at time.Time, err error) {
	for {
		class, waiting := f.urgency()
		time.AfterFunc(lateAfter, f.startLater)
		p, at, err = f.page(f.ctx, after, class)
		if !waiting || api.KindOf(err) != api.NoBudget {
			return p, at, err
		}
		var e *api.Error
		errors.As(err, &e)
		if err := pace.Sleep(f.ctx, min(max(e.Wait, time.Second), 5*time.Second)); err != nil {
			return nil, at, err
		}
	}
}

// urgency is the class of the most urgent call that waits for the next page of
// the list, and whether there is any.
func (f *Fetcher) urgency() (class pace.Class, waiting bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list.pageSince = time.Now()
	class, waiting = pace.Ahead, (f.list.stockTaking || f.list.ahead > 0) && !f.closed
	for _, c := range f.calls {
		if c.state != queued && (c.state != inPage || c.page != anyPage) {
			continue
		}
		switch c.claim.Class() {
		case pace.Known:
			return pace.Known, true
		case pace.Ahead:
			waiting = true
		default: // an unproven account is no reason for a list
		}
	}
	return class, waiting
}

// page fetches a page, and tells when it was asked for. While it is under way,
// whoever wants an account that was on it last time waits for it.
func (f *Fetcher) page(ctx context.Context, after string, class pace.Class) (p *api.Page, at time.Time, err error) {
	at = time.Now()
	f.mu.Lock()
	f.pages[after] = at
	f.mu.Unlock()
	err = guard.Run(f.logger(), func() (err error) {
		if err := f.holdOffs.CheckAll(); err != nil {
			return err
		}
		// Half the time, so that whoever waits can still be served without the list.
		ctx, cancel := context.WithTimeout(f.budget.NewClaim(class, "").With(ctx), f.client.Timeout()/2)
		defer cancel()
		p, err = f.client.Page(ctx, after)
		return err
	})
	if err != nil {
		f.missed(after)
	}
	return p, at, err
}

// missed has those queue who waited for a page that did not come.
func (f *Fetcher) missed(after string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endPage(after)
	f.startNext()
}

// endPage has those ask otherwise who still wait for a page, and returns them.
// The caller holds mu.
func (f *Fetcher) endPage(after string) (left []*call) {
	delete(f.pages, after)
	left = f.waitingFor(after)
	for _, c := range left {
		c.move(queued)
		if c.claim.Class() == pace.Unproven {
			f.ask(c, func() {})
		} else {
			f.enqueue(c)
		}
	}
	return left
}

// waitingFor are the calls that wait for a page, in the order in which they
// came. The caller holds mu.
func (f *Fetcher) waitingFor(page string) (calls []*call) {
	for _, c := range f.calls {
		if c.state == inPage && c.page == page {
			calls = append(calls, c)
		}
	}
	slices.SortFunc(calls, func(a, b *call) int { return a.since.Compare(b.since) })
	return calls
}

// arrived serves those who wait for accounts on a page that was asked for at that
// time, remembers the others, and tells how many were served. From the first page
// of the list on, all who queue wait for the list.
func (f *Fetcher) arrived(p *api.Page, after string, at time.Time, first bool) (served int) {
	f.index.note(p, after)
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.failures, f.succeededAt = 0, now
	if p.Total > 0 {
		f.list.pages, f.list.pagesUntil = (p.Total+api.PageLimit-1)/api.PageLimit, now.Add(pagesKnownFor)
	}
	for _, a := range p.Accounts {
		c := f.calls[a.ID]
		switch {
		case c != nil && c.open() && a.Complete() && at.After(c.newerThan):
			f.finish(c, a, at, nil)
			served++
		case c == nil && !f.closed:
			f.remember(a, at)
		}
	}
	for _, c := range f.endPage(after) {
		f.index.forget(c.id) // it is there no more
	}
	if first && f.list.underWay {
		for _, c := range live(f.queue) {
			c.move(inPage)
			c.page = anyPage
		}
		f.queue = nil
	}
	return served
}

// pays tells whether the pages behind p are fewer than the accounts missing,
// and lets those ask who need not wait for them.
func (f *Fetcher) pays(p *api.Page, fetched, served int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if hasCredentials(p) {
		f.list.bare = 0
	} else if f.list.bare++; f.list.bare >= maxBare {
		f.list.setUseless(now.Add(listUselessFor))
		return f.list.stockTaking
	}
	missing := 0
	for _, c := range f.calls {
		if c.state == queued && c.stop == nil || c.state == inPage && c.page == anyPage {
			missing++
		}
	}
	f.startNext()
	switch {
	case f.closed && missing == 0:
		return false // nobody has any use for it
	case f.list.stockTaking:
		return true
	case p.Total == 0:
		return served > 0 && missing > 0
	default:
		return max(missing, f.list.ahead, f.demand.count(now, f.rememberFor(now))) > max(0, f.list.pages-fetched)
	}
}

func hasCredentials(p *api.Page) bool {
	for _, a := range p.Accounts {
		if len(a.Credentials) > 0 {
			return true
		}
	}
	return false
}

// listed lets those ask one by one who still wait when the list has ended,
// having served so many.
func (f *Fetcher) listed(walk *api.Walk, served int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	complete := err == nil && walk.Done()
	if complete {
		f.demand.reset()
		if walk.Whole() {
			f.index.setWhole()
		}
		if f.list.bare > 0 && served == 0 {
			f.list.setUseless(now.Add(listUselessFor))
		} else if served == 0 && !f.list.stockTaking {
			f.list.setUseless(now.Add(listFailedFor))
		}
	}
	switch kind := api.KindOf(err); {
	case err == nil:
	case kind == api.Forbidden || kind == api.NotFound || kind == api.Rejected:
		f.list.setUseless(now.Add(listUselessFor))
	default:
		f.list.setUseless(now.Add(listFailedFor))
	}
	f.list.underWay, f.list.stockTaking, f.list.ahead = false, false, 0
	close(f.list.ended)
	missing := f.waitingFor(anyPage)
	for _, c := range missing {
		c.move(queued)
	}
	if complete {
		f.lacking = append(f.lacking, missing...)
	} else {
		f.queue = append(missing, f.queue...)
	}
	f.startNext()
}

// Prefetch fetches a page ahead of readers, as soon as the budget allows it.
func (f *Fetcher) Prefetch(ctx context.Context, after string) error {
	for until := time.Now().Add(pagePatience); ; {
		p, at, err := f.page(ctx, after, pace.Ahead)
		if err == nil {
			f.arrived(p, after, at, false)
			f.mu.Lock()
			f.startNext()
			f.mu.Unlock()
			return nil
		}
		var e *api.Error
		if !errors.As(err, &e) || e.Kind != api.NoBudget || time.Now().Add(e.Wait).After(until) {
			return err
		}
		if err := pace.Sleep(ctx, max(e.Wait, time.Second)); err != nil {
			return err
		}
	}
}
