// Package token hands out tokens for Pipedream's own API. It keeps them in memory alone,
// and all who want the same token share it until it is due.
package token

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/bounded"
	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/flight"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/redact"
)

const (
	// maxTokens and maxBytes bound the tokens in memory.
	maxTokens = 65_536
	maxBytes  = 32 << 20
	// patience is how long a reader waits for the next token while the old one lives.
	patience = 5 * time.Second
	// quiet is how long after a token was made an explicit refresh makes no other one.
	quiet = 5 * time.Second
	// partOfLife bounds the life that a reader may demand to a third of a token's whole
	// life. If it were all of it, each read would make a token.
	partOfLife = 3
)

// Key says what a token is good for. Whoever has the same key may share a token.
type Key struct {
	User string // external user; empty for a token of the workspace
	// Scope is names with spaces between them, and Origins likewise.
	Scope, Origins string
	Life           time.Duration // 0 for a token whose life Pipedream chooses
	// App and OAuthApp name an account of the user that the answer tells too; empty for
	// none.
	App, OAuthApp string
}

// name returns a name for k that no other key has.
func (k Key) name() string {
	text, err := json.Marshal(k)
	if err != nil { // strings and numbers always marshal
		panic(err)
	}
	return string(text)
}

// ofUser returns the name under which all tokens of a user are held off. No key has it.
func ofUser(user string) string { return "user " + user }

// Demand returns what a reader who demands d may demand of t.
func Demand(t *credential.Credential, d credential.Demand, now clock.Moment) credential.Demand {
	most := t.Life(credential.Policy{}, now) / partOfLife
	return credential.Demand{MinTTL: min(d.MinTTL, most), AtLeast: min(d.AtLeast, most)}
}

// How says how a reader was served.
type How int

const (
	// Hit means from memory.
	Hit How = iota + 1
	// Made means with a new token.
	Made
	// Stale means from memory, although the token is due.
	Stale
)

// Maker makes a token. Its requests for it take their slots through the claim, and
// caller is the first who wants it.
type Maker func(ctx context.Context, claim *pace.Claim, caller pace.Caller, k Key) (*credential.Credential, error)

// Cache has the tokens of one connection to Pipedream. It ends with the connection, so
// no other project, environment or client ever gets one of them.
type Cache struct {
	redact.Opaque

	ctx      context.Context // ends when the mount does
	product  api.Product
	timeout  time.Duration // for making one token
	budget   *pace.Budget
	holdOffs *backoff.HoldOffs
	clock    *clock.Clock
	maker    Maker
	logger   func() hclog.Logger
	flights  flight.Group[*credential.Credential]

	mu     sync.Mutex // guards the fields below, and all changes of tokens; never held across I/O
	tokens *bounded.Memory[Key, *credential.Credential]
	making map[*making]struct{}
	closed bool
}

// making is a token that is being made. Cache.mu guards it.
type making struct {
	user    string
	dropped bool // whether the user's tokens were dropped meanwhile
}

// New returns an empty cache of tokens that maker makes. holdOffs are those of the
// client that it makes them with.
func New(ctx context.Context, product api.Product, timeout time.Duration, budget *pace.Budget, holdOffs *backoff.HoldOffs,
	clk *clock.Clock, maker Maker, logger func() hclog.Logger,
) *Cache {
	return &Cache{
		ctx: ctx, product: product, timeout: timeout, budget: budget, holdOffs: holdOffs, clock: clk, maker: maker, logger: logger,
		tokens: bounded.New(maxTokens, maxBytes, size), making: map[*making]struct{}{},
	}
}

func size(k Key, t *credential.Credential) int {
	return t.Size() + len(k.User) + len(k.Scope) + len(k.Origins) + len(k.App) + len(k.OAuthApp)
}

// Get returns a live token. If it is due, Get makes the next one, and serves the old one
// if that fails. Errors are of type [*api.Error], or that of the context.
func (c *Cache) Get(ctx context.Context, caller pace.Caller, d credential.Demand, k Key) (t *credential.Credential, how How, err error) {
	old := c.live(k)
	wait := c.timeout
	if old != nil {
		now := c.clock.Now()
		if due, _ := old.Due(credential.Policy{}, Demand(old, d, now), now); !due {
			return old, Hit, nil
		}
		if c.heldOff(k) != nil {
			return old, Stale, nil //nolint:nilerr // what is live is served meanwhile
		}
		wait = min(wait, patience)
	}
	t, err = c.next(ctx, wait, caller, k, old)
	if err == nil {
		return t, Made, nil
	}
	if old != nil && old.Servable(c.clock.Now()) {
		return old, Stale, nil
	}
	return nil, 0, err
}

