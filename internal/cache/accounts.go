package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/flight"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// Owned is an account of a user as Pipedream's list has it, without its credentials.
// It may be dead or unhealthy.
type Owned struct {
	*api.Account // whose Credentials are nil

	// HasCredentials is not set for an account on Pipedream's own OAuth client, or one
	// that is not fully connected.
	HasCredentials bool
}

// listing is what a list of a user's accounts brought.
type listing struct {
	accounts  []*api.Account // that are the user's, the one created last first
	elsewhere []*api.Account // the user's too, but on another OAuth client
	asked     time.Time      // before its first page was asked for
}

// owned returns the accounts of the listing without their credentials.
func (l *listing) owned() []*Owned { return bare(l.accounts) }

// has reports whether the listing has the account with that id.
func (l *listing) has(id string) bool {
	return slices.ContainsFunc(l.accounts, func(a *api.Account) bool { return a.ID == id })
}

// account returns the account of the listing with that id, which it must have.
func (l *listing) account(id string) *api.Account {
	return l.accounts[slices.IndexFunc(l.accounts, func(a *api.Account) bool { return a.ID == id })]
}

// bare returns accounts without their credentials.
func bare(accounts []*api.Account) []*Owned {
	owned := make([]*Owned, len(accounts))
	for i, a := range accounts {
		bare := *a
		bare.Credentials = nil
		owned[i] = &Owned{Account: &bare, HasCredentials: len(a.Credentials) > 0}
	}
	return owned
}

// Accounts returns all accounts that u has with its app, in whatever state, the one
// created last first. It asks Pipedream for all pages of them, and all who ask at the
// same time share that. known is the account that u is known to have; empty for none. Its
// errors are of type [*api.Error], or that of ctx.
func (v *View) Accounts(ctx context.Context, class pace.Class, caller pace.Caller, u User, known string) ([]*Owned, error) {
	l, err := v.listSurely(ctx, class, caller, u, known)
	if err != nil {
		return nil, err
	}
	return l.owned(), nil
}

// listSurely is like listShared, for what changes with the answer. One list without any
// account of a user who is known to have one proves nothing.
func (v *View) listSurely(ctx context.Context, class pace.Class, caller pace.Caller, u User, known string) (*listing, error) {
	l, err := v.listShared(ctx, class, caller, u)
	if err == nil && known != "" && len(l.accounts) == 0 {
		return v.listShared(ctx, class, caller, u)
	}
	return l, err
}

// listShared is like [View.Accounts], with the credentials.
func (v *View) listShared(ctx context.Context, class pace.Class, caller pace.Caller, u User) (*listing, error) {
	ctx, cancel := v.deadline(ctx)
	defer cancel()
	var f *flight.Flight[*listing]
	l, err := flight.Await(ctx, func() (_ *flight.Flight[*listing], joined bool) {
		f, joined = v.lists.Start(u.Key(), v.budget, class, caller, v.logger(), func(claim *pace.Claim) (*listing, error) {
			if err := v.holdOffs.CheckAll(); err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(v.ctx, v.client.Timeout())
			defer cancel()
			return v.listOwn(claim.With(ctx), u)
		})
		return f, joined
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = v.fetcher.OverdueSearch(f.Claim, f.Began)
	}
	return l, err
}

// listOwn asks Pipedream for the accounts of u.
func (v *View) listOwn(ctx context.Context, u User) (*listing, error) {
	l := &listing{asked: time.Now()}
	ofApp := User{App: u.App, ExternalID: u.ExternalID} // whatever their client, to tell which have another one
	all, err := v.listOnce(ctx, ofApp)
	if err != nil {
		return nil, err
	}
	isUnsure := func(a *api.Account) bool { return u.OAuthApp != "" && a.App.ID != u.OAuthApp && u.owns(a) }
	sure := map[string]bool{}
	if slices.ContainsFunc(all, isUnsure) { // not every account shows its client; the filter knows
		ofClient, err := v.listOnce(ctx, u)
		if err != nil {
			return nil, err
		}
		for _, a := range ofClient {
			sure[a.ID] = true
		}
	}
	for _, a := range all {
		if u.owns(a) && (!isUnsure(a) || sure[a.ID]) {
			l.accounts = append(l.accounts, a)
		} else {
			l.elsewhere = append(l.elsewhere, a)
		}
	}
	v.noteList(u, l)
	return l, nil
}

// listOnce asks Pipedream for the accounts of u, and returns those that u owns, the one
// created last first. If one of them was removed meanwhile, it asks again.
func (v *View) listOnce(ctx context.Context, u User) (accounts []*api.Account, err error) {
	asked := time.Now()
	all, err := v.client.Search(ctx, api.Filter{App: u.App, OAuthApp: u.OAuthApp, ExternalUser: u.ExternalID})
	if err != nil {
		return nil, err
	}
	if v.outdated(all, asked) {
		return v.listOnce(ctx, u)
	}
	return u.own(all), nil
}

// outdated reports whether one of the accounts was removed since they were asked for.
func (v *View) outdated(accounts []*api.Account, asked time.Time) bool {
	return slices.ContainsFunc(accounts, func(a *api.Account) bool { return v.removed.isOutdated(a.ID, a.ExternalID, asked) })
}

// own returns those of the accounts that u owns, the one created last first.
func (u User) own(all []*api.Account) (accounts []*api.Account) {
	seen := map[string]bool{} // a list that changes meanwhile can show an account twice
	for _, a := range all {
		if api.ValidAccountID(a.ID) && u.owns(a) && !seen[a.ID] {
			seen[a.ID] = true
			accounts = append(accounts, a)
		}
	}
	slices.SortStableFunc(accounts, func(a, b *api.Account) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(b.ID, a.ID))
	})
	return accounts
}

