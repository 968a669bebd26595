package pipedream

import (
	"context"
	"net/http"
	"net/url"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/durable"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/token"
)

// connect makes the connection for a configuration. It takes over what the latest
// one knew, if that has the same ids.
func (b *backend) connect(storage logical.Storage, c *config, latest *connection) (*connection, error) {
	own, cancel := context.WithTimeout(b.ctx, durable.Timeout) // not that of a reader, who may go away
	defer cancel()
	if err := b.restoreClock(own, storage); err != nil {
		return nil, err
	}
	holdOffs := backoff.NewHoldOffs()
	there, err := b.reach(c)
	if err != nil {
		return nil, err
	}
	client := b.newClient(b.ctx, c, there, b.clock, holdOffs, b.stats)
	var known *cache.Cache
	var predecessor *fetch.Fetcher
	switch {
	case latest != nil && latest.config.CacheID == c.CacheID:
		known, predecessor = latest.view.Cache, latest.fetcher
	case latest != nil && latest.config.UsersID == c.UsersID:
		known = latest.view.Next(c.CacheID)
	default:
		known = cache.New(b.ctx, b.storage, c.CacheID, c.UsersID, b.removed, b.stats, b.clock, b.Logger)
		_ = known.LoadRemoved() // the log has it
	}
	fetcher := fetch.New(b.ctx, client, b.budget, holdOffs, predecessor, b.Logger)
	made := &connection{
		config: c, client: client, holdOffs: holdOffs, fetcher: fetcher,
		view:  known.View(client, fetcher, b.budget, holdOffs, c.policy()),
		links: b.newMaker(c, there, api.ConnectLink, b.linkBudget, backoff.NewHoldOffs()), linkHoldOffs: backoff.NewHoldOffs(),
		accounts: b.newRemover(c, there, api.ScopeOfAccounts), users: b.newRemover(c, there, api.ScopeOfUsers),
	}
	b.addTokens(made, there)
	return made, nil
}

// newClient returns a client that learns the time for clk, or for nobody if that is nil.
func (b *backend) newClient(ctx context.Context, c *config, there route, clk *clock.Clock, holdOffs *backoff.HoldOffs, observer api.Observer) *api.Client {
	settings := c.api(there.base)
	settings.Clock = clk
	return api.New(ctx, settings, there.transport, b.budget, holdOffs, observer, b.Logger)
}

// newMaker returns a client for links or tokens. Its failures hold no readers of
// accounts off, and its requests do not use their budget.
func (b *backend) newMaker(c *config, there route, what api.Product, budget *pace.Budget, holdOffs *backoff.HoldOffs) *api.Client {
	own := c.api(there.base)
	own.Makes, own.Scope, own.Clock = what, api.ScopeOfTokens, b.clock
	return api.New(b.ctx, own, there.transport, budget, holdOffs, b.stats, b.Logger)
}

// newRemover returns a client that removes accounts or users, with an access token for
// that scope alone, which it gets when it is first needed. Its failures hold no readers
// off. It does not repeat a request, so that the answer to the only one counts.
func (b *backend) newRemover(c *config, there route, scope string) *api.Client {
	own := c.api(there.base)
	own.Removes, own.Scope, own.MaxRetries, own.Clock = true, scope, 0, b.clock
	return api.New(b.ctx, own, there.transport, b.budget, backoff.NewHoldOffs(), b.stats, b.Logger)
}

// route is where the Pipedream of a configuration is, and how to get there. All clients
// of a connection share one, and its idle network connections.
type route struct {
	base      *url.URL
	transport http.RoundTripper
}

// reach returns the route for a configuration.
func (b *backend) reach(c *config) (route, error) {
	base, err := parseBaseURL(c.BaseURL)
	if err != nil || b.transport != nil {
		return route{base, b.transport}, err
	}
	transport, err := api.NewTransport(c.CACert)
	if err != nil {
		return route{}, badRequest("ca_cert %s", err)
	}
	return route{base, transport}, nil
}

func (c *config) api(base *url.URL) api.Config {
	return api.Config{
		BaseURL:      base,
		APIKey:       c.APIKey,
		ClientID:     c.ClientID,
		ClientSecret: c.ClientSecret,
		Scope:        c.Scope,
		ProjectID:    c.ProjectID,
		Environment:  c.Environment,
		OrgID:        c.OrgID,
		Timeout:      c.RequestTimeout,
		MaxRetries:   c.MaxRetries,
		UserAgent:    "vault-plugin-secrets-pipedream/" + version,
	}
}

// addTokens gives a connection its caches of tokens.
func (b *backend) addTokens(c *connection, there route) {
	holdOffs := backoff.NewHoldOffs()
	client := b.newMaker(c.config, there, api.ConnectToken, b.tokenBudget, holdOffs)
	c.connectTokens = token.New(b.ctx, api.ConnectToken, client.Timeout(), b.tokenBudget, holdOffs, b.clock, c.connectTokenMaker(client, b.clock), b.Logger)

	holdOffs = backoff.NewHoldOffs()
	client = b.newMaker(c.config, there, api.AccessToken, b.accessTokenBudget, holdOffs)
	c.accessTokens = token.New(b.ctx, api.AccessToken, client.Timeout(), b.accessTokenBudget, holdOffs, b.clock, c.accessTokenMaker(client, b.clock), b.Logger)
}
