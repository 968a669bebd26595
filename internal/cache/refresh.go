package cache

import (
	"context"
	"time"

	"vault-plugin-secrets-pipedream/internal/credential"
)

const (
	// RefreshQuiet is how long after a fetch an explicit refresh costs no request.
	RefreshQuiet = 5 * time.Second
	// longestQuiet is the longest such time after refreshes that brought nothing new.
	longestQuiet = time.Minute
	// maxQuiet bounds how many accounts with such refreshes are remembered.
	maxQuiet = 10_000
)

// quiet says until when refreshes of an account cost no request.
type quiet struct {
	inVain int // refreshes in a row that brought nothing new
	until  time.Time
}

// Refresh fetches the account's credential even if one is cached, for a caller whose
// token was refused, unless one was fetched a moment ago. The cached one stays until
// there is one to replace it. changed reports whether the latest fetch brought
// another token than the one before. After refreshes that bring nothing new,
// Refresh sends no request for longer and longer.
func (v *View) Refresh(ctx context.Context, r Reader, id string) (c *credential.Credential, changed bool, err error) {
	ctx, cancel := v.deadline(ctx)
	defer cancel()
	return v.refresh(ctx, r, id)
}

func (v *View) refresh(ctx context.Context, r Reader, id string) (c *credential.Credential, changed bool, err error) {
	began := time.Now()
	e, err := v.lookup(ctx, id)
	if err != nil { // ctx ended: the refresh goes on without its caller
		v.startAs(v.class(id, nil, false), r.Caller, id, nil, began)
		return nil, false, err
	}
	if e != nil && e.Servable(began) && (began.Sub(e.CheckedAt) < RefreshQuiet || v.isQuiet(id)) {
		v.stats.Served(r.Path, Hit)
		return e.Credential, isNew(e), nil
	}
	if !v.isQuiet(id) {
		v.holdOffs.Retry(id)
	}
	for {
		seen := e
		fresh, err := v.await(ctx, r, id, func() (*flight[*entry], bool) {
			return v.startAs(v.class(id, seen, false), r.Caller, id, seen, began)
		}, nil)
		if err != nil {
			v.noteRefresh(id, false)
			return nil, false, err
		}
		if !fresh.CheckedAt.Before(began) {
			v.noteRefresh(id, isNew(fresh))
			return fresh.Credential, isNew(fresh), nil
		}
		e = fresh // it joined a fetch that took the account from an earlier page
	}
}

// isNew reports whether the latest fetch of e brought another token.
func isNew(e *entry) bool { return e.CheckedAt.Equal(e.FetchedAt) }

func (v *View) isQuiet(id string) bool {
	q, _ := v.quiet.Peek(id)
	return time.Now().Before(q.until)
}

func (v *View) noteRefresh(id string, changed bool) {
	if changed {
		v.quiet.Remove(id)
		return
	}
	q, _ := v.quiet.Peek(id)
	wait := min(longestQuiet, RefreshQuiet<<min(q.inVain, 4))
	v.quiet.Add(id, quiet{inVain: q.inVain + 1, until: time.Now().Add(wait)})
}