// ChoiceError says that a text names none of a user's accounts, or more than one.
type ChoiceError struct {
	Named    string   // the text
	Matches  int      // how many accounts have that name: 0, or more than 1
	Accounts []*Owned // all that there are, at least one
}

// Error returns a text for log lines. It names neither the user nor the accounts.
func (e *ChoiceError) Error() string {
	return fmt.Sprintf("%d of the user's %d accounts have that id or name", e.Matches, len(e.Accounts))
}

// Choose returns the account of u that is named by its id or its name. accounts are all
// that u has, from [View.Accounts]. What begins with apn_ is always an id. A name must
// be that of one account exactly. The error is a [*ChoiceError], or that u has no
// account.
func (v *View) Choose(accounts []*Owned, u User, named string) (*Owned, error) {
	matches := func(a *Owned) bool { return named != "" && a.Name == named }
	if isID(named) {
		matches = func(a *Owned) bool { return a.ID == named }
	}
	var chosen *Owned
	n := 0
	for _, a := range accounts {
		if matches(a) {
			chosen = a
			n++
		}
	}
	switch {
	case len(accounts) == 0:
		return nil, v.client.NoAccount(u.ExternalID, u.App)
	case n != 1:
		return nil, &ChoiceError{Named: named, Matches: n, Accounts: accounts}
	default:
		return chosen, nil
	}
}

// choice is the account that a user chose by a text.
type choice struct {
	id string
	at time.Time // of the list that showed it
}

const (
	// maxChoices bounds how many choices are remembered.
	maxChoices = 10_000
	// choiceQuiet is how long a choice whose account is at fault is not made again.
	choiceQuiet = time.Minute
)

func choiceName(key, named string) string { return key + "/" + named }

// choicesName returns the name of a user's accounts in the hold-offs.
func choicesName(key string) string { return heldName(key) + "/accounts" }

func isID(named string) bool { return strings.HasPrefix(named, api.AccountIDPrefix) }

// suits returns an error unless c is u's, and of the account that has that id or name.
func (v *View) suits(c *credential.Credential, u User, named string) error {
	if err := v.owned(c, u); err != nil {
		return err
	}
	if !isID(named) && c.AccountName != named {
		return v.client.NoAccount(u.ExternalID, u.App)
	}
	return nil
}

// GetChosen is like [View.GetForUser], for the account of u that is named as in
// [View.Choose]. The choice is remembered, and made again if the account is at fault or
// has another name. Its errors can also be a [*ChoiceError].
func (v *View) GetChosen(ctx context.Context, r Reader, u User, named string) (*credential.Credential, error) {
	if e := v.freshChosen(r, u, named); e != nil {
		return e.Credential, nil
	}
	return v.withChosen(ctx, r, u, named, func(ctx context.Context, id string) (*credential.Credential, error) {
		return v.getOwned(ctx, r, id, u)
	})
}

