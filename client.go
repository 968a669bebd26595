package pipedream

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/redact"
	"vault-plugin-secrets-pipedream/internal/token"
)

// connection is one stored configuration and what was made from it. It never
// changes once it is made: work that holds it goes on with it until it is done.
type connection struct {
	redact.Opaque

	config   *config
	client   *api.Client
	holdOffs *backoff.HoldOffs // end with the connection: a write of config ends them all
	fetcher  *fetch.Fetcher
	view     *cache.View

	links        *api.Client       // makes Connect links, with an access token of its own
	accounts     *api.Client       // disconnects accounts, likewise
	users        *api.Client       // removes external users, likewise
	linkHoldOffs *backoff.HoldOffs // of users for whom Pipedream makes no more links for now

	connectTokens, accessTokens *token.Cache // end with the connection
}

// connections keeps the connection in use, so that a read need not ask storage for
// the configuration.
type connections struct {
	build   func(ctx context.Context, storage logical.Storage, c *config, latest *connection) (*connection, error)
	budget  *pace.Budget
	current atomic.Pointer[connection]

	mu     sync.Mutex  // guards the fields below, and current against a load that began before a reset; never held across I/O
	epoch  int         // raised by every reset
	latest *connection // the next connection takes over what it may of its cache
}

// get returns the connection in use, or makes one from the stored configuration. It
// fails with errNotConfigured if there is none.
func (h *connections) get(ctx context.Context, storage logical.Storage) (*connection, error) {
	for {
		if c := h.current.Load(); c != nil {
			return c, nil
		}
		h.mu.Lock()
		epoch, latest := h.epoch, h.latest
		h.mu.Unlock()

		stored, err := readConfig(ctx, storage)
		if err != nil {
			return nil, err
		}
		if stored == nil {
			h.forget(epoch)
			return nil, errNotConfigured
		}
		c, err := h.build(ctx, storage, stored, latest)
		if err != nil {
			return nil, err
		}
		if c := h.install(c, epoch); c != nil {
			return c, nil
		}
	}
}

// install puts c into use, unless another load was faster, and returns the
// connection that is in use then. It returns nil if config may have changed since
// epoch.
func (h *connections) install(c *connection, epoch int) *connection {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.epoch != epoch {
		return nil
	}
	if first := h.current.Load(); first != nil {
		return first
	}
	h.latest = c
	h.budget.SetLimit(c.config.rateLimit())
	h.current.Store(c)
	return c
}

// forget drops the latest connection and its cache, unless config may have changed
// since epoch.
func (h *connections) forget(epoch int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.epoch == epoch {
		h.latest = nil
	}
}

// reset makes the next get read config again.
func (h *connections) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch++
	if old := h.current.Swap(nil); old != nil {
		old.fetcher.Close()
		old.connectTokens.Close()
		old.accessTokens.Close()
		old.client.Close() // the others have its transport
	}
}

// since returns c, and the connection that has taken its place meanwhile, if there is one.
func (h *connections) since(c *connection) []*connection {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.latest == nil || h.latest == c {
		return []*connection{c}
	}
	return []*connection{c, h.latest}
}

// cached returns the cache of the latest connection; nil for none.
func (h *connections) cached() *cache.Cache {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.latest == nil {
		return nil
	}
	return h.latest.view.Cache
}

// connect makes the connection for a configuration. It takes over what the latest
// one knew, if that has the same ids.
func (b *backend) connect(ctx context.Context, storage logical.Storage, c *config, latest *connection) (*connection, error) {
	b.restoreClock(ctx, storage)
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
