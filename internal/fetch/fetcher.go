// Package fetch gets accounts with their credentials from Pipedream at the
// least number of requests.
//
// A request for one account brings that one, a page of the list up to a
// hundred. Accounts are asked for one by one, at once, as long as no more than
// a few are wanted at a time. Further ones queue. When the queue, or what was
// wanted in the last minute, is more than the list has pages, the list is
// fetched instead; its first page tells how many there are. It is fetched for
// as long as more is wanted than there are pages left. Whole pages are
// remembered for about a minute, so that who reads an account a moment after
// its page came needs no request. What the list lacks, an account or its
// credentials, is asked for one by one after all.
package fetch

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	// MaxSingles is how many accounts are asked for one by one at a time. Whoever
	// comes when that many are under way queues, and the queue shows whether the
	// list is cheaper. A request that takes longer than slowAfter no longer
	// counts: it must not hold up the others.
	MaxSingles = 8
	slowAfter  = 2 * time.Second
	// maxLateSingles is the same while the list is being fetched, for accounts
	// that an earlier list lacked, and for those that have waited for lateAfter,
	// if they are no more than MaxSingles. More are better off with the next list,
	// unless that takes longer than lateAfter for a page.
	maxLateSingles = 2
	lateAfter      = 3 * time.Second
	// maxFailures is how many requests in a row may find Pipedream unavailable
	// before those in the queue are told so, instead of finding it out one by one.
	maxFailures = 3
	// demandFrom is how many accounts have to be wanted in a minute at the least
	// before the list is fetched for what does not queue at one time.
	demandFrom = MaxSingles + MaxSingles/2
	// busyRetry is when to come again who was not served in time.
	busyRetry = 5 * time.Second
	// rememberFor is how long a page is remembered, beside the time that it takes
	// to fetch the list.
	rememberFor = time.Minute
)

// Fetcher gets accounts over one connection. All its errors are of type
// [*api.Error], or the context's own.
type Fetcher struct {
	ctx      context.Context // ends with the mount
	client   *api.Client
	budget   *pace.Budget
	holdOffs *pace.HoldOffs
	logger   func() hclog.Logger

	memory *pageMemory
	index  *index

	mu      sync.Mutex // guards the fields below and all calls; never held across I/O
	calls   map[string]*call
	queue   []*call // first come, first served; some may no longer be queued
	lacking []*call // the same, of what the list lacked: these go first
	demand  demand
	pages   map[string]time.Time // under way, by cursor: since when
	closed  bool                 // what nobody waits for is no longer fetched

	singles     int // requests for one account, under way for less than slowAfter
	failures    int // in a row that found Pipedream unavailable
	succeededAt time.Time
	list        listState
}

// New returns a fetcher that asks through client. It knows what its predecessor
// knew of the list, which must have been of the same accounts; nil for none. What
// it does on nobody's behalf ends with ctx.
func New(ctx context.Context, client *api.Client, budget *pace.Budget, holdOffs *pace.HoldOffs, predecessor *Fetcher, logger func() hclog.Logger) *Fetcher {
	f := &Fetcher{
		ctx: ctx, client: client, budget: budget, holdOffs: holdOffs, logger: logger,
		memory: newPageMemory(), index: newIndex(), calls: map[string]*call{}, pages: map[string]time.Time{},
	}
	if predecessor != nil {
		f.index = predecessor.index
		predecessor.mu.Lock()
		defer predecessor.mu.Unlock()
		f.list.pages, f.list.pagesUntil = predecessor.list.pages, predecessor.list.pagesUntil
	}
	return f
}

// Close ends what is fetched ahead of readers, and forgets the pages. Those who
// wait still get what they asked for.
func (f *Fetcher) Close() {
	f.memory.close()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, c := range f.calls {
		if c.open() && c.claim.Class() == pace.Ahead {
			f.finish(c, nil, time.Time{}, context.Canceled)
		}
	}
}

// Class is how urgent a reader's request for something is: an account, or what
// else goes by that name among the hold-offs. known tells whether it was seen
// to exist. The first misses have the list tell what does.
func (f *Fetcher) Class(name string, known bool) pace.Class {
	if _, listed := f.index.of(name); listed {
		known = true
	}
	switch {
	case f.holdOffs.Doubtful(name):
		return pace.Unproven
	case known:
		return pace.Known
	case f.holdOffs.Guessing():
		if api.ValidAccountID(name) {
			f.takeStock()
		}
		return pace.Unproven
	case f.index.isWhole() && api.ValidAccountID(name):
		return pace.Unproven
	default:
		return pace.Known
	}
}