// RefreshChosen is like [View.Refresh], for the account that [View.GetChosen] reads.
func (v *View) RefreshChosen(ctx context.Context, r Reader, u User, named string) (c *credential.Credential, changed bool, err error) {
	var before *credential.Credential
	c, err = v.withChosen(ctx, r, u, named, func(ctx context.Context, id string) (*credential.Credential, error) {
		if before = v.served(ctx, id); before != nil && v.suits(before, u, named) != nil {
			before = nil
		}
		return v.refreshOwned(ctx, r, id, u)
	})
	return c, err == nil && v.isNew(c, before), err
}

// freshChosen is like fresh, for a choice that is remembered.
func (v *View) freshChosen(r Reader, u User, named string) *entry {
	key := u.Key()
	known, ok := v.choices.Get(choiceName(key, named))
	if f, _ := v.users.Get(key); !ok || v.lookIsDue(key, f) {
		return nil
	}
	e, ok := v.credentials.Get(known.id)
	if !ok || v.suits(e.Credential, u, named) != nil {
		return nil
	}
	return v.serveFresh(r, e)
}

// withChosen gets the credential of the account that is named.
func (v *View) withChosen(ctx context.Context, r Reader, u User, named string,
	get func(context.Context, string) (*credential.Credential, error),
) (*credential.Credential, error) {
	ctx, cancel := v.deadline(ctx)
	defer cancel()
	if f, err := v.known(ctx, u.Key()); err == nil { // otherwise it can still be listed
		v.look(ctx, r.who(), u, f)
	}
	checked := func(id string) (*credential.Credential, error) {
		c, err := get(ctx, id)
		if err == nil {
			err = v.suits(c, u, named)
		}
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	if known, ok := v.choices.Get(choiceName(u.Key(), named)); ok {
		c, err := checked(known.id)
		if !api.IsAccountFault(err) || !v.why(known.id).unclaimed && (isID(named) || time.Since(known.at) < choiceQuiet) {
			return c, err
		}
	}
	id, err := v.choose(ctx, r.who(), u, named)
	if api.KindOf(err) != 0 && !api.IsAccountFault(err) && v.isCachedOf(ctx, named, u) { // the list cannot be had
		id, err = named, nil
	}
	if err != nil {
		return nil, err
	}
	return checked(id)
}

// isCachedOf reports whether what is cached shows that an id is that of an account of u.
func (v *View) isCachedOf(ctx context.Context, id string, u User) bool {
	if !isID(id) {
		return false
	}
	c := v.served(ctx, id)
	return c != nil && c.ExternalUser == u.ExternalID && c.App == u.App && (u.OAuthApp == "" || c.OAuthApp == u.OAuthApp)
}

// choose makes a choice and remembers it. A text that names no account has the user's
// accounts not be listed again for a while, and others are chosen from what it showed.
func (v *View) choose(ctx context.Context, caller pace.Caller, u User, named string) (string, error) {
	name := choicesName(u.Key())
	switch held, known := v.holdOffs.Check(name), (*ChoiceError)(nil); {
	case errors.As(held, &known):
		chosen, err := v.Choose(known.Accounts, u, named)
		if err != nil {
			return "", err
		}
		return chosen.ID, nil
	case held != nil:
		return "", held
	}
	l, err := v.listShared(ctx, v.fetcher.Class(name, false), caller, u)
	if err != nil {
		v.holdUserOff(name, err)
		return "", err
	}
	chosen, err := v.Choose(l.owned(), u, named)
	if err != nil {
		if !v.holdOffs.Held(name) { // by another reader of the same list
			v.holdOffs.Failed(name, backoff.Failure{Err: err, Lasting: true, Exists: len(l.accounts) > 0})
		}
		return "", err
	}
	v.holdOffs.Succeeded(name)
	v.choices.Add(choiceName(u.Key(), named), choice{id: chosen.ID, at: l.asked})
	v.offer(l.account(chosen.ID), l.asked)
	return chosen.ID, nil
}
