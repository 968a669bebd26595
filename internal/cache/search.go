package cache

import (
	"context"
	"errors"
	"slices"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/flight"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// reason is why a user is searched for.
type reason struct {
	// known is the account that the user is known to have; empty for none.
	known string
	// atFault is set if known turned out to be at fault.
	atFault bool
	// unclaimed is set if no answer said whose known is, so that the list is asked. That is
	// no fault of known.
	unclaimed bool
	// bare is set if the account is used without its credentials.
	bare bool
}

// why returns why a user is searched for whose known account has the id, empty for none,
// and whose read ended with an error.
func (v *View) why(id string) reason {
	e, ok := v.credentials.Peek(id)
	unclaimed := ok && e.ExternalUser == "" && v.servable(e.Credential, v.clock.Now())
	return reason{known: id, atFault: id != "" && !unclaimed, unclaimed: unclaimed}
}

// reasonOf returns why r searches for a user whose known account has the id, as a list of
// their accounts shows it; empty for none.
func (r Reader) reasonOf(accounts []*Owned, id string) reason {
	lives := slices.ContainsFunc(accounts, func(a *Owned) bool { return a.ID == id && !a.Dead && (a.HasCredentials || r.Bare) })
	return reason{known: id, atFault: id != "" && !lives, bare: r.Bare}
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
	if err == nil && why.unclaimed && !own.has(why.known) { // one list proves nothing
		own, err = v.listOwn(claim.With(ctx), u)
		why.atFault = err == nil && !own.has(why.known)
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
	case a.ID == why.known && why.unclaimed: // now it is known whose it is
		v.holdOffs.Succeeded(heldName(key))
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

// holdUserOff keeps searches for a user back for a while.
func (v *View) holdUserOff(name string, err error) {
	var e *api.Error
	if errors.As(err, &e) && !e.AffectsAll() {
		refused := e.Kind == api.Forbidden || e.Kind == api.NotFound // the list, for everybody
		v.holdOffs.Failed(name, backoff.Failure{Err: e, Lasting: refused || e.IsAccountFault(), Exists: refused})
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
