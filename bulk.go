package pipedream

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// maxSingles is how many accounts are asked for one by one at a time.
	// Whoever comes when that many are under way queues, and the queue shows
	// whether the list is cheaper. A request that takes longer than slowAfter
	// no longer counts: it must not hold up the others.
	maxSingles = 8
	slowAfter  = 2 * time.Second
	// maxLateSingles is the same while the list is being fetched, for accounts
	// that an earlier list lacked, and for those wanted since its first page:
	// if they are no more than maxSingles, and their page did not come within
	// lateAfter. More of them are better off with the next list.
	maxLateSingles = 2
	lateAfter      = 3 * time.Second
	// The list is not tried again for so long after it came without
	// credentials or was refused, and after it failed.
	listUselessFor = 10 * time.Minute
	listFailedFor  = time.Minute
	// pagesKnownFor is how long the length of the list is relied upon.
	pagesKnownFor = time.Hour
	// maxFailures is how many single requests in a row may fail before those in
	// the queue are told the same, instead of finding it out one by one.
	maxFailures = 3
	// abandonedFor is how long an account is looked for after its readers gave up.
	abandonedFor = time.Minute
	// busyRetry is when to come again who was not served in time.
	busyRetry = 5 * time.Second
	// maxDeliveries is how many accounts of a page are handed over at a time.
	maxDeliveries = 16
)

// bulk fetches accounts with their credentials at the least cost in requests.
// This is its rule:
//
// A single request brings one account, a page of the list up to 100. Accounts
// are asked for one by one, at once, as long as no more than maxSingles are
// wanted at a time. Those wanted beyond that queue, and once the queue is
// longer than the list has pages, the list is fetched for them; how many pages
// there are, the first one tells. It is fetched for as long as more of them are
// missing than there are pages left. Of a page only accounts that somebody
// wants are kept. What the list lacks, an account or its credentials, is asked
// for one by one after all.
//
// What is fetched ahead of readers, and was on a known page when it was last
// fetched, is fetched by that page where it is the cheaper way; see pageIndex.
type bulk struct {
	ctx    context.Context // ends with the mount
	client *client
	index  pageIndex

	mu sync.Mutex // guards the fields below; never held across I/O
	// wanted are the accounts that somebody waits for, by id. Each is in one of
	// queue (nothing was done yet), batch (looked for in the list) and alone (to
	// be asked for by itself), or asked for, or done and about to be dropped.
	wanted map[string]*want
	queue  []*want
	batch  []*want
	alone  []*want

	singles      int // single requests under way for less than slowAfter
	failures     int // single requests in a row that found Pipedream unavailable
	succeededAt  time.Time
	listing      bool
	closed       bool      // what nobody waits for is no longer fetched
	pages        int       // of the whole list, 0 if unknown
	pagesUntil   time.Time // until when pages is relied upon
	uselessUntil time.Time // until when the list is not tried
}

// want is an account that somebody waits for. bulk.mu guards it.
type want struct {
	id    string
	ctx   context.Context // of the most urgent of those who wait
	since time.Time
	asked time.Time // since when a single request is under way; zero for none
	done  bool      // its outcome is known, or nobody wants it any more
	// abandoned is since when nobody has waited; zero while somebody does. The
	// list is still looked through for it for a while.
	abandoned time.Time
	deliver   []func(*account, error)
}

func newBulk(ctx context.Context, c *client) *bulk {
	return &bulk{ctx: ctx, client: c, index: newPageIndex(), wanted: map[string]*want{}}
}

// account fetches one account with its credentials. What comes too late for
// ctx goes to tooLate: who gave up is likely to come again.
func (b *bulk) account(ctx context.Context, id string, tooLate func(*account)) (*account, error) {
	type outcome struct {
		a   *account
		err error
	}
	outcomes := make(chan outcome, 1)
	var left atomic.Bool
	w := b.want(ctx, id, func(a *account, err error) {
		outcomes <- outcome{a, err}
		if err == nil && left.Load() {
			tooLate(a)
		}
	})
	select {
	case o := <-outcomes:
		return o.a, o.err
	case <-ctx.Done():
		left.Store(true)
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, ctx.Err()
	}
	return nil, b.overdue(w)
}