// Account fetches one account with its credentials, paid for by claim, and tells
// as of when it is. Of a page it is taken only if that was asked for after
// newerThan: one that is under way, or came a moment ago. What comes too late for
// ctx is remembered like a page: who gave up is likely to come again.
func (f *Fetcher) Account(ctx context.Context, id string, claim *pace.Claim, newerThan time.Time) (*api.Account, time.Time, error) {
	c := f.join(id, claim, newerThan)
	select {
	case <-c.finished:
		return c.account, c.at, c.err
	case <-ctx.Done():
	}
	late := f.Overdue(id)
	f.leave(c)
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, time.Time{}, ctx.Err()
	}
	return nil, time.Time{}, late
}

// join waits for an account with those who do so already, or as the first.
func (f *Fetcher) join(id string, claim *pace.Claim, newerThan time.Time) *call {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if c := f.calls[id]; c != nil {
		c.waiting++
		claim.JoinTo(c.claim)
		if newerThan.After(c.newerThan) {
			c.newerThan = newerThan
		}
		return c
	}
	c := &call{id: id, claim: claim, since: now, newerThan: newerThan, waiting: 1, finished: make(chan struct{})}
	f.calls[id] = c
	if b, ok := f.memory.take(id, newerThan); ok {
		f.finish(c, b.account, b.at, nil)
		return c
	}
	class := claim.Class()
	if f.closed && class == pace.Ahead {
		f.finish(c, nil, time.Time{}, context.Canceled)
		return c
	}
	if after, known := f.index.of(id); known {
		if since, underWay := f.pages[after]; underWay && since.After(newerThan) {
			c.move(inPage)
			c.page = after
			return c
		}
	}
	if class == pace.Unproven {
		f.ask(c, func() {}) // waits for its turn there, and takes none of the few places here
		return c
	}
	if class != pace.Ahead { // the passes know better what they will want
		f.demand.note(id, now)
	}
	f.enqueue(c)
	f.startNext()
	return c
}

// enqueue puts a queued call at the end of the queue. The caller holds mu.
func (f *Fetcher) enqueue(c *call) {
	f.queue = append(f.queue, c)
	if f.list.underWay {
		time.AfterFunc(lateAfter, f.startLater)
	}
}

// leave stops waiting. What nothing was sent for is dropped then.
func (f *Fetcher) leave(c *call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.waiting--; c.waiting > 0 {
		return
	}
	if c.state == done && c.err == nil { // at the same moment
		f.remember(c.account, c.at)
	}
	if !c.open() {
		return
	}
	c.move(abandoned)
	f.drop(c)
}

// drop takes a call out of what is wanted. The caller holds mu.
func (f *Fetcher) drop(c *call) {
	delete(f.calls, c.id)
	if c.stop != nil {
		c.stop()
	}
}

// finish tells those who wait. The caller holds mu.
func (f *Fetcher) finish(c *call, a *api.Account, at time.Time, err error) {
	c.move(done)
	f.drop(c)
	c.account, c.at, c.err = a, at, err
	close(c.finished)
}

// Overdue is the error for an account that did not come in time: for want of
// budget, because many others came first, or because Pipedream does not answer.
func (f *Fetcher) Overdue(id string) error {
	asked, progress, unproven := f.progress(id)
	timeout, free := f.client.Timeout(), f.budget.NextFree()
	switch now := time.Now(); {
	case !asked.IsZero() && now.Sub(asked) >= timeout/2, !unproven && free == 0 && now.Sub(progress) >= timeout:
		return f.client.NoAnswer(id)
	case unproven || free > 0:
		return &api.Error{Kind: api.NoBudget, Account: id, Wait: max(free, busyRetry)}
	default:
		return &api.Error{Kind: api.Busy, Account: id, Wait: busyRetry}
	}
}

// progress is since when an account is being asked for, when any last came, and
// whether this one has to wait for others.
func (f *Fetcher) progress(id string) (asked, succeededAt time.Time, unproven bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.calls[id]; c != nil {
		asked, unproven = c.asked, c.claim.Class() == pace.Unproven
	}
	return asked, f.succeededAt, unproven
}

// startNext starts what can be started now. The caller holds mu.
func (f *Fetcher) startNext() {
	if f.listPays(time.Now()) {
		f.startList()
	}
	for c := f.next(); c != nil; c = f.next() {
		f.askCounted(c)
	}
}

// startLater is startNext for a timer.
func (f *Fetcher) startLater() {
	_ = guard.Run(f.logger(), func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.startNext()
		return nil
	})
}

