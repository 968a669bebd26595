package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/durable"
	"vault-plugin-secrets-pipedream/internal/flight"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// User is an external user and an app. It stands for the account that the user has
// with the app.
type User struct {
	App        string // slug or id; empty for all apps
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
	case u.App == "":
		return true
	case app.Slug == "" && app.ID == "":
		return false
	case u.OAuthApp != "" && custom && app.ID != u.OAuthApp:
		return false
	default:
		return app.Slug == "" || app.Slug == u.App
	}
}

// better reports whether a serves its user better than b: an account with credentials
// rather than one without, a healthy one rather than an unhealthy one, and otherwise
// the one created last, as in Pipedream's own workflows. updated_at does not count,
// because it changes with each refresh.
func better(a, b *Owned) bool {
	switch {
	case b == nil:
		return true
	case a.HasCredentials != b.HasCredentials:
		return a.HasCredentials
	case a.Healthy != b.Healthy:
		return a.Healthy
	case !a.CreatedAt.Equal(b.CreatedAt):
		return a.CreatedAt.After(b.CreatedAt)
	default:
		return a.ID > b.ID
	}
}

// found is the account that a user was found to have, and the user's Connect links. It
// never changes once it is made.
type found struct {
	User      string `json:"user"`                 // key
	AccountID string `json:"account_id,omitempty"` // empty for none
	Links     []link `json:"links,omitempty"`
}

var userCodec = durable.Codec[found]{
	Name:   "user's account",
	Encode: func(f found) ([]byte, error) { return json.Marshal(f) },
	Decode: func(key string, stored []byte) (f found, err error) {
		if json.Unmarshal(stored, &f) != nil || f.User != key || f.AccountID == "" && len(f.Links) == 0 ||
			f.AccountID != "" && !api.ValidAccountID(f.AccountID) {
			return found{}, errNotOurs
		}
		return f, nil
	},
	Size: func(f found) int {
		size := 256 + len(f.User) + len(f.AccountID)
		for i := range f.Links {
			size += f.Links[i].size()
		}
		return size
	},
}

// heldName returns the name of a user in the hold-offs.
func heldName(key string) string { return "users/" + key }

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
		if !api.OfAccount(err) && api.KindOf(err) != api.Unauthorized { // nothing is live
			return c, err
		}
	}
	again, err := v.search(ctx, r.who(), u, reason{known: id, atFault: id != ""})
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
	return c, err == nil && isNew(c, before), err
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
		if !api.OfAccount(err) {
			return c, err
		}
	}
	if time.Since(v.holdOffs.FailedAt(heldName(key))) >= RefreshQuiet { // else it was searched for a moment ago
		v.holdOffs.Retry(heldName(key))
	}
	id, err := v.search(ctx, r.who(), u, reason{known: id, atFault: id != ""})
	if err != nil {
		return nil, err
	}
	return v.refreshOwned(ctx, r, id, u)
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

// reason is why a user is searched for.
type reason struct {
	// known is the account that the user is known to have; empty for none.
	known string
	// atFault is set if known turned out to be at fault.
	atFault bool
	// bare is set if the account is used without its credentials.
	bare bool
}

// reasonOf returns why a user is searched for whose known account has the id, as a list
// of their accounts shows it; empty for none.
func reasonOf(accounts []*Owned, id string) reason {
	lives := slices.ContainsFunc(accounts, func(a *Owned) bool { return a.ID == id && !a.Dead })
	return reason{known: id, atFault: id != "" && !lives}
}