// overdue is the error for an account that did not come in time: for want of
// budget, because many others came first, or because Pipedream does not answer.
func (b *bulk) overdue(w *want) error {
	asked, progress := b.abandon(w)
	timeout := b.client.config.RequestTimeout
	free := b.client.budget.nextFree()
	switch now := time.Now(); {
	case !asked.IsZero() && now.Sub(asked) >= timeout/2, free == 0 && now.Sub(progress) >= timeout:
		return b.client.connectionError(b.ctx, w.id, context.DeadlineExceeded)
	case free > 0:
		return &apiError{kind: failNoBudget, account: w.id, retryAfter: free}
	default:
		return &apiError{kind: failBusy, account: w.id, retryAfter: busyRetry}
	}
}

// want has deliver called with the account or with why it could not be
// fetched, on another goroutine, unless the want is abandoned.
func (b *bulk) want(ctx context.Context, id string, deliver func(*account, error)) *want {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.add(ctx, id, deliver)
	b.pump()
	return w
}

// wantAll is want for many accounts at once, of which none need be asked for
// before all are known.
func (b *bulk) wantAll(ctx context.Context, deliver map[string]func(*account, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, f := range deliver {
		b.add(ctx, id, f)
	}
	b.pump()
}

// close ends what is fetched ahead of readers. Those who wait still get what
// they asked for.
func (b *bulk) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, wants := range [][]*want{b.queue, b.batch, b.alone} {
		for _, w := range wants {
			if w.asked.IsZero() && reserveOf(w.ctx) > 0 {
				b.finish(w)
			}
		}
	}
}

// add puts an account into the queue, or joins those who wait for it. The
// caller holds mu.
func (b *bulk) add(ctx context.Context, id string, deliver func(*account, error)) *want {
	if w := b.wanted[id]; w != nil {
		w.deliver = append(w.deliver, deliver)
		if w.asked.IsZero() && (!w.abandoned.IsZero() || reserveOf(ctx) < reserveOf(w.ctx)) {
			w.ctx = ctx
		}
		w.abandoned = time.Time{}
		return w
	}
	w := &want{id: id, ctx: ctx, since: time.Now(), deliver: []func(*account, error){deliver}}
	b.wanted[id] = w
	b.queue = append(b.queue, w)
	if b.listing {
		time.AfterFunc(lateAfter, b.pumpLater)
	}
	return w
}

// abandon notes that nobody waits for an account just now. It tells since when
// it is being asked for, and when any account last came.
func (b *bulk) abandon(w *want) (asked, succeededAt time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w.abandoned = time.Now()
	return w.asked, b.succeededAt
}

// finish takes w out of what is wanted. The caller holds mu.
func (b *bulk) finish(w *want) {
	w.done = true
	if b.wanted[w.id] == w {
		delete(b.wanted, w.id)
	}
}

// pump starts what can be started now. The caller holds mu.
func (b *bulk) pump() {
	if len(b.queue) > maxSingles && !b.listing {
		b.queue = b.live(b.queue)
		if now := time.Now(); now.After(b.uselessUntil) && len(b.queue) > max(maxSingles, b.knownPages(now)) {
			b.listing = true
			go b.list()
		}
	}
	for w := b.next(); w != nil; w = b.next() {
		w.asked = time.Now()
		b.singles++
		go b.single(w)
	}
}

func (b *bulk) knownPages(now time.Time) int {
	if now.After(b.pagesUntil) {
		return 0
	}
	return b.pages
}

// listTime is how long the list takes to fetch at the least, by the budget.
func (b *bulk) listTime() time.Duration {
	b.mu.Lock()
	pages := b.knownPages(time.Now())
	b.mu.Unlock()
	limit := b.client.config.RateLimit
	if limit == 0 {
		return 0
	}
	return time.Duration(pages) * budgetWindow / time.Duration(max(1, limit-reserved(b.client.config, refreshReserve)))
}

