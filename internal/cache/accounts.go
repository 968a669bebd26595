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
	accounts []*api.Account // that are the user's, the one created last first
	asked    time.Time      // before its first page was asked for
}

// owned returns the accounts of the listing without their credentials.
func (l *listing) owned() []*Owned {
	accounts := make([]*Owned, len(l.accounts))
	for i, a := range l.accounts {
		bare := *a
		bare.Credentials = nil
		accounts[i] = &Owned{Account: &bare, HasCredentials: len(a.Credentials) > 0}
	}
	return accounts
}

// Accounts returns all accounts that u has with its app, in whatever state, the one
// created last first. It asks Pipedream for all pages of them, and all who ask at the
// same time share that. Its errors are of type [*api.Error], or that of ctx.
func (v *View) Accounts(ctx context.Context, class pace.Class, caller pace.Caller, u User) ([]*Owned, error) {
	l, err := v.listShared(ctx, class, caller, u)
	if err != nil {
		return nil, err
	}
	return l.owned(), nil
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
	found, err := v.client.Search(ctx, api.Filter{App: u.App, OAuthApp: u.OAuthApp, ExternalUser: u.ExternalID})
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{} // a list that changes meanwhile can show an account twice
	for _, a := range found {
		if api.ValidAccountID(a.ID) && u.owns(a) && !seen[a.ID] {
			seen[a.ID] = true
			l.accounts = append(l.accounts, a)
		}
	}
	slices.SortStableFunc(l.accounts, func(a, b *api.Account) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(b.ID, a.ID))
	})
	return l, nil
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
	if strings.HasPrefix(named, "apn_") {
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
