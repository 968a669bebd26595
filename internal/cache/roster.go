package cache

import (
	"context"
	"sync"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/flight"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	// rosterFrom is how many users of an app must be searched for within countFor before
	// the list of all its accounts is used for them.
	rosterFrom = 12
	// maxRosterWanted bounds how many of them are counted, since callers may invent users.
	// It is more than the pages of any list that fits in maxRosterBytes.
	maxRosterWanted = 10_000
	// countFor is as long because readers who were told to come again in a minute count.
	countFor = 2 * pace.Window
	// rosterFor is how long a complete roster is used after its last page came.
	rosterFor = time.Minute
	// maxRosterBytes bounds the accounts of a roster. A larger one is of no use.
	maxRosterBytes = 32 << 20
	// rosterRetry is how long after a page of a roster failed it is asked for again. If it
	// fails again, the roster is not used for as long, and twice as long after each further
	// failure, up to rosterUseless.
	rosterRetry   = 5 * time.Second
	rosterUseless = 10 * pace.Window
	maxRosters    = 100
)

// roster has all accounts of an app, for searches: where more users are searched for
// within countFor than the list has pages, all of it costs less than a search for each. Only a
// complete one is used, so that a user gets the same account as from a search.
type roster struct {
	walks flight.Group[struct{}]

	mu       sync.Mutex // guards the fields below; never held across I/O
	wanted   map[string]struct{}
	since    time.Time // when wanted was empty
	byUser   map[string][]*api.Account
	bytes    int
	way      api.Walk
	pages    int
	length   int       // in pages; 0 if unknown
	asked    time.Time // before the first page was asked for
	cameAt   time.Time // when the last page came
	notUntil time.Time // until when it is of no use
	failures int       // since a page came
}

// rosterOf returns the roster of u's app.
func (c *Cache) rosterOf(filter api.Filter) *roster {
	c.rosters.ContainsOrAdd(filter, &roster{})
	r, ok := c.rosters.Get(filter)
	if !ok { // it was pushed out meanwhile
		return &roster{}
	}
	return r
}

// wants notes that a user is searched for, and reports whether the roster is worth it.
func (r *roster) wants(key string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire(now)
	if underWay := r.pages > 0 && !r.way.Done(); r.wanted == nil || now.Sub(r.since) > countFor && !underWay {
		r.wanted, r.since = map[string]struct{}{}, now
	}
	if len(r.wanted) < maxRosterWanted {
		r.wanted[key] = struct{}{}
	}
	return r.pays(now)
}

// expire forgets the accounts when their time is over. The caller holds mu.
func (r *roster) expire(now time.Time) {
	if !r.cameAt.IsZero() && now.Sub(r.cameAt) > r.life() {
		r.reset()
	}
}

// life is how long the accounts are kept after the last page came. The readers of a list
// that is not complete may have been told to come again in a minute.
func (r *roster) life() time.Duration {
	if r.way.Done() {
		return rosterFor
	}
	return rosterFor + pace.Window
}

// reset forgets the accounts. The caller holds mu.
func (r *roster) reset() {
	r.byUser, r.bytes, r.way, r.pages, r.cameAt = nil, 0, api.Walk{}, 0, time.Time{}
}

// pays reports whether the pages that are left cost less than searches. The caller holds mu.
func (r *roster) pays(now time.Time) bool {
	left := r.length - r.pages
	if r.length == 0 { // nobody knows how many are left
		left = r.pages
	}
	return r.way.Done() || now.After(r.notUntil) && len(r.wanted) > max(rosterFrom, left)
}

// next returns the cursor of the page to ask for, and whether there is one.
func (r *roster) next(now time.Time) (after string, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pages == 0 {
		r.asked = now
	}
	return r.way.After(), !r.way.Done() && r.pays(now)
}

// came adds a page.
func (r *roster) came(p *api.Page, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byUser == nil {
		r.byUser = map[string][]*api.Account{}
	}
	for _, a := range p.Accounts {
		r.byUser[a.ExternalID] = append(r.byUser[a.ExternalID], a)
		r.bytes += a.Size()
	}
	r.way.Note(p)
	r.failures = 0
	r.pages++
	r.cameAt = now
	if p.Total > 0 {
		r.length = (p.Total + api.PageLimit - 1) / api.PageLimit
	}
	if r.bytes > maxRosterBytes || r.way.Done() && !r.way.Whole() {
		r.useless(now)
	}
	time.AfterFunc(r.life()+time.Second, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.expire(time.Now())
	})
}

// useless has the roster not be used for a while. The caller holds mu.
func (r *roster) useless(now time.Time) {
	r.reset()
	r.notUntil = now.Add(rosterUseless)
}

// failed notes that a page could not be fetched, and reports whether those who wait should
// wait for it to be asked for again. A search for each of them costs more. If the page may
// come later, the others are kept.
func (r *roster) failed(err error, late bool, now time.Time) (again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case api.Unsent(err) || api.KindOf(err) == api.Throttled:
		return false
	case api.KindOf(err) != api.Unavailable || late:
		r.useless(now)
		return false
	}
	if r.failures++; r.failures > 1 {
		r.notUntil = now.Add(min(rosterRetry<<min(r.failures-2, 10), rosterUseless))
	}
	return r.failures == 1
}

// of returns the accounts of a user, and when they were asked for; nil if the roster is
// not complete, or has none.
func (r *roster) of(user string) ([]*api.Account, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.way.Done() {
		return nil, time.Time{}
	}
	return r.byUser[user], r.asked
}

// fromRoster returns what a search for u would list, from the roster of u's app; nil if u
// has to be searched for.
func (v *View) fromRoster(ctx context.Context, class pace.Class, caller pace.Caller, u User, why reason) *listing {
	key := u.Key()
	if _, linked := v.users.Peek(key); linked || why.known != "" || why.atFault { // an open link changes what is there
		return nil
	}
	filter := api.Filter{App: u.App, OAuthApp: u.OAuthApp}
	r := v.rosterOf(filter)
	if !r.wants(key, time.Now()) {
		return nil
	}
	_, err := flight.Await(ctx, func() (*flight.Flight[struct{}], bool) {
		return r.walks.Start("", v.budget, class, caller, v.logger(), func(claim *pace.Claim) (struct{}, error) {
			return struct{}{}, v.callRoster(claim, r, filter)
		})
	})
	found, asked := r.of(u.ExternalID)
	l := &listing{accounts: u.own(found), asked: asked}
	for _, a := range l.accounts {
		if v.holdOffs.FailedAt(a.ID).After(asked) {
			return nil
		}
	}
	if err != nil || len(l.accounts) == 0 || v.outdated(l.accounts, asked) || v.holdOffs.FailedAt(heldName(key)).After(asked) {
		return nil
	}
	return l
}

// callRoster fetches the roster to its end, from where it stopped.
func (v *View) callRoster(claim *pace.Claim, r *roster, filter api.Filter) error {
	for {
		after, more := r.next(time.Now())
		if !more {
			return nil
		}
		if err := v.holdOffs.CheckAll(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(claim.With(v.ctx), v.client.Timeout())
		p, err := v.client.PageOf(ctx, filter, after)
		late := ctx.Err() != nil // whoever waited for it has waited long enough
		cancel()
		switch {
		case err == nil:
			r.came(p, time.Now())
		case !r.failed(err, late, time.Now()) || backoff.Sleep(v.ctx, rosterRetry) != nil:
			return err
		}
	}
}