// live returns the wants that are not done, in the same memory, and drops
// those that were abandoned for long. The caller holds mu.
func (b *bulk) live(wants []*want) []*want {
	kept := wants[:0]
	now := time.Now()
	for _, w := range wants {
		if !w.abandoned.IsZero() && now.Sub(w.abandoned) > abandonedFor {
			b.finish(w)
		}
		if !w.done {
			kept = append(kept, w)
		}
	}
	clear(wants[len(kept):])
	return kept
}

// next is the account to ask for by itself now, nil if there is none. The
// caller holds mu.
func (b *bulk) next() *want {
	limit := maxSingles
	if b.listing {
		limit = maxLateSingles
	}
	for b.singles < limit {
		from := &b.alone
		if len(*from) == 0 {
			from = &b.queue
		}
		if len(*from) == 0 {
			return nil
		}
		w := (*from)[0]
		if from == &b.queue && b.listing && !w.done && (len(b.queue) > maxSingles || time.Since(w.since) < lateAfter) {
			return nil
		}
		*from = (*from)[1:]
		if !w.done && w.abandoned.IsZero() && (!b.closed || reserveOf(w.ctx) == 0) {
			return w
		}
		b.finish(w)
	}
	return nil
}

// pumpLater is pump for a timer.
func (b *bulk) pumpLater() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pump()
}

// single asks for one account.
func (b *bulk) single(w *want) {
	ctx, cancel := context.WithTimeout(w.ctx, b.client.config.RequestTimeout)
	defer cancel()
	slow := time.AfterFunc(slowAfter, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.singles--
		b.pump()
	})
	var a *account
	err := guard(b.client.logger(), func() (err error) {
		// It may have been held off since this one queued.
		if err := b.client.holdoffs.checkMount(); err != nil {
			return err
		}
		a, err = b.client.getAccount(ctx, w.id, true)
		return err
	})
	b.mu.Lock()
	b.finish(w)
	if slow.Stop() {
		b.singles--
	}
	// One that was asked for late, because it queued for long, ends with its
	// readers: that says nothing of Pipedream.
	if isUnavailable(err) && w.ctx.Err() != nil && time.Since(w.asked) < b.client.config.RequestTimeout/2 {
		err = &apiError{kind: failBusy, account: w.id, retryAfter: busyRetry}
	}
	b.note(err)
	b.pump()
	b.mu.Unlock()
	b.settle(w, a, err)
}

// note counts how single requests end. Where they keep finding Pipedream
// unavailable, those in the queue are told so. The caller holds mu.
func (b *bulk) note(err error) {
	switch {
	case err == nil:
		b.failures, b.succeededAt = 0, time.Now()
	case isUnavailable(err):
		b.failures++
	}
	if b.failures < maxFailures {
		return
	}
	for _, w := range append(b.live(b.queue), b.live(b.alone)...) {
		b.finish(w)
		go b.settle(w, nil, withAccount(err, w.id))
	}
	b.queue, b.alone = nil, nil
}

// settle tells those who wait. Nobody joins them any more.
func (b *bulk) settle(w *want, a *account, err error) {
	for _, deliver := range w.deliver {
		_ = guard(b.client.logger(), func() error {
			deliver(a, err)
			return nil
		})
	}
}

// list fetches pages for as long as that pays.
func (b *bulk) list() {
	var err error
	after, complete, handed := "", false, 0
	for fetched := 1; fetched <= maxPages; fetched++ {
		var p *page
		err = guard(b.client.logger(), func() (err error) {
			p, err = b.page(after)
			return err
		})
		if err != nil {
			break
		}
		if fetched == 1 {
			b.begin()
		}
		b.index.note(p, after)
		n := b.hand(p)
		handed += n
		after, complete = p.next, p.next == ""
		if !b.pays(p, fetched, n) || complete {
			break
		}
	}
	b.listed(complete, handed, err)
}