// search finds u's account through the list. All readers who search for u share one
// search. A search that finds nothing better holds the next one off.
func (v *View) search(ctx context.Context, caller pace.Caller, u User, why reason) (string, error) {
	key := u.Key()
	if why.known != "" {
		v.holdOffs.Lost(heldName(key), why.known)
	}
	class := v.fetcher.Class(heldName(key), why.known != "")
	var f *flight.Flight[string]
	id, err := flight.Await(ctx, func() (_ *flight.Flight[string], joined bool) {
		f, joined = v.searches.Start(key, v.budget, class, caller, v.logger(), func(claim *pace.Claim) (string, error) {
			return v.searchNow(claim, class, caller, u, why)
		})
		return f, joined
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = v.fetcher.OverdueSearch(f.Claim, f.Began)
	}
	return id, err
}

// searchNow does the search that all readers share.
func (v *View) searchNow(claim *pace.Claim, class pace.Class, caller pace.Caller, u User, why reason) (string, error) {
	key := u.Key()
	if f, ok := v.users.Peek(key); ok && f.AccountID != "" && f.AccountID != why.known {
		return f.AccountID, nil // from a search that ended since
	}
	if err := v.holdOffs.Check(heldName(key)); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(v.ctx, v.client.Timeout())
	defer cancel()
	own, err := v.fromRoster(ctx, class, caller, u, why), error(nil)
	if own == nil {
		own, err = v.listOwn(claim.With(ctx), u)
	}
	var a *api.Account
	if err == nil {
		a, err = v.chosen(own, u, why)
	}
	switch {
	case err != nil:
		if _, noted := v.users.Peek(key); (why.atFault || noted && why.known == "") && api.KindOf(err) == api.NoAccount {
			v.forgetUser(key, why.known)
		}
		v.holdUserOff(heldName(key), err)
		return "", err
	case a.ID == why.known: // there is nothing better
		v.holdOffs.Failed(heldName(key), backoff.Failure{Err: v.client.NoAccount(u.ExternalID, u.App), Lasting: true, Exists: true})
	default:
		v.holdOffs.Succeeded(heldName(key))
	}
	v.offer(a, own.asked) // before others learn of the account, because they would fetch it
	return v.rememberUser(key, why.known, a.ID), nil
}

// chosen returns the account of a list to serve. That is the known one, unless it is at
// fault: it may be unhealthy while another is not, or the answer that found it at
// fault may be right.
func (v *View) chosen(own *listing, u User, why reason) (*api.Account, error) {
	chosen, err := v.best(own, u, why)
	if err != nil {
		return nil, err
	}
	return own.account(chosen.ID), nil
}

// best returns the account of a list to serve.
func (v *View) best(l *listing, u User, why reason) (*Owned, error) {
	chosen, err := v.bestOf(l.owned(), u, why)
	if err != nil && len(l.elsewhere) > 0 {
		err = api.WithOtherClient(err)
	}
	return chosen, err
}

// bestOf does the work of best.
func (v *View) bestOf(accounts []*Owned, u User, why reason) (*Owned, error) {
	var best, known *Owned
	for _, a := range accounts {
		eligible := a.Healthy || a.HasCredentials || why.bare
		if a.Dead || !eligible {
			continue
		}
		if better(a, best) {
			best = a
		}
		if a.ID == why.known {
			known = a
		}
	}
	switch {
	case best == nil:
		return nil, v.client.NoAccount(u.ExternalID, u.App)
	case why.known == "", known == nil && why.atFault, best.Healthy && (known == nil || !known.Healthy):
		return best, nil
	case known == nil: // one list without it proves nothing
		return nil, v.client.NoAccount(u.ExternalID, u.App)
	case why.atFault && !known.HasCredentials && best.HasCredentials:
		return best, nil
	default:
		return known, nil
	}
}

func (v *View) holdUserOff(name string, err error) {
	var e *api.Error
	if errors.As(err, &e) && !e.OfAll() {
		refused := e.Kind == api.Forbidden || e.Kind == api.NotFound // the list, for everybody
		v.holdOffs.Failed(name, backoff.Failure{Err: e, Lasting: refused || e.OfAccount(), Exists: refused})
	}
}

// offer caches the credential of an account that a list brought, if it can be
// served.
func (v *View) offer(a *api.Account, at time.Time) {
	c, err := credential.New(a, at, v.policy.ExposeRefreshToken)
	if err == nil && v.servable(c, v.clock.Now()) && at.After(v.holdOffs.FailedAt(a.ID)) {
		v.keep(c, false)
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
	if c.ExternalUser != u.ExternalID {
		return v.client.NoAccount(u.ExternalID, u.App)
	}
	return nil
}