// next is the call to ask for by itself now, nil if there is none. The caller
// holds mu.
func (f *Fetcher) next() *call {
	limit, waitForList := MaxSingles, f.list.underWay && time.Since(f.list.pageSince) < lateAfter
	if waitForList {
		limit = maxLateSingles
	}
	for f.singles < limit {
		from := &f.lacking
		if len(*from) == 0 {
			from = &f.queue
		}
		if len(*from) == 0 {
			return nil
		}
		c := (*from)[0]
		if waitForList && from == &f.queue && c.state == queued && (len(f.queue) > MaxSingles || time.Since(c.since) < lateAfter) {
			return nil
		}
		*from = (*from)[1:]
		if c.state == queued && c.stop == nil {
			return c
		}
	}
	return nil
}

// askCounted asks for an account in one of the few places that there are. The
// caller holds mu.
func (f *Fetcher) askCounted(c *call) {
	f.singles++
	var once sync.Once
	leavePlace := func() { once.Do(func() { f.singles-- }) } // under mu
	slow := time.AfterFunc(slowAfter, func() {
		_ = guard.Run(f.logger(), func() error {
			f.mu.Lock()
			defer f.mu.Unlock()
			leavePlace()
			f.startNext()
			return nil
		})
	})
	f.ask(c, func() {
		slow.Stop()
		leavePlace()
	})
}

// ask asks for one account, on a goroutine of its own. ended is called with mu
// held. The caller holds mu.
func (f *Fetcher) ask(c *call, ended func()) {
	ctx, cancel := context.WithTimeout(f.ctx, f.client.Timeout())
	c.stop = cancel
	guard.Go(f.logger(), func() {
		var a *api.Account
		err := guard.Run(f.logger(), func() (err error) {
			a, err = f.single(ctx, c)
			return err
		})
		cancel()
		f.mu.Lock()
		defer f.mu.Unlock()
		ended()
		f.note(err)
		f.conclude(c, a, err)
		f.startNext()
	})
}

// errOvertaken is why a request for an account was not sent: a page brought it
// first, or nobody waits for it any more.
var errOvertaken = errors.New("overtaken")

// single waits for the budget, and asks for one account. Whoever joins the wait
// can make it more urgent.
func (f *Fetcher) single(ctx context.Context, c *call) (*api.Account, error) {
	// It may have been held off since this one queued.
	if err := f.holdOffs.CheckAll(); err != nil {
		return nil, api.WithAccount(err, c.id)
	}
	for {
		class := c.claim.Class()
		err := c.claim.Reserve(ctx)
		if err == nil {
			break
		}
		var refused *pace.NoBudgetError
		if errors.As(err, &refused) && c.claim.Class() == class {
			return nil, &api.Error{Kind: api.NoBudget, Account: c.id, Wait: refused.Wait}
		}
		if !errors.As(err, &refused) {
			return nil, err
		}
	}
	defer c.claim.Refund()
	if !f.begin(c) {
		return nil, errOvertaken
	}
	// A time of its own: how long it queued says nothing of Pipedream.
	ctx, cancel := context.WithTimeout(f.ctx, f.client.Timeout())
	defer cancel()
	if err := f.holdOffs.CheckAll(); err != nil {
		return nil, api.WithAccount(err, c.id)
	}
	return f.client.Account(c.claim.With(ctx), c.id)
}

// begin notes that the request for a call goes out, unless that is of no more use.
func (f *Fetcher) begin(c *call) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.state != queued {
		return false
	}
	c.move(alone)
	c.asked = time.Now()
	return true
}

// conclude ends a call whose request has ended. The caller holds mu.
func (f *Fetcher) conclude(c *call, a *api.Account, err error) {
	if c.state != queued && c.state != alone {
		return // a page, or an outage, was faster, or nobody waits any more
	}
	if err == nil && c.waiting == 0 {
		f.remember(a, c.asked)
	}
	if api.KindOf(err) == api.NotFound {
		f.index.forget(c.id)
	}
	if errors.Is(err, context.DeadlineExceeded) { // while it waited for the budget
		err = &api.Error{Kind: api.NoBudget, Account: c.id, Wait: max(f.budget.NextFree(), busyRetry)}
	}
	f.finish(c, a, c.asked, err) // as of when it was asked for: what the answer says may be as old
}

// note counts how requests end. Where they keep finding Pipedream unavailable,
// those in the queue are told so. The caller holds mu.
func (f *Fetcher) note(err error) {
	switch kind := api.KindOf(err); {
	case err == nil:
		f.failures, f.succeededAt = 0, time.Now()
		return
	case kind == api.Unavailable:
		f.failures++
	case api.OfAccount(err): // Pipedream answered
		f.failures = 0
		return
	default:
		return
	}
	if f.failures < maxFailures {
		return
	}
	for _, c := range f.calls {
		if c.state == queued {
			f.finish(c, nil, time.Time{}, api.WithAccount(err, c.id))
		}
	}
	f.queue, f.lacking = nil, nil
}