// begin makes all who queue when the first page has come look for their
// accounts in the list.
func (b *bulk) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.batch, b.queue = b.queue, nil
}

// page fetches one page, and waits for the budget to allow it while somebody
// waits for the page.
func (b *bulk) page(after string) (*page, error) {
	for {
		if err := b.client.holdoffs.checkMount(); err != nil {
			return nil, err
		}
		reserve, waiting := b.urgency()
		// Half the time, so that whoever waits can still be served without the list.
		ctx, cancel := context.WithTimeout(withReserve(b.ctx, reserve), b.client.config.RequestTimeout/2)
		p, err := b.client.listPage(ctx, listFilter{withCredentials: true}, after)
		cancel()
		var api *apiError
		if !waiting || !errors.As(err, &api) || api.kind != failNoBudget {
			return p, err
		}
		if err := sleep(b.ctx, min(max(api.retryAfter, time.Second), 5*time.Second)); err != nil {
			return nil, err
		}
	}
}

// urgency is the reserve that the most urgent of those who wait for the list
// leaves alone, and whether anybody does.
func (b *bulk) urgency() (reserve int, waiting bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.batch, b.queue = b.live(b.batch), b.live(b.queue)
	for _, wants := range [][]*want{b.batch, b.queue} {
		for _, w := range wants {
			if r := reserveOf(w.ctx); !waiting || r < reserve {
				reserve, waiting = r, true
			}
		}
	}
	return reserve, waiting
}

// hand delivers what of a page somebody wants, drops the rest, and tells how
// much was wanted.
func (b *bulk) hand(p *page) int {
	var group errgroup.Group
	group.SetLimit(maxDeliveries)
	handed := 0
	for _, a := range p.accounts {
		if w := b.take(a); w != nil {
			handed++
			group.Go(func() error {
				b.settle(w, a, nil)
				return nil
			})
		}
	}
	_ = group.Wait() // no delivery fails
	return handed
}

// take ends the wait for an account that a page brought; nil if nobody waits
// for it, or it came without credentials.
func (b *bulk) take(a *account) *want {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := b.wanted[a.ID]
	if w == nil || !w.asked.IsZero() || !a.complete() {
		return nil
	}
	b.finish(w)
	return w
}

// pays tells whether the pages behind p are fewer than the accounts missing,
// and lets those ask who need not wait for them.
func (b *bulk) pays(p *page, fetched, handed int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if !hasCredentials(p) {
		b.uselessUntil = now.Add(listUselessFor)
		return false
	}
	b.failures, b.succeededAt = 0, now
	b.batch, b.queue = b.live(b.batch), b.live(b.queue)
	missing := len(b.batch) + len(b.queue)
	b.pump()
	if p.total == 0 {
		return handed > 0 && missing > 0
	}
	b.pages, b.pagesUntil = (p.total+pageLimit-1)/pageLimit, now.Add(pagesKnownFor)
	return missing > max(0, b.pages-fetched)
}

func hasCredentials(p *page) bool {
	for _, a := range p.accounts {
		if len(a.Credentials) > 0 {
			return true
		}
	}
	return false
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// listed settles who still waits when the list has ended, having brought so
// many of the accounts that were wanted.
func (b *bulk) listed(complete bool, handed int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	missing := b.live(b.batch)
	b.batch, b.listing = nil, false
	if err != nil {
		missing, b.queue = append(missing, b.live(b.queue)...), nil
	}
	var api *apiError
	switch {
	case err == nil && complete:
		if handed == 0 {
			b.uselessUntil = later(b.uselessUntil, time.Now().Add(listFailedFor))
		}
		b.alone = append(b.alone, missing...)
	case err == nil:
		b.queue = append(missing, b.queue...)
	case errors.As(err, &api) && (api.kind == failForbidden || api.kind == failUnknownAccount):
		b.uselessUntil = time.Now().Add(listUselessFor)
		b.queue = missing
	default:
		b.uselessUntil = time.Now().Add(listFailedFor)
		b.queue = missing
	}
	b.pump()
}
