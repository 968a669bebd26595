package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	// listedFor is how long a list of a user's accounts answers who asks what is
	// connected.
	listedFor = 30 * time.Second
	// maxListed bounds how many such lists are remembered, and maxListedAccounts how
	// many accounts each of them has.
	maxListed         = 2_000
	maxListedAccounts = 50
)

// listed is a list of a user's accounts that is remembered, without credentials.
type listed struct {
	accounts, elsewhere []*Owned
	asked               time.Time
}

// noteList remembers a list of u's accounts, and finds out what u's links did.
func (v *View) noteList(u User, l *listing) {
	key, now := u.Key(), v.clock.Now()
	if len(l.accounts)+len(l.elsewhere) <= maxListedAccounts {
		v.recent.Add(key, &listed{accounts: bare(l.accounts), elsewhere: bare(l.elsewhere), asked: l.asked})
	}
	f, ok := v.users.Peek(key)
	if !ok || !f.isAwaited(now.Here) {
		return
	}
	_, serves := v.credentials.Peek(f.AccountID)
	_, connected, _ := f.after(l, now, serves)
	for _, a := range connected {
		v.holdOffs.Succeeded(a.ID)
	}
	for _, a := range l.accounts { // before others learn of them, because they would fetch them
		if a.ID == f.AccountID || slices.Contains(connected, a) {
			v.offer(a, l.asked)
		}
	}
	v.users.Update(key, func(latest found, known bool) (found, bool) {
		if !known {
			latest = f
		}
		next, _, changed := latest.after(l, now, serves)
		return next, changed
	})
	if len(connected) > 0 {
		for _, name := range []string{heldName(key), choicesName(key), bareName(key)} {
			v.holdOffs.Succeeded(name)
		}
		v.looks.tell(key)
	}
}

// lookIsDue reports whether a link of the user with that key is open, and it is time to
// check what it did.
func (v *View) lookIsDue(key string, f found) bool {
	if len(f.Links) == 0 {
		return false
	}
	now := time.Now()
	return f.isAwaited(now) && v.looks.isDue(key, f.lastMade(now), now)
}

