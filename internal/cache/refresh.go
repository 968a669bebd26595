package cache

import (
	"context"
	"time"

	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/fetch"
)

const (
	// RefreshQuiet is how long after a fetch an explicit refresh costs no request.
	RefreshQuiet = 5 * time.Second
	// longestQuiet is the longest such time after refreshes that brought nothing new.
	longestQuiet = time.Minute
	// maxQuiet bounds how many accounts with such refreshes are remembered.
	maxQuiet = 10_000
)

// quiet says until when a refresh of an account is not repeated.
type quiet struct {
	inVain int // refreshes in a row that brought nothing new
	failed bool
	until  time.Time
}

// Refresh fetches the account's credential even if one is cached, for a caller whose
// token was refused, unless one was fetched a moment ago. The cached one stays until
// there is one to replace it. changed reports whether the result is another
// credential than a reader got just before. After refreshes that bring nothing new,
// Refresh sends no request for longer and longer.
func (v *View) Refresh(ctx context.Context, r Reader, id string) (c *credential.Credential, changed bool, err error) {
	ctx, cancel := v.deadline(ctx)
	defer cancel()
	before := v.served(ctx, id)
	c, err = v.refresh(ctx, r, id, false)
	return c, err == nil && v.isNew(c, before), err
}

// served returns the credential that a read of the account returns now without a
// request; nil for none.
func (v *View) served(ctx context.Context, id string) *credential.Credential {
	e, err := v.lookup(ctx, id)
	if err != nil || e == nil || !v.servable(e.Credential, v.clock.Now()) {
		return nil
	}
	return e.Credential
}

// isNew reports whether a read returns something else with c than with before.
func (v *View) isNew(c, before *credential.Credential) bool {
	return before == nil || !c.ShowsSame(before, v.policy.ExposeRefreshToken)
}

// refresh is like Refresh, with the deadline already set. exists is set if the account
// was seen to exist.
func (v *View) refresh(ctx context.Context, r Reader, id string, exists bool) (*credential.Credential, error) {
	began := time.Now()
	e, err := v.lookup(ctx, id)
	if err != nil { // ctx ended: the refresh goes on without its caller
		wish := fetch.Wish{Class: v.fetcher.Class(id, exists), Caller: r.Caller, User: r.User, NewerThan: began, Until: began.Add(v.client.Timeout())}
		if e, err := v.ready(id, nil, &wish); e == nil && err == nil {
			v.fetcher.Want(id, wish).Leave()
		}
		return nil, err
	}
	last, _ := v.quiet.Peek(id)
	isQuiet := began.Before(last.until)
	if e != nil && v.servable(e.Credential, v.clock.Now()) && (began.Sub(e.CheckedAt) < RefreshQuiet || isQuiet && !last.failed) {
		v.stats.Served(r.Path, Hit)
		return e.Credential, nil
	}
	if !isQuiet {
		v.holdOffs.Retry(id)
	}
	for before := e; ; {
		fresh, err := v.await(ctx, r, v.fetcher.Class(id, exists || e != nil), id, e, began, nil)
		if err != nil {
			if !isQuiet {
				v.noteRefresh(id, false, true)
			}
			return nil, err
		}
		if !fresh.CheckedAt.Before(began) {
			v.noteRefresh(id, before == nil || v.isNew(fresh.Credential, before.Credential), false)
			return fresh.Credential, nil
		}
		e = fresh // it joined a fetch that took the account from an earlier page
	}
}

func (v *View) isQuiet(id string) bool {
	q, _ := v.quiet.Peek(id)
	return time.Now().Before(q.until)
}

func (v *View) noteRefresh(id string, changed, failed bool) {
	if changed {
		v.quiet.Remove(id)
		return
	}
	q, _ := v.quiet.Peek(id)
	wait := min(longestQuiet, RefreshQuiet<<min(q.inVain, 4))
	v.quiet.Add(id, quiet{inVain: q.inVain + 1, failed: failed, until: time.Now().Add(wait)})
}
