package cache

import (
	"context"
	"errors"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// GetForUser returns a live credential of u's account. If the remembered account is at
// fault, GetForUser searches for u once more, since the user may have connected again,
// under another id.
func (v *View) GetForUser(ctx context.Context, r Reader, u User) (*credential.Credential, error) {
	if e := v.freshOf(r, u); e != nil {
		return e.Credential, nil
	}
	ctx, cancel := v.deadline(ctx) // for all of it
	defer cancel()
	f, err := v.known(ctx, u.Key())
	if err != nil {
		return nil, err
	}
	id := v.look(ctx, r.who(), u, f).AccountID
	if id != "" {
		id = v.healthier(ctx, r.who(), u, id)
		c, err := v.getOwned(ctx, r, id, u)
		if err == nil && c.Unhealthy { // which may be news
			if other := v.healthier(ctx, r.who(), u, id); other != id || !v.servable(c, v.clock.Now()) {
				id = other
				c, err = v.getOwned(ctx, r, id, u)
			}
		}
		if !api.IsAccountFault(err) && api.KindOf(err) != api.Unauthorized { // nothing is live
			return c, err
		}
	}
	again, err := v.search(ctx, r.who(), u, v.why(id))
	if err != nil {
		return nil, err
	}
	return v.getOwned(ctx, r, again, u)
}

// freshOf is like fresh, for a user whose account is in memory.
func (v *View) freshOf(r Reader, u User) *entry {
	key := u.Key()
	f, ok := v.users.Get(key)
	if !ok || v.lookIsDue(key, f) {
		return nil
	}
	e, ok := v.credentials.Get(f.AccountID)
	if !ok || v.owned(e.Credential, u) != nil || v.lookForHealthier(key, e) { // checked on the same entry that is served
		return nil
	}
	return v.serveFresh(r, e)
}

// lookForHealthier reports whether e is unhealthy and it is time to search for a
// better account of the user with the key.
func (v *View) lookForHealthier(key string, e *entry) bool {
	return e.Unhealthy && !v.holdOffs.Held(heldName(key))
}

// healthier returns the id of u's account to serve. If the remembered account is
// unhealthy, it searches for a healthy one that u has connected since. A search
// that finds none holds off the next one.
func (v *View) healthier(ctx context.Context, caller pace.Caller, u User, remembered string) string {
	key := u.Key()
	e, ok := v.credentials.Peek(remembered)
	if !ok || !v.lookForHealthier(key, e) {
		return remembered
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	found, err := v.search(ctx, caller, u, reason{known: remembered})
	if err == nil {
		return found
	}
	if !v.holdOffs.Held(heldName(key)) { // the reader ran out of patience, or the budget is used up
		v.holdOffs.Failed(heldName(key), backoff.Failure{Err: err, Lasting: true, Exists: true})
	}
	return remembered
}

// RefreshForUser is like [View.Refresh], for u's account, which it finds like
// [View.GetForUser].
func (v *View) RefreshForUser(ctx context.Context, r Reader, u User) (c *credential.Credential, changed bool, err error) {
	ctx, cancel := v.deadline(ctx)
	defer cancel()
	f, err := v.known(ctx, u.Key())
	if err != nil {
		return nil, false, err
	}
	id := f.AccountID
	var before *credential.Credential
	if id != "" {
		if before = v.served(ctx, id); before != nil && v.owned(before, u) != nil {
			before = nil
		}
	}
	c, err = v.refreshForUser(ctx, r, u, id)
	return c, err == nil && v.isNew(c, before), err
}

// refreshForUser does the work of RefreshForUser. id is the remembered account; empty for none.
func (v *View) refreshForUser(ctx context.Context, r Reader, u User, id string) (*credential.Credential, error) {
	key := u.Key()
	if id != "" {
		if !v.isQuiet(id) {
			v.holdOffs.Retry(heldName(key))
		}
		id = v.healthier(ctx, r.who(), u, id)
		c, err := v.refreshOwned(ctx, r, id, u)
		if !api.IsAccountFault(err) {
			return c, err
		}
	}
	v.retry(heldName(key))
	id, err := v.search(ctx, r.who(), u, v.why(id))
	if err != nil {
		return nil, err
	}
	return v.refreshOwned(ctx, r, id, u)
}

// retry ends a hold-off, unless what it holds off was tried a moment ago.
func (v *View) retry(name string) {
	if time.Since(v.holdOffs.FailedAt(name)) >= RefreshQuiet {
		v.holdOffs.Retry(name)
	}
}

// refreshOwned is like refresh, for an account that was found to be u's.
func (v *View) refreshOwned(ctx context.Context, r Reader, id string, u User) (*credential.Credential, error) {
	c, err := v.refresh(ctx, r, id, true)
	if err == nil {
		err = v.owned(c, u)
	}
	return c, err
}

// ErrUserUnread says that storage could not be read, so that nobody knows which
// account the user has. To search for another one instead could change it.
var ErrUserUnread = errors.New("which account the user has could not be read from Vault's storage")

// known returns what is known of the user with that key.
func (v *View) known(ctx context.Context, key string) (found, error) {
	f, _, err := v.users.Load(ctx, key)
	if err != nil && !errors.Is(err, context.Canceled) {
		return found{}, ErrUserUnread
	}
	return f, err
}

// rememberUser replaces the account that the user was known to have, empty for none, and
// returns the one that is remembered then. A search of the generation before may have
// ended only now, and changes nothing that was found since.
func (v *View) rememberUser(key, before, id string) string {
	return v.users.Update(key, func(latest found, known bool) (found, bool) {
		if known && latest.AccountID != "" && latest.AccountID != before {
			return latest, false
		}
		changed := latest.AccountID != id
		latest.User, latest.AccountID = key, id
		return latest, changed
	}).AccountID
}

// forgetUser forgets the account of the user, unless another one was found since.
func (c *Cache) forgetUser(key, id string) {
	f, ok := c.users.Peek(key)
	switch awaited := f.isAwaited(time.Now()); {
	case ok && f.AccountID != id, awaited && id == "":
	case awaited:
		c.users.Replace(c.ctx, key, func(latest found) bool { return latest.AccountID == id }, found{User: key, Links: f.Links})
	default:
		c.users.Delete(key)
	}
}

// getOwned is like get, for an account that was found to be u's.
func (v *View) getOwned(ctx context.Context, r Reader, id string, u User) (*credential.Credential, error) {
	e, err := v.get(ctx, r, id, true)
	if err == nil {
		err = v.owned(e.Credential, u)
	}
	if err != nil {
		return nil, err
	}
	return e.Credential, nil
}

// owned returns an error unless c is known to be u's. Not every answer for one
// account says whose it is, and with a new token the account may be another user's.
// The list says whose it is.
func (v *View) owned(c *credential.Credential, u User) error {
	switch {
	case c.ExternalUser != u.ExternalID:
		return v.client.NoAccount(u.ExternalID, u.App)
	case u.OAuthApp != "" && c.OAuthApp != "" && c.OAuthApp != u.OAuthApp: // a link changed it
		return api.WithOtherClient(v.client.NoAccount(u.ExternalID, u.App))
	default:
		return nil
	}
}
