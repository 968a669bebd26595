package pipedream

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// maxPagesAtOnce is how many pages are fetched ahead of readers at a time.
	maxPagesAtOnce = 4
	// pagePatience is how long a page that is fetched ahead waits for the budget:
	// until it is as good to leave it to the next pass.
	pagePatience = 45 * time.Second
	// maxIndexed bounds the accounts whose page is remembered.
	maxIndexed = 4 * maxCached
)

// pageIndex remembers on which page of the list accounts were last seen.
// Accounts that were connected one after the other lie together, and their
// tokens are due together: then one page brings what is due, and the rest of
// the list can be left alone.
type pageIndex struct {
	seed maphash.Seed

	mu sync.Mutex // guards after; not held across I/O
	// after has, by the hash of an account's id, what its page is asked for with:
	// the cursor at the end of the page before it, empty for the first. An id
	// whose hash is another's is missed on that page, and asked for by itself.
	after map[uint64]string
}

func newPageIndex() pageIndex {
	return pageIndex{seed: maphash.MakeSeed(), after: map[uint64]string{}}
}

// note remembers all accounts on a page.
func (x *pageIndex) note(p *page, after string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.after)+len(p.accounts) > maxIndexed {
		clear(x.after)
	}
	for _, a := range p.accounts {
		x.after[maphash.String(x.seed, a.ID)] = after
	}
}

func (x *pageIndex) forget(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.after, maphash.String(x.seed, id))
}

func (x *pageIndex) of(id string) (after string, known bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	after, known = x.after[maphash.String(x.seed, id)]
	return after, known
}

// wantPages is [bulk.wantAll] for accounts whose pages are known, by what these
// are asked for with. An account that its page lacks is looked for elsewhere.
func (b *bulk) wantPages(ctx context.Context, pages map[string]map[string]func(*account, error)) {
	go func() {
		var group errgroup.Group
		group.SetLimit(maxPagesAtOnce)
		for after, deliver := range pages {
			group.Go(func() error {
				b.wantPage(ctx, after, deliver)
				return nil
			})
		}
	}()
}

// wantPage fetches a page as soon as the budget allows it.
func (b *bulk) wantPage(ctx context.Context, after string, deliver map[string]func(*account, error)) {
	for until := time.Now().Add(pagePatience); ; {
		err := b.fetchPage(ctx, after, deliver)
		var api *apiError
		if !errors.As(err, &api) || api.kind != failNoBudget || time.Now().Add(api.retryAfter).After(until) ||
			sleep(ctx, max(api.retryAfter, time.Second)) != nil {
			return
		}
	}
}

// fetchPage fetches a page for those of the accounts that nobody asks for yet.
func (b *bulk) fetchPage(ctx context.Context, after string, deliver map[string]func(*account, error)) error {
	wants := b.ask(ctx, deliver)
	if len(wants) == 0 {
		return nil
	}
	var p *page
	err := guard(b.client.logger(), func() (err error) {
		if err := b.client.holdoffs.checkMount(); err != nil {
			return err
		}
		// Half the time, so that a reader who joins can still be served without the list.
		ctx, cancel := context.WithTimeout(ctx, b.client.config.RequestTimeout/2)
		defer cancel()
		p, err = b.client.listPage(ctx, listFilter{withCredentials: true}, after)
		return err
	})
	came := map[string]*account{}
	if err == nil {
		b.index.note(p, after)
		for _, a := range p.accounts {
			came[a.ID] = a
		}
	}
	for _, w := range b.answered(wants, came, err) {
		b.settle(w, came[w.id], nil)
	}
	return err
}

// ask puts down that the accounts are being asked for, where they are not
// wanted already.
func (b *bulk) ask(ctx context.Context, deliver map[string]func(*account, error)) (wants []*want) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	now := time.Now()
	for id, f := range deliver {
		if b.wanted[id] != nil {
			b.add(ctx, id, f)
			continue
		}
		w := &want{id: id, ctx: ctx, since: now, asked: now, deliver: []func(*account, error){f}}
		b.wanted[id] = w
		wants = append(wants, w)
	}
	return wants
}

// answered returns those of the wants whose accounts came. The others queue, or
// are dropped where the mount might not ask and no reader has joined them.
func (b *bulk) answered(wants []*want, came map[string]*account, err error) (found []*want) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.failures, b.succeededAt = 0, time.Now()
	}
	for _, w := range wants {
		a := came[w.id]
		switch {
		case a != nil && a.complete():
			b.finish(w)
			found = append(found, w)
		case isOfMount(err) && len(w.deliver) == 1:
			b.finish(w)
		default:
			b.index.forget(w.id)
			w.asked = time.Time{}
			b.queue = append(b.queue, w)
		}
	}
	b.pump()
	return found
}