// Renew makes a new token, unless the last one was made a moment ago. changed reports
// whether the result is another one than Get would have returned before.
func (c *Cache) Renew(ctx context.Context, caller pace.Caller, k Key) (t *credential.Credential, changed bool, err error) {
	old := c.live(k)
	if old != nil && time.Since(old.CheckedAt) < quiet {
		return old, false, nil
	}
	c.holdOffs.Retry(k.name())
	t, err = c.next(ctx, c.timeout, caller, k, old)
	return t, err == nil, err
}

// live returns the token in memory if it may be handed out; nil otherwise.
func (c *Cache) live(k Key) *credential.Credential {
	t, ok := c.tokens.Get(k)
	if !ok || !t.Servable(c.clock.Now()) {
		return nil
	}
	return t
}

func (c *Cache) heldOff(k Key) error {
	if err := c.holdOffs.Check(k.name()); err != nil {
		return err
	}
	return c.holdOffs.Check(ofUser(k.User))
}

// next returns the token that follows old, the live one in memory; nil for none. It
// waits for that long at most. The work goes on when its readers give up.
func (c *Cache) next(ctx context.Context, wait time.Duration, caller pace.Caller, k Key, old *credential.Credential) (*credential.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var f *flight.Flight[*credential.Credential]
	t, err := flight.Await(ctx, func() (_ *flight.Flight[*credential.Credential], joined bool) {
		f, joined = c.flights.Start(k.name(), c.budget, pace.Known, caller, c.logger(), func(claim *pace.Claim) (*credential.Credential, error) {
			if t := c.live(k); t != nil && t != old { // from a flight that ended since
				return t, nil
			}
			if err := c.heldOff(k); err != nil {
				return nil, err
			}
			return c.make(claim, caller, k)
		})
		return f, joined
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = &api.Error{Kind: api.Unavailable, Product: c.product, Detail: "it did not answer in time"}
		if _, waits := f.Claim.Granted(); waits {
			err = &api.Error{Kind: api.NoBudget, Product: c.product, Wait: f.Claim.NextFree()}
		}
	}
	return t, err
}

// make makes a token and keeps it.
func (c *Cache) make(claim *pace.Claim, caller pace.Caller, k Key) (*credential.Credential, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	for {
		m := c.begin(k.User)
		t, err := c.maker(ctx, claim, caller, k)
		again := c.end(m, k, t)
		switch {
		case err != nil:
			c.holdOff(k, err)
			return nil, err
		case !again:
			c.holdOffs.Succeeded(k.name())
			c.holdOffs.Succeeded(ofUser(k.User))
			return t, nil
		}
	}
}

func (c *Cache) begin(user string) *making {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &making{user: user}
	c.making[m] = struct{}{}
	return m
}

// end keeps t, unless it is nil or the cache was closed. It reports whether the user's
// tokens were dropped since t was asked for, so that t is of no use.
func (c *Cache) end(m *making, k Key, t *credential.Credential) (again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.making, m)
	if m.dropped || c.closed || t == nil {
		return m.dropped
	}
	c.tokens.Put(k, t)
	return false
}

// holdOff has no token like this one be asked for again for a while.
func (c *Cache) holdOff(k Key, err error) {
	var e *api.Error
	switch {
	case !errors.As(err, &e), api.Unsent(err), e.Kind == api.NoAccount: // a search holds itself off
	case e.Kind == api.Throttled:
		c.holdOffs.Failed(ofUser(k.User), backoff.Failure{Err: e, Least: e.Wait})
	default:
		c.holdOffs.Failed(k.name(), backoff.Failure{Err: e, Least: e.Wait})
	}
}

// Drop drops t, unless another token has taken its place.
func (c *Cache) Drop(k Key, t *credential.Credential) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if latest, ok := c.tokens.Peek(k); ok && latest == t {
		c.tokens.Remove(k)
	}
}

// Forget drops the tokens of a user. What was asked for before is not kept. Tokens that
// were handed out work until they end.
func (c *Cache) Forget(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for m := range c.making {
		m.dropped = m.dropped || m.user == user
	}
	c.tokens.RemoveIf(func(k Key, _ *credential.Credential) bool { return k.User == user })
}

// Sweep drops the tokens that have ended.
func (c *Cache) Sweep() {
	now := c.clock.Now()
	c.tokens.RemoveIf(func(_ Key, t *credential.Credential) bool { return !t.Servable(now) })
}

// Close drops all tokens, and keeps none from then on.
func (c *Cache) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.tokens.Clear()
}
