package cache

import (
	"context"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// bareName is like [heldName], for accounts that are used without their credentials.
func bareName(key string) string { return "bare/" + key }

// AccountOf returns the id of u's account, for use without its credentials, which it
// need not have. It asks for the user's accounts each time. If these cannot be had, it
// returns the account that was known before, if there is one.
func (v *View) AccountOf(ctx context.Context, caller pace.Caller, u User) (string, error) {
	key := u.Key()
	f, err := v.known(ctx, key)
	if err != nil {
		return "", err
	}
	known := v.look(ctx, caller, u, f).AccountID // what a link did ends the hold-off
	a, err := v.find(ctx, caller, u, known)
	switch {
	case err == nil:
		return v.rememberUser(key, known, a.ID), nil
	case known != "" && api.KindOf(err) != api.NoAccount && v.removed.of(known).IsZero() && v.removed.of(ofUser(u.ExternalID)).IsZero():
		return known, nil
	default:
		return "", err
	}
}

// AccountNow returns the id of u's account, for use without its credentials. id is the one
// that AccountOf returned, after it was called at asked: it may have been removed since, or
// a link of u's may have chosen another one. AccountNow returns an empty id if AccountOf has
// to be called again.
func (v *View) AccountNow(ctx context.Context, caller pace.Caller, u User, id string, asked time.Time) (string, error) {
	f, err := v.known(ctx, u.Key())
	if err != nil {
		return "", err
	}
	f = v.look(ctx, caller, u, f)
	if f.AccountID == id && v.removed.isOutdated(id, u.ExternalID, asked) {
		return "", nil
	}
	return f.AccountID, nil
}

// RetryAccount has the next AccountOf look for u again, unless that was done a moment ago.
func (v *View) RetryAccount(u User) { v.retry(bareName(u.Key())) }

func (v *View) find(ctx context.Context, caller pace.Caller, u User, known string) (a *Owned, err error) {
	name := bareName(u.Key())
	if err := v.holdOffs.Check(name); err != nil {
		return nil, err
	}
	l, err := v.listShared(ctx, pace.Known, caller, u)
	if err == nil {
		a, err = v.best(l, u, reason{known: known, bare: true})
	}
	if err != nil {
		v.holdUserOff(name, err)
		return nil, err
	}
	v.holdOffs.Succeeded(name)
	return a, nil
}
