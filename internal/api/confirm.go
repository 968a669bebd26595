package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"vault-plugin-secrets-pipedream/internal/guard"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/redact"
)

const (
	// maxBelieved bounds how many accounts are remembered whose refusal was confirmed.
	maxBelieved = 10_000
	// maxProven is how many accounts that Pipedream answered for are remembered. There
	// is more than one, because a refused account proves nothing about itself.
	maxProven = 2
)

// probe is a request that shows whether Pipedream still answers the bearer. All who
// need one share it until it goes out. That is when the one before it has ended.
type probe struct {
	redact.Opaque

	bearer redact.Secret
	before *probe // nil for none
	claim  *pace.Claim
	done   chan struct{} // closed once err is set
	err    error
}

// isRefused reports whether an answer says that something may not be read, or is not
// there.
func isRefused(kind Kind) bool { return kind == Forbidden || kind == NotFound }

// confirmed returns the error for a request about one account that ended with err. If
// that is a refusal in Pipedream's form, it may still be about everything, and a
// gateway can have such a form. So a probe that begins afterwards must work before
// confirmed says that it is about the account. If the last refusal of the account was
// confirmed, the next one like it is believed, so that guessing costs one probe for a
// name at most. A 401 is never believed: the key may have been revoked since.
func (c *Client) confirmed(ctx context.Context, r request, err error) error {
	kind := KindOf(err)
	if c.noteOutcome(r.account, kind, err == nil) {
		return err
	}
	if kind != KeyRefused && !isRefused(kind) {
		return err
	}
	var probed *Error
	switch probe := c.probe(ctx, r.bearer); {
	case probe == nil:
	case !errors.As(probe, &probed):
		return probe // ctx has ended
	case isRefused(probed.Kind) && kind != KeyRefused:
		return probed // nothing works, so nobody knows whether the account is at fault
	case !isRefused(probed.Kind):
		return probed.WithAccount(r.account)
	}
	if kind == KeyRefused {
		return c.facts(&Error{Kind: Unauthorized, Account: r.account, Status: http.StatusUnauthorized})
	}
	if r.what != ForAccount && c.budget.ClassOf(ctx) != pace.Unproven {
		return err // its credential may be live, and one answer about that is not enough
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.believed.Add(r.account, kind)
	return err
}

// noteOutcome notes how a request about an account ended. It reports whether that is a
// refusal that was confirmed before.
func (c *Client) noteOutcome(id string, kind Kind, worked bool) (believed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, known := c.believed.Get(id)
	if known && last == kind {
		return true
	}
	c.believed.Remove(id)
	if worked || isRefused(kind) || kind == KeyRefused {
		c.proven = without(c.proven, id)
	}
	if worked {
		c.proven = append(c.proven[max(0, len(c.proven)-maxProven+1):], id)
	}
	return false
}

// listed notes that a page had these accounts, so that their next refusal is news.
func (c *Client) listed(p *Page) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range p.Accounts {
		c.believed.Remove(a.ID)
	}
}

// without returns ids without id, as a new slice.
func without(ids []string, id string) (others []string) {
	for _, other := range ids {
		if other != id {
			others = append(others, other)
		}
	}
	return others
}

// probe asks whether Pipedream still answers the bearer, with a request that begins
// now. The request is charged like the one in ctx. If Pipedream refuses what every
// client should be allowed to read, and no account shows that it answers otherwise,
// probe returns that refusal.
func (c *Client) probe(ctx context.Context, bearer redact.Secret) error {
	class := c.budget.ClassOf(ctx)
	c.mu.Lock()
	p := c.waiting
	if p == nil || p.bearer != bearer {
		// The engine itself is its caller, so that it has a turn of its own and does not
		// wait for the requests that it is about.
		p = &probe{bearer: bearer, before: c.latest, claim: c.budget.NewClaim(class, pace.Caller{}), done: make(chan struct{})}
		c.waiting, c.latest = p, p
		go c.run(p)
	}
	c.mu.Unlock()
	p.claim.Join(class, pace.Caller{})
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	unsent := c.waiting == p
	c.mu.Unlock()
	if unsent && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &Error{Kind: NoBudget, Wait: p.claim.NextFree()}
	}
	return c.connectionError(ctx, ctx.Err())
}

// run waits for its turn and a slot, and sends the probe. Whoever comes after that needs
// another.
func (c *Client) run(p *probe) {
	defer close(p.done)
	if p.before != nil {
		<-p.before.done
		p.before = nil
	}
	p.err = guard.Run(c.logger(), func() error {
		ctx, cancel := context.WithTimeout(c.ctx, c.config.Timeout)
		defer cancel()
		err := p.claim.Reserve(ctx)
		c.mu.Lock()
		if c.waiting == p {
			c.waiting = nil
		}
		c.mu.Unlock()
		if err != nil {
			return budgetError(err)
		}
		defer p.claim.Refund()
		if err := c.holdOffs.CheckAll(); err != nil {
			return err
		}
		return c.prove(p.claim.With(ctx), p.bearer)
	})
}

// prove asks for what every key or client may read. A client that may not list
// accounts can still be good, so it asks for an account that was read before then.
func (c *Client) prove(ctx context.Context, bearer redact.Secret) error {
	r := c.firstPage(new(Page))
	if c.config.ClientID == "" {
		r = c.user()
	}
	r.method, r.bearer = http.MethodGet, bearer
	refused := c.send(ctx, r)
	if !isRefused(KindOf(refused)) {
		return refused
	}
	c.mu.Lock()
	proven := c.proven
	c.mu.Unlock()
	for _, id := range proven {
		r := request{what: ForCheck, method: http.MethodGet, path: c.accountsPath(url.PathEscape(id)), account: id, bearer: bearer, decode: func(body []byte) error {
			_, err := decodeAccount(body)
			return err
		}}
		if err := c.send(ctx, r); !isRefused(KindOf(err)) {
			return err
		}
		c.mu.Lock()
		c.proven = without(c.proven, id)
		c.mu.Unlock()
	}
	return refused
}

// user is a request for the user of the API key.
func (c *Client) user() request {
	return request{what: ForCheck, path: []string{"users", "me"}, decode: decodeUser}
}

// firstPage is a request for a page of one account, which it decodes into p.
func (c *Client) firstPage(p *Page) request {
	query := url.Values{"limit": {"1"}}
	c.addOrg(query)
	return request{what: ForCheck, path: c.accountsPath(), query: query, decode: func(body []byte) error {
		decoded, err := decodePage(body)
		if err == nil {
			*p = *decoded
		}
		return err
	}}
}