// look lists u's accounts if a link of u's is open and it is time to. It returns what is
// known of u then. It waits for Patience at most, and fails silently: whoever looks is
// served what is known.
func (v *View) look(ctx context.Context, caller pace.Caller, u User, f found) found {
	key, now := u.Key(), time.Now()
	if !v.lookIsDue(key, f) || v.holdOffs.CheckAll() != nil {
		return f
	}
	every, ok := v.looks.take(key, f.lastMade(now), now, v.budget.Limit())
	if !ok {
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	l, err := v.listShared(ctx, pace.Listing, caller, u)
	latest, known := v.users.Peek(key)
	if !known {
		latest = f
	}
	if err != nil || latest.AccountID != "" {
		return latest
	}
	chosen, err := v.best(l, u, reason{})
	if err != nil { // the next look comes before the next search
		v.holdOffs.Failed(heldName(key), backoff.Failure{Err: err, Lasting: true, Exists: true, Least: every})
		return latest
	}
	v.offer(l.account(chosen.ID), l.asked)
	latest.AccountID = v.rememberUser(key, "", chosen.ID)
	return latest
}

// LinkWish is what a caller wants a Connect link to do.
type LinkWish struct {
	Account   string // id or name of the account to reconnect; empty if none is named
	Reconnect bool   // the account that is served, even if it is healthy
	New       bool   // connect another account
	// Suits reports whether an account with these scopes need not be reconnected.
	Suits func(scopes []string) bool
}

// LinkPlan is what a Connect link is going to do.
type LinkPlan struct {
	// Account is the account that it reconnects; nil for a new one.
	Account *Owned

	link link
}

// HealthyError says that an account is connected and healthy, so that a link to it would
// replace working credentials.
type HealthyError struct {
	Account  *Owned
	Accounts []*Owned // all that the user has
}

// Error returns a text for log lines. It names neither the user nor the account.
func (e *HealthyError) Error() string {
	return fmt.Sprintf("the user has a healthy account, and %d in all", len(e.Accounts))
}

// PlanLink decides what a Connect link for u does. By itself it reconnects only an
// account that is dead, unhealthy or does not suit. Its errors can also be a
// [*ChoiceError], a [*HealthyError] or [ErrUserUnread].
func (v *View) PlanLink(ctx context.Context, r Reader, u User, wish LinkWish) (*LinkPlan, error) {
	f, err := v.known(ctx, u.Key())
	if err != nil {
		return nil, err
	}
	l, err := v.listSurely(ctx, pace.Listing, r.who(), u, f.AccountID)
	if err != nil {
		return v.planBlind(f, wish, err)
	}
	p := &LinkPlan{link: link{Salt: newSalt()}}
	for _, a := range l.accounts {
		p.link.Known = append(p.link.Known, a.ID)
	}
	if p.Account, err = v.toReconnect(l, r, u, f, wish); err != nil {
		return nil, err
	}
	p.link.Beside = wish.New && len(l.accounts) > 0
	if p.Account != nil {
		p.link.Account, p.link.Before = p.Account.ID, p.link.marks(l.account(p.Account.ID))
	}
	return p, nil
}

// planBlind is like [View.PlanLink] if u's accounts cannot be listed because of err. A
// user of whom no account is known, or who says what to do with it, gets a link anyway.
func (v *View) planBlind(f found, wish LinkWish, err error) (*LinkPlan, error) {
	p := &LinkPlan{link: link{Salt: newSalt(), Blind: true}}
	switch {
	case wish.Account != "" || api.KindOf(err) == 0:
		return nil, err
	case f.AccountID == "":
		return p, nil
	case wish.New:
		p.link.Beside = true
		return p, nil
	case wish.Reconnect:
		p.Account = &Owned{Account: &api.Account{ID: f.AccountID}}
		p.link.Account = f.AccountID
		return p, nil
	default:
		return nil, err
	}
}

// toReconnect returns the account that a link reconnects; nil for none.
func (v *View) toReconnect(l *listing, r Reader, u User, f found, wish LinkWish) (*Owned, error) {
	accounts := l.owned()
	switch {
	case wish.Account != "":
		return v.Choose(accounts, u, wish.Account)
	case wish.New || len(accounts) == 0:
		return nil, nil
	}
	a := accounts[0]
	if served, err := v.best(l, u, r.reasonOf(accounts, f.AccountID)); err == nil {
		a = served
	} else if i := slices.IndexFunc(accounts, func(a *Owned) bool { return a.ID == f.AccountID }); i >= 0 {
		a = accounts[i]
	}
	if !wish.Reconnect && a.Healthy && !a.Dead && wish.Suits(a.Scopes) {
		return nil, &HealthyError{Account: a, Accounts: accounts}
	}
	return a, nil
}

// Expect says that a link was made as planned, with that id, and is good until then.
func (v *View) Expect(ctx context.Context, u User, p *LinkPlan, id string, until time.Time) error {
	key := u.Key()
	before, err := v.known(ctx, key)
	if err != nil {
		return err
	}
	k := p.link
	k.ID, k.Made, k.Until = id, time.Now(), until
	v.users.Update(key, func(latest found, known bool) (found, bool) {
		if !known {
			latest = before
		}
		latest.User = key
		return latest.with(k), true
	})
	v.holdOffs.Succeeded(heldName(key))
	return nil
}

// Connection is what a user has connected.
type Connection struct {
	// Served is the account that reads get; nil if they get none.
	Served *Owned
	// Accounts are those of the user and app, the one created last first. Elsewhere are
	// those on another OAuth client than the user's.
	Accounts, Elsewhere []*Owned
	// AsOf is when these were listed, if a newer list could not be had; zero otherwise.
	AsOf time.Time
	Link LinkState
}

// LinkState says what a Connect link did.
type LinkState struct {
	Known     bool   // whether there is such a link
	Open      bool   // whether it may still connect an account
	Account   string // the account that it was to reconnect; empty for none
	Connected string // the account that it connected or reconnected; empty for none
}

// Connection returns what u has connected, and what the link with that id did; empty for
// none. It sends one request at most, unless a list of u's accounts came a moment ago. A
// caller who asks about a link is told about it even if Pipedream cannot be asked now.
func (v *View) Connection(ctx context.Context, r Reader, u User, linkID string) (*Connection, error) {
	key := u.Key()
	f, err := v.known(ctx, key)
	if err != nil {
		return nil, err
	}
	f = v.look(ctx, r.who(), u, f)
	seen, ok := v.recent.Peek(key)
	c := &Connection{}
	if outdated := !ok || v.removed.hasOutdated(seen); outdated || time.Since(seen.asked) >= listedFor {
		l, err := v.listShared(ctx, pace.Listing, r.who(), u)
		switch {
		case err == nil:
			seen = &listed{accounts: bare(l.accounts), elsewhere: bare(l.elsewhere)}
		case outdated || linkID == "":
			return nil, err
		default:
			c.AsOf = seen.asked
		}
		if latest, known := v.users.Peek(key); known {
			f = latest
		}
	}
	c.Accounts, c.Elsewhere = seen.accounts, seen.elsewhere
	if served, err := v.bestOf(seen.accounts, u, r.reasonOf(seen.accounts, f.AccountID)); err == nil {
		c.Served = served
	}
	if k := f.link(linkID); k != nil {
		c.Link = LinkState{Known: true, Open: k.isOpen(time.Now()), Account: k.Account, Connected: k.Connected}
	}
	return c, nil
}

// OfStranger reports whether somebody else may have signed in to that account of u's, with
// a link of the last day.
func (v *View) OfStranger(u User, accountID string) bool {
	f, ok := v.users.Peek(u.Key())
	return ok && slices.ContainsFunc(f.Links, func(k link) bool {
		return k.Connected == accountID && k.warns(time.Now())
	})
}

// AwaitLink waits until it is known what a link of u's did, or the link or ctx ends. It
// returns at once if too many wait already.
func (v *View) AwaitLink(ctx context.Context, r Reader, u User, linkID string) error {
	key := u.Key()
	leave := v.looks.wait(r.Caller, key)
	if leave == nil {
		return nil
	}
	defer leave()
	for {
		news := v.looks.newsOf(key)
		f, err := v.known(ctx, key)
		if err != nil {
			return err
		}
		f = v.look(ctx, r.who(), u, f)
		if k := f.link(linkID); k == nil || !k.isOpen(time.Now()) {
			return nil
		}
		select {
		case <-news:
		case <-time.After(time.Second):
		case <-v.ctx.Done():
			return nil
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil
			}
			return ctx.Err()
		}
	}
}
