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
	// listUselessFor is how long the list is not tried again after it was refused or
	// came without credentials, and listFailedFor after it failed.
	listUselessFor = 10 * time.Minute
	listFailedFor  = time.Minute
	// maxBare is how many pages in a row may come without any credentials before the
	// list counts as useless. Accounts without credentials are often next to each
	// other.
	maxBare = 3
	// pagesKnownFor is how long the known length of the list is used.
	pagesKnownFor = time.Hour
	// pagePatience is how long a page that is fetched ahead waits for the budget.
	// After that, the next pass may as well fetch it.
	pagePatience = 45 * time.Second
	// takeStockEvery is how often the list is fetched to learn what exists.
	takeStockEvery = 10 * time.Minute
	// anyPage stands for the cursor of a call that waits for the list.
	anyPage = "*"
)

// listState is what is known about the list. Fetcher.mu guards it.
type listState struct {
	underWay     bool
	pageSince    time.Time     // when the latest page was asked for
	ended        chan struct{} // closed when the fetch under way ends
	ahead        int           // how many accounts the pass wants from the list
	bare         int           // pages in a row without any credentials
	stockTaking  bool          // whether it is fetched to its end even if nobody waits
	stockTakenAt time.Time     // when that was last tried
	pages        int           // how many pages it has; 0 if unknown
	pagesUntil   time.Time     // until when pages is used
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

// ListTime returns how long the budget makes a fetch of the list take, at least.
func (f *Fetcher) ListTime() time.Duration {
	f.mu.Lock()
	pages := f.list.knownPages(time.Now())
	f.mu.Unlock()
	return listTime(f.budget, pages)
}

// rememberFor returns how long a page is remembered. The caller holds mu.
func (f *Fetcher) rememberFor(now time.Time) time.Duration {
	return rememberFor + listTime(f.budget, f.list.knownPages(now))
}

// remember keeps an account, as of at, for its next reader. The caller holds mu.
func (f *Fetcher) remember(a *api.Account, at time.Time) {
	now := time.Now()
	f.memory.put(a, at, now.Add(f.rememberFor(now)))
}

// Page returns the cursor of the page of the list that an account was last seen on.
func (f *Fetcher) Page(id string) (cursor string, known bool) { return f.index.of(id) }

// PrefetchList fetches the list ahead of readers, for that many accounts whose
// pages are not known, and waits for it to end. It does nothing if it is cheaper to
// ask for them one by one. It joins a list that is under way.
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

// listPays reports whether the list is the cheaper way to the wanted accounts. The
// caller holds mu.
func (f *Fetcher) listPays(now time.Time) bool {
	if f.list.underWay || !now.After(f.list.uselessUntil) {
		return false
	}
	pages := f.list.knownPages(now)
	waiting := f.queue.Len()
	return waiting > max(MaxSingles, pages) ||
		waiting > 0 && f.demand.count(now, f.rememberFor(now)) > max(demandFrom, pages)
}

// takeStock starts a fetch of the whole list, to learn which accounts exist.
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

// fetchList fetches pages while that pays.
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

// listPage fetches one page of the list. As long as somebody waits for the page, it
// waits for the budget. It returns when the page was asked for.
func (f *Fetcher) listPage(after string) (p *api.Page, at time.Time, err error) {
	for {
		claim, waiting := f.claimOnPage()
		time.AfterFunc(lateAfter, f.startLater)
		p, at, err = f.page(f.ctx, after, claim)
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

// claimOnPage returns a claim for the next page of the list. It is as urgent as the
// most urgent call that waits for the page, and takes the turns of the callers who
// wait. claimOnPage also reports whether anybody does.
func (f *Fetcher) claimOnPage() (claim *pace.Claim, waiting bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list.pageSince = time.Now()
	claim, waiting = f.budget.NewClaim(pace.Ahead, ""), (f.list.stockTaking || f.list.ahead > 0) && !f.closed
	for _, c := range f.calls {
		if c.state != queued && (c.state != inPage || c.page != anyPage) {
			continue
		}
		if c.claim.LendTo(claim) != pace.Unproven { // which is no reason to fetch the list
			waiting = true
		}
	}
	return claim, waiting
}

// page fetches a page and returns when it was asked for. While it is under way,
// readers of accounts that were on it last time wait for it.
func (f *Fetcher) page(ctx context.Context, after string, claim *pace.Claim) (p *api.Page, at time.Time, err error) {
	at = time.Now()
	f.mu.Lock()
	f.pages[after] = at
	f.mu.Unlock()
	err = guard.Run(f.logger(), func() (err error) {
		if err := f.holdOffs.CheckAll(); err != nil {
			return err
		}
		// Half the time, so that readers who wait can still be served without the list.
		ctx, cancel := context.WithTimeout(claim.With(ctx), f.client.Timeout()/2)
		defer cancel()
		p, err = f.client.Page(ctx, after)
		return err
	})
	if err != nil {
		f.missed(after)
	}
	return p, at, err
}

// missed queues the calls that waited for a page that did not come.
func (f *Fetcher) missed(after string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endPage(after)
	f.startNext()
}

// endPage ends a page. It queues the calls that still wait for it, and returns them.
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

// waitingFor returns the calls that wait for a page, in the order in which they
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

// arrived takes a page that was asked for at at. It serves the calls for accounts on
// it, remembers the other accounts, and returns how many calls it served. With the
// first page of the list, all queued calls start to wait for the list.
func (f *Fetcher) arrived(p *api.Page, after string, at time.Time, first bool) (served int) {
	f.index.note(p, after)
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.answeredAt = now
	clear(f.failing)
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
		f.index.forget(c.id) // it is no longer on that page
	}
	if first && f.list.underWay {
		for _, c := range f.queue.RemoveAll() {
			c.move(inPage)
			c.page = anyPage
		}
	}
	return served
}

// pays reports whether fewer pages than missing accounts come after p. It also
// starts requests for accounts that need not wait for those pages.
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
		return false // nobody needs it
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

// listed ends a fetch of the list that served that many calls. The calls that still
// wait for it are asked for one by one.
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
		f.addTo(f.lacking, missing)
	} else { // they came before those who queue
		f.addTo(f.queue, append(missing, f.queue.RemoveAll()...))
	}
	f.startNext()
}

// addTo has calls wait in a line. The caller holds mu.
func (f *Fetcher) addTo(line *pace.Line[*call], calls []*call) {
	for _, c := range calls {
		line.Add(c.claim, c)
	}
}

// Prefetch fetches a page ahead of readers, as soon as the budget allows it. If
// that would be too late, it returns the error of the budget.
func (f *Fetcher) Prefetch(ctx context.Context, after string) error {
	for until := time.Now().Add(pagePatience); ; {
		p, at, err := f.page(ctx, after, f.budget.NewClaim(pace.Ahead, ""))
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
