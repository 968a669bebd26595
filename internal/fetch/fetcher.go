// Package fetch gets accounts with their credentials from Pipedream in as few
// requests as possible.
//
// A request for one account brings that account, and a page of the list brings up
// to a hundred. While only a few accounts are wanted at a time, each is asked for
// by itself, at once. Further accounts queue, and their callers take turns. Once
// more accounts are queued, or were wanted in the last minute, than the list has
// pages, the list is fetched instead. Its first page says how many pages there are.
// The fetch goes on while more accounts are wanted than pages are left. Whole pages
// are remembered for about a minute, so that a read just after a page came needs no
// request. An account that the list lacks, or has without credentials, is asked for
// by itself.
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
	// MaxSingles is how many requests for one account are under way at a time.
	// Further accounts queue, and the queue shows whether the list is cheaper. A
	// request that takes longer than slowAfter no longer counts, so that it does not
	// hold up the others.
	MaxSingles = 8
	slowAfter  = 2 * time.Second
	// maxLateSingles is the limit while the list is being fetched. It is for accounts
	// that an earlier list lacked. It is also for accounts that have waited for
	// lateAfter, if no more than MaxSingles are queued: more are better off with the
	// next list. A page that takes longer than lateAfter lifts this limit.
	maxLateSingles = 2
	lateAfter      = 3 * time.Second
	// maxFailures is for how many accounts in a row Pipedream may be unavailable before
	// everybody in the queue gets that error, instead of finding out one by one.
	maxFailures = 3
	// demandFrom is how many accounts must be wanted in a minute before the list is
	// fetched for accounts that do not all queue at the same time.
	demandFrom = MaxSingles + MaxSingles/2
	// rememberFor is how long a page is remembered, on top of the time that it takes
	// to fetch the list.
	rememberFor = time.Minute
)

// Fetcher gets accounts over one connection. Its errors are of type [*api.Error],
// or that of the context.
type Fetcher struct {
	ctx      context.Context // ends when the mount does
	client   *api.Client
	budget   *pace.Budget
	holdOffs *pace.HoldOffs
	logger   func() hclog.Logger

	memory *pageMemory
	index  *index

	mu      sync.Mutex // guards the fields below and all calls; never held across I/O
	calls   map[string]*call
	queue   *pace.Line[*call]
	lacking *pace.Line[*call] // accounts that the list lacked; these go first
	demand  demand
	pages   map[string]time.Time // when each page that is under way was asked for, by cursor
	closed  bool                 // whether fetching ahead has ended

	singles    int                 // requests for one account that are under way for less than slowAfter
	failing    map[string]struct{} // accounts for which Pipedream was unavailable since any request succeeded
	failedAt   time.Time           // when the latest request for one of them ended
	answeredAt time.Time           // when Pipedream last answered
	out        int                 // calls that are alone
	outSince   time.Time           // when the first of them went out, of those that were so without a break
	list       listState
}

// New returns a fetcher that asks through client. It takes over what its
// predecessor knew about the list. The predecessor must have had the same accounts,
// and is nil if there is none. All requests end with ctx, and do not depend on the
// contexts of readers.
func New(ctx context.Context, client *api.Client, budget *pace.Budget, holdOffs *pace.HoldOffs, predecessor *Fetcher, logger func() hclog.Logger) *Fetcher {
	f := &Fetcher{
		ctx: ctx, client: client, budget: budget, holdOffs: holdOffs, logger: logger,
		memory: newPageMemory(), index: newIndex(), calls: map[string]*call{}, pages: map[string]time.Time{}, failing: map[string]struct{}{},
		queue: pace.NewLine[*call](budget), lacking: pace.NewLine[*call](budget),
	}
	if predecessor != nil {
		f.index = predecessor.index
		predecessor.mu.Lock()
		defer predecessor.mu.Unlock()
		f.list.pages, f.list.pagesUntil = predecessor.list.pages, predecessor.list.pagesUntil
	}
	return f
}

// Close ends the fetches ahead of readers and forgets the pages. Readers who wait
// still get their accounts.
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

// Class returns how urgent a reader's request for name is. name is an account's id,
// or another name of the hold-offs. known says whether it was seen to exist. If
// somebody seems to be guessing, Class has the list fetched to learn what exists.
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

// Account fetches one account with its credentials, through claim, and returns the
// time as of which it is. It takes the account from a page, one that is under way or
// came recently, only if that page was asked for after newerThan. An account that
// comes too late for ctx is remembered like a page, since its reader is likely to
// come again.
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

// join returns the call for an account: the one that others wait for already, or a
// new one.
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
		f.ask(c, func() {}) // it waits for its turn at the budget, and takes no place of MaxSingles
		return c
	}
	if class != pace.Ahead { // the passes plan their own use of the list
		f.demand.note(id, now)
	}
	f.enqueue(c)
	f.startNext()
	return c
}

// enqueue puts a queued call at the end of its callers' queue. The caller holds mu.
func (f *Fetcher) enqueue(c *call) {
	f.queue.Add(c.claim, c)
	if f.list.underWay {
		time.AfterFunc(lateAfter, f.startLater)
	}
}

