package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/durable"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// User is an external user and an app. It stands for the account that the user has
// with the app.
type User struct {
	App        string // slug or id
	OAuthApp   string // id of a custom OAuth client; empty for any
	ExternalID string
}

// Key returns a name for u that any storage accepts, whatever characters u has.
func (u User) Key() string {
	parts := []string{u.App, u.ExternalID}
	if u.OAuthApp != "" {
		parts = append(parts, u.OAuthApp)
	}
	text, err := json.Marshal(parts)
	if err != nil { // strings always marshal
		panic(err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// owns reports whether a is an account of u. Pipedream was asked for such accounts
// only, but no credential may depend on how it reads a filter.
func (u User) owns(a *api.Account) bool {
	return u.ExternalID != "" && a.ExternalID == u.ExternalID && u.isOfApp(a.App)
}

// isOfApp compares u's app with that of an account, as far as they can be compared.
// For an account on a custom OAuth client, the app's id is that of the client.
func (u User) isOfApp(app api.App) bool {
	custom := strings.HasPrefix(app.ID, "oa_")
	switch {
	case app.Slug == "" && app.ID == "":
		return false
	case u.OAuthApp != "" && custom && app.ID != u.OAuthApp:
		return false
	default:
		return app.Slug == "" || app.Slug == u.App
	}
}

// better reports whether Pipedream would take a rather than b: a healthy account
// rather than an unhealthy one, and otherwise the one created last. updated_at does
// not count, because it changes with each refresh.
func better(a, b *api.Account) bool {
	switch {
	case b == nil:
		return true
	case a.Healthy != b.Healthy:
		return a.Healthy
	case !a.CreatedAt.Equal(b.CreatedAt):
		return a.CreatedAt.After(b.CreatedAt)
	default:
		return a.ID > b.ID
	}
}

// found is the account that a user was found to have.
type found struct {
	User      string `json:"user"` // key
	AccountID string `json:"account_id"`
}

var userCodec = durable.Codec[found]{
	Name:   "user's account",
	Encode: func(f found) ([]byte, error) { return json.Marshal(f) },
	Decode: func(key string, stored []byte) (f found, err error) {
		if json.Unmarshal(stored, &f) != nil || f.User != key || !api.ValidAccountID(f.AccountID) {
			return found{}, errNotOurs
		}
		return f, nil
	},
	Size: func(f found) int { return 256 + len(f.User) + len(f.AccountID) },
}

// heldName returns the name of a user in the hold-offs.
func heldName(key string) string { return usersFolder + key }

// GetOf returns a live credential of u's account. If the remembered account is at
// fault, GetOf searches for u once more, since the user may have connected again,
// under another id.
func (v *View) GetOf(ctx context.Context, r Reader, u User) (*credential.Credential, error) {
	if e := v.freshOf(r, u); e != nil {
		return e.Credential, nil
	}
	ctx, cancel := v.deadline(ctx) // for all of it
	defer cancel()
	key := u.Key()
	id, err := v.remembered(ctx, key)
	if err != nil {
		return nil, err
	}
	if id != "" {
		id = v.healthier(ctx, r.Caller, u, id)
		c, err := v.getOwned(ctx, r, id, u)
		if err == nil {
			v.keepUser(key, id)
		}
		if !api.OfAccount(err) {
			return c, err
		}
	}
	again, err := v.search(ctx, r.Caller, u, id)
	if err != nil {
		return nil, err
	}
	return v.getOwned(ctx, r, again, u)
}

// freshOf is like fresh, for a user whose account is in memory.
func (v *View) freshOf(r Reader, u User) *entry {
	key := u.Key()
	f, ok := v.users.Get(key)
	if !ok {
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
func (v *View) healthier(ctx context.Context, caller string, u User, remembered string) string {
	key := u.Key()
	e, ok := v.credentials.Peek(remembered)
	if !ok || !v.lookForHealthier(key, e) {
		return remembered
	}
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	found, err := v.search(ctx, caller, u, remembered)
	if err == nil {
		return found
	}
	if !v.holdOffs.Held(heldName(key)) { // the reader ran out of patience, or the budget is used up
		v.holdOffs.Failed(heldName(key), pace.Failure{Err: err, Lasting: true, Exists: true})
	}
	return remembered
}

// RefreshOf is like [View.Refresh], for u's account, which it finds like
// [View.GetOf].
func (v *View) RefreshOf(ctx context.Context, r Reader, u User) (c *credential.Credential, changed bool, err error) {
	ctx, cancel := v.deadline(ctx)
	defer cancel()
	key := u.Key()
	id, err := v.remembered(ctx, key)
	if err != nil {
		return nil, false, err
	}
	if id != "" {
		if !v.isQuiet(id) {
			v.holdOffs.Retry(heldName(key))
		}
		id = v.healthier(ctx, r.Caller, u, id)
		c, changed, err = v.refresh(ctx, r, id)
		if err == nil {
			err = v.owned(c, u)
		}
		if err == nil {
			v.keepUser(key, id)
		}
		if !api.OfAccount(err) {
			return c, changed, err
		}
	}
	v.holdOffs.Retry(heldName(key))
	if id, err = v.search(ctx, r.Caller, u, id); err != nil {
		return nil, false, err
	}
	if c, changed, err = v.refresh(ctx, r, id); err == nil {
		err = v.owned(c, u)
	}
	return c, changed, err
}

// Expect says that u is about to connect an account. Until that time, reads by u
// search for it every few seconds at most, however often it is not there.
func (v *View) Expect(u User, until time.Time) { v.holdOffs.Expect(heldName(u.Key()), until) }

// remembered returns the account that the user with that key was found to have;
// empty for none.
func (v *View) remembered(ctx context.Context, key string) (string, error) {
	f, _, err := v.users.Load(ctx, key)
	return f.AccountID, err
}

// keepUser remembers a user who was just served. A sweep may have forgotten the
// user, because the account was not cached before.
func (v *View) keepUser(key, id string) {
	if _, ok := v.users.Peek(key); !ok {
		v.rememberUser(key, id)
	}
}

func (v *View) rememberUser(key, id string) {
	v.users.Update(key, func(latest found, known bool) (found, bool) {
		f := found{User: key, AccountID: id}
		return f, !known || latest != f
	})
}

// search finds u's account through the list. failed is an account of u that turned
// out to be at fault. All readers who search for u share one search. A search that
// finds nothing better holds the next one off.
func (v *View) search(ctx context.Context, caller string, u User, failed string) (string, error) {
	key := u.Key()
	if failed != "" {
		v.holdOffs.Lost(heldName(key), failed)
	}
	class := v.fetcher.Class(heldName(key), failed != "")
	id, err := await(ctx, func() (*flight[string], bool) {
		return v.searches.start(key, v.budget, class, caller, v.logger(), func(claim *pace.Claim) (string, error) {
			return v.searchNow(claim, u, failed)
		})
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = v.client.NoAnswer("")
	}
	return id, err
}

// searchNow does the search that all readers share.
func (v *View) searchNow(claim *pace.Claim, u User, failed string) (string, error) {
	key := u.Key()
	if f, ok := v.users.Peek(key); ok && f.AccountID != failed {
		return f.AccountID, nil // from a search that ended since
	}
	if err := v.holdOffs.Check(heldName(key)); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(v.ctx, v.client.Timeout())
	defer cancel()
	began := time.Now()
	a, err := v.list(claim.With(ctx), u, failed)
	switch {
	case err != nil:
		if api.OfAccount(err) && !v.serves(ctx, failed, u) {
			v.users.Delete(key)
		}
		v.holdUserOff(key, err)
		return "", err
	case a.ID == failed: // there is nothing better
		v.holdOffs.Failed(heldName(key), pace.Failure{Err: v.client.NoAccount(u.ExternalID, u.App), Lasting: true, Exists: true})
	default:
		v.holdOffs.Succeeded(heldName(key))
	}
	v.offer(a, began) // before others learn of the account, because they would fetch it
	v.rememberUser(key, a.ID)
	return a.ID, nil
}

// serves reports whether a live credential of the account may be cached that is u's.
// Then a list without the account is no reason to forget that it is u's.
func (v *View) serves(ctx context.Context, id string, u User) bool {
	if id == "" {
		return false
	}
	e, err := v.lookup(ctx, id)
	return err != nil || e != nil && e.Servable(time.Now()) && v.owned(e.Credential, u) == nil
}

// list returns u's account: the one that seemed to be at fault if it is not, or else a
// healthy one if there is any.
func (v *View) list(ctx context.Context, u User, failed string) (*api.Account, error) {
	accounts, err := v.client.Search(ctx, api.Filter{App: u.App, OAuthApp: u.OAuthApp, ExternalUser: u.ExternalID})
	if err != nil {
		return nil, err
	}
	var best *api.Account
	for _, a := range accounts {
		switch eligible := a.Healthy || len(a.Credentials) > 0; {
		case !api.ValidAccountID(a.ID) || !u.owns(a) || a.Dead || !eligible:
		case a.ID == failed && a.Healthy && len(a.Credentials) > 0:
			return a, nil
		case better(a, best):
			best = a
		}
	}
	if best == nil {
		return nil, v.client.NoAccount(u.ExternalID, u.App)
	}
	return best, nil
}

func (v *View) holdUserOff(key string, err error) {
	var e *api.Error
	if errors.As(err, &e) && !e.OfAll() {
		refused := e.Kind == api.Forbidden || e.Kind == api.NotFound // the list, for everybody
		v.holdOffs.Failed(heldName(key), pace.Failure{Err: e, Lasting: refused || e.OfAccount(), Exists: refused})
	}
}

// offer caches the credential of an account that a list brought, if it can be
// served.
func (v *View) offer(a *api.Account, at time.Time) {
	c, err := credential.New(a, at, v.policy.ExposeRefreshToken)
	if err == nil && c.Servable(time.Now()) && at.After(v.holdOffs.FailedAt(a.ID)) {
		v.keep(c, false)
	}
}

// getOwned is like get, for an account that was found to be u's.
func (v *View) getOwned(ctx context.Context, r Reader, id string, u User) (*credential.Credential, error) {
	e, err := v.get(ctx, r, id)
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
	if c.ExternalUser != u.ExternalID {
		return v.client.NoAccount(u.ExternalID, u.App)
	}
	return nil
}
