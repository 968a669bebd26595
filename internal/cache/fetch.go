package cache

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// await waits for a fetch. seen is what is cached, and the credential must be of a time
// after newerThan. If there is a live credential to fall back on, await waits for
// Patience at most, and serves that one unless the account itself is at fault.
func (v *View) await(ctx context.Context, r Reader, class pace.Class, id string, seen *entry, newerThan time.Time, fallback *entry) (*entry, error) {
	patience := ctx
	if fallback != nil {
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(ctx, Patience)
		defer cancel()
	}
	fetched, err := v.wait(ctx, patience, class, r, id, seen, newerThan)
	if err == nil {
		return v.serve(r, fetched, Fetched), nil
	}
	if fallback != nil && v.servable(fallback.Credential, v.clock.Now()) && !api.IsAccountFault(err) {
		return v.serve(r, fallback, Stale), nil
	}
	if ctx.Err() == nil && patience.Err() != nil { // but the fallback has ended meanwhile
		return v.await(ctx, r, class, id, seen, newerThan, nil)
	}
	v.stats.Missed()
	return nil, err
}

// wait waits for a fetch until patience ends. The fetch goes on when its readers give up.
func (v *View) wait(ctx, patience context.Context, class pace.Class, r Reader, id string, seen *entry, newerThan time.Time) (*entry, error) {
	until, _ := ctx.Deadline()
	wish := fetch.Wish{Class: class, Caller: r.Caller, User: r.User, NewerThan: newerThan, Until: until}
	if e, err := v.ready(id, seen, &wish); e != nil || err != nil {
		return e, err
	}
	w := v.fetcher.Want(id, wish)
	defer w.Leave()
	select {
	case <-w.Done:
	case <-patience.Done():
	}
	select {
	case <-w.Done: // maybe at the same moment
		e, _ := w.Value.(*entry)
		return e, w.Failed
	default:
	}
	err := patience.Err()
	if errors.Is(err, context.DeadlineExceeded) {
		err = v.fetcher.Overdue(id)
	}
	if ctx.Err() != nil && api.KindOf(err) == api.Unavailable && w.IsLate() {
		v.failed(id, err)
	}
	return nil, err
}

// ready returns what a fetch that ended since the caller looked has cached, or why the
// account may not be fetched now. Otherwise it says in wish how new the account must be.
func (v *View) ready(id string, seen *entry, wish *fetch.Wish) (*entry, error) {
	if e, ok := v.credentials.Peek(id); ok && e != seen && v.servable(e.Credential, v.clock.Now()) && !e.CheckedAt.Before(wish.NewerThan) {
		return e, nil
	}
	failed := v.holdOffs.FailedAt(id) // first: what fails after the check is later than that
	if err := v.holdOffs.Check(id); err != nil {
		return nil, err
	}
	if seen != nil && seen.CheckedAt.After(wish.NewerThan) {
		wish.NewerThan = seen.CheckedAt
	}
	if failed.After(wish.NewerThan) {
		wish.NewerThan = failed
	}
	return nil, nil //nolint:nilnil // it has to be fetched
}

// ahead adds an account to those to fetch that nobody waits for yet, by that time at
// the latest.
func (v *View) ahead(due []fetch.Due, id string, seen *entry, by time.Time) []fetch.Due {
	var wish fetch.Wish
	if e, err := v.ready(id, seen, &wish); e == nil && err == nil {
		due = append(due, fetch.Due{ID: id, NewerThan: wish.NewerThan, By: by})
	}
	return due
}

// arrived caches what a fetch brought, or has it repeated.
func (v *View) arrived(w *fetch.Want) {
	var e *entry
	retry := false
	err := guard.Run(v.logger(), func() (err error) {
		e, retry, err = v.take(w)
		return err
	})
	if retry {
		w.Retry(w.Doubted || w.Tries > 0)
		return
	}
	if err != nil {
		v.failed(w.ID, err)
	} else {
		v.holdOffs.Succeeded(w.ID)
	}
	if e != nil && e.ExternalUser == "" && e.LastUser != "" && w.IsAhead() {
		v.claimAhead(e)
	}
	w.Deliver(e, err)
}

// claimAhead has the list say whose e is by now, so that its next reader need not ask.
func (v *View) claimAhead(e *entry) {
	guard.Go(v.logger(), func() {
		l, err := v.listShared(v.ctx, pace.Ahead, pace.Caller{}, User{App: e.App, ExternalID: e.LastUser})
		if err == nil && l.has(e.AccountID) {
			v.offer(l.account(e.AccountID), l.asked)
		}
	})
}