// leave stops waiting for a call. If nobody waits any more and nothing was sent for
// it, the call is dropped.
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

// drop removes a call from those that are wanted. The caller holds mu.
func (f *Fetcher) drop(c *call) {
	delete(f.calls, c.id)
	f.queue.Remove(c.claim)
	f.lacking.Remove(c.claim)
	if c.stop != nil {
		c.stop()
	}
}

// finish gives those who wait for a call its outcome. The caller holds mu.
func (f *Fetcher) finish(c *call, a *api.Account, at time.Time, err error) {
	c.move(done)
	f.drop(c)
	c.account, c.at, c.err = a, at, err
	close(c.finished)
}

// startNext starts all requests that can start now. The caller holds mu.
func (f *Fetcher) startNext() {
	if f.listPays(time.Now()) {
		f.startList()
	}
	for c := f.next(); c != nil; c = f.next() {
		f.askCounted(c)
	}
}

// startLater calls startNext from a timer.
func (f *Fetcher) startLater() {
	_ = guard.Run(f.logger(), func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.startNext()
		return nil
	})
}

// next takes the call that a request of its own can go out for now from its queue.
// It returns nil if there is none. The caller holds mu.
func (f *Fetcher) next() *call {
	limit, waitForList := MaxSingles, f.list.underWay && time.Since(f.list.pageSince) < lateAfter
	if waitForList {
		limit = maxLateSingles
	}
	if f.singles >= limit {
		return nil
	}
	if c, ok := f.lacking.Next(func(*call) bool { return true }); ok {
		return c
	}
	crowded := f.queue.Len() > MaxSingles
	c, _ := f.queue.Next(func(c *call) bool {
		return !waitForList || !crowded && time.Since(c.since) >= lateAfter
	})
	return c
}

// askCounted asks for an account in one of the MaxSingles places. The caller holds
// mu.
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

// ask asks for one account on a goroutine of its own, which calls ended with mu
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
		f.note(c.id, err)
		f.conclude(c, a, err)
		f.startNext()
	})
}

// errOvertaken says that no request for an account was sent, because a page brought
// it first or nobody waits for it any more.
var errOvertaken = errors.New("overtaken")

// single waits for the budget and asks for one account.
func (f *Fetcher) single(ctx context.Context, c *call) (*api.Account, error) {
	// Everything may have been held off since this call queued.
	if err := f.holdOffs.CheckAll(); err != nil {
		return nil, api.WithAccount(err, c.id)
	}
	if err := c.claim.Reserve(ctx); err != nil {
		var refused *pace.NoBudgetError
		if errors.As(err, &refused) {
			err = &api.Error{Kind: api.NoBudget, Account: c.id, Wait: refused.Wait}
		}
		return nil, err
	}
	defer c.claim.Refund()
	if !f.begin(c) {
		return nil, errOvertaken
	}
	// The request has a deadline of its own, whatever time the call spent in the queue.
	ctx, cancel := context.WithTimeout(f.ctx, f.client.Timeout())
	defer cancel()
	if err := f.holdOffs.CheckAll(); err != nil {
		return nil, api.WithAccount(err, c.id)
	}
	a, err := f.client.Account(c.claim.With(ctx), c.id)
	if errors.Is(err, context.DeadlineExceeded) { // while it waited for an access token
		err = f.client.NoAnswer(c.id)
	}
	return a, err
}

// begin notes that the request for a call goes out. It returns false if the request
// is no longer needed.
func (f *Fetcher) begin(c *call) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.state != queued {
		return false
	}
	c.move(alone)
	c.asked = time.Now()
	if f.out++; f.out == 1 {
		f.outSince = c.asked
	}
	return true
}

// conclude ends a call whose request has ended. The caller holds mu.
func (f *Fetcher) conclude(c *call, a *api.Account, err error) {
	if c.state != queued && c.state != alone {
		return // a page or an outage ended it first, or nobody waits any more
	}
	if c.state == alone {
		f.out--
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
	f.finish(c, a, c.asked, err) // as of the request, since the answer may be that old
}

// note counts for which accounts requests fail. If Pipedream is unavailable for one
// after the other, all calls in the queue end with that error. One account alone says
// nothing about the others. The caller holds mu.
func (f *Fetcher) note(id string, err error) {
	switch kind := api.KindOf(err); {
	case err == nil:
		f.answeredAt = time.Now()
		clear(f.failing)
		return
	case kind == api.Unavailable:
		f.failing[id] = struct{}{}
		f.failedAt = time.Now()
	case api.OfAccount(err): // Pipedream answered
		f.answeredAt = time.Now()
		clear(f.failing)
		return
	default:
		return
	}
	if len(f.failing) < maxFailures {
		return
	}
	for _, c := range f.calls {
		if c.state == queued {
			f.finish(c, nil, time.Time{}, api.WithAccount(err, c.id))
		}
	}
}