// take caches what a fetch brought if it can be served, or says that it is to be
// repeated. One answer does not take away what is live: if the account seems to be at
// fault, it is asked for once more, and by itself. That answer counts.
func (v *View) take(w *fetch.Want) (e *entry, retry bool, err error) {
	var c *credential.Credential
	if err = w.Err; err == nil {
		if v.removed.isOutdated(w.ID, w.Account.ExternalID, w.At) {
			return nil, true, nil
		}
		c, err = credential.New(w.Account, w.At, v.policy.ExposeRefreshToken)
	}
	if api.IsAccountFault(err) && !w.Doubted && v.hasLive(v.ctx, w.ID) {
		w.Doubted = true
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	now := v.clock.Now()
	expired := &api.Error{Kind: api.Expired, Account: w.ID}
	switch {
	case w.At.Before(w.Began) && v.isStale(c, now): // from an earlier page
		return nil, true, nil
	case c.Servable(now):
		e := v.keep(c, w.IsAhead())
		return e, !v.servable(e.Credential, v.clock.Now()), nil // it may have ended while it was being stored
	case w.Tries == maxExpiredRetries || v.holdOffs.Doubtful(w.ID):
		return nil, false, expired
	}
	w.Tries++
	ctx, cancel := context.WithDeadline(v.ctx, w.At.Add(v.client.Timeout()))
	defer cancel()
	switch err := backoff.Sleep(ctx, c.UntilNext(now)); {
	case errors.Is(err, context.Canceled): // the mount is going away
		return nil, false, err
	case err != nil:
		return nil, false, expired
	}
	return nil, true, nil
}

// hasLive reports whether a credential of the account may be cached that can be served.
func (v *View) hasLive(ctx context.Context, id string) bool {
	e, err := v.lookup(ctx, id)
	return err != nil || e != nil && v.servable(e.Credential, v.clock.Now())
}

// isStale reports whether Pipedream may have a better credential by now than c,
// which a page brought. A page of a moment ago is as good as another request.
func (v *View) isStale(c *credential.Credential, now clock.Moment) bool {
	if now.Here.Sub(c.CheckedAt) < RefreshQuiet {
		return false
	}
	due, _ := c.Due(v.policy, v.policy.Default(), now)
	return due || c.Expires() && c.ExpiresAt.Sub(now.There) < credential.Lookahead
}

// failed holds the account off, unless everything is held off, and drops what is
// cached if the account itself is at fault.
func (v *View) failed(id string, err error) {
	var e *api.Error
	if !errors.As(err, &e) {
		return // the mount is going away
	}
	level := hclog.Warn
	if api.Unsent(e) { // can concern thousands at a time; status shows it
		level = hclog.Debug
	}
	v.logger().Log(level, "credentials could not be fetched", "account", id, "error", err)
	if e.IsAccountFault() {
		v.credentials.Delete(id) // before the hold-off, during which readers are served what is cached
	}
	if !e.AffectsAll() {
		lasting := e.IsAccountFault() || e.Kind == api.Expired || e.Kind == api.Unauthorized
		v.holdOffs.Failed(id, backoff.Failure{Err: e, Lasting: lasting, Gone: e.IsAccountFault()})
	}
}

// keep caches a fetched credential unless the cached one is newer. It returns the
// one that is cached then.
func (v *View) keep(fetched *credential.Credential, ahead bool) *entry {
	return v.credentials.Update(fetched.AccountID, func(latest *entry, known bool) (*entry, bool) {
		if v.removed.isOutdated(fetched.AccountID, fetched.ExternalUser, fetched.CheckedAt) { // since the caller looked
			return &entry{Credential: fetched}, false
		}
		var before *credential.Credential
		if known {
			if latest.CheckedAt.After(fetched.CheckedAt) {
				if claimed, ok := latest.ClaimedAs(fetched); ok {
					return &entry{Credential: claimed}, true
				}
				return latest, false
			}
			before = latest.Credential
		}
		merged, store := fetched.Following(before)
		if before != nil && merged.FetchedAt.Equal(merged.CheckedAt) {
			v.stats.Refreshed(ahead)
		}
		return &entry{Credential: merged}, store
	})
}
