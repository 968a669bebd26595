package pipedream

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/redact"
)

// connection is one stored configuration and what was made of it. It is never
// changed once made: whoever holds it goes on with it to the end.
type connection struct {
	redact.Opaque

	config   *config
	client   *api.Client
	holdOffs *pace.HoldOffs // end with the connection: a write of config ends them all
	fetcher  *fetch.Fetcher
	view     *cache.View

	links        *api.Client    // makes Connect links, with an access token of its own
	linkHoldOffs *pace.HoldOffs // of users of whom Pipedream has made enough links just now
}

// connections keeps the connection in force, so that a read need not ask
// storage for the configuration.
type connections struct {
	build   func(c *config, latest *connection) (*connection, error)
	budget  *pace.Budget
	current atomic.Pointer[connection]

	mu     sync.Mutex // guards the fields below, and current against a load that began before a reset; not held across I/O
	epoch  int
	latest *connection // the next one of its generation goes on with its cache
}

// get returns the connection in force, from storage where memory has none. It
// fails with errNotConfigured where there is no configuration.
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
			return nil, errNotConfigured
		}
		c, err := h.build(stored, latest)
		if err != nil {
			return nil, err
		}
		if c := h.install(c, epoch); c != nil {
			return c, nil
		}
	}
}

// install puts c in force, unless another load was faster, and returns what is
// in force; nil where config may have changed since epoch.
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

// reset makes the next get read config anew. Where the source of the accounts
// changed, the cache goes too.
func (h *connections) reset(source bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch++
	if source {
		h.latest = nil
	}
	if old := h.current.Swap(nil); old != nil {
		old.fetcher.Close()
		old.client.Close()
		old.links.Close()
	}
}

// cached is the cache of the latest connection; nil for none.
func (h *connections) cached() *cache.Cache {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.latest == nil {
		return nil
	}
	return h.latest.view.Cache
}

// connect makes the connection for a configuration. It goes on with what the
// latest one knew, if that is of the same generation.
func (b *backend) connect(c *config, latest *connection) (*connection, error) {
	holdOffs := pace.NewHoldOffs()
	client, err := b.newClient(b.ctx, c, holdOffs, b.stats)
	if err != nil {
		return nil, err
	}
	links, err := b.newLinks(c)
	if err != nil {
		return nil, err
	}
	var known *cache.Cache
	var predecessor *fetch.Fetcher
	if latest != nil && latest.config.CacheID == c.CacheID {
		known, predecessor = latest.view.Cache, latest.fetcher
	} else {
		known = cache.New(b.ctx, b.storage, c.CacheID, b.sweeper.LegacyGone, b.stats, b.Logger)
	}
	fetcher := fetch.New(b.ctx, client, b.budget, holdOffs, predecessor, b.Logger)
	return &connection{
		config: c, client: client, holdOffs: holdOffs, fetcher: fetcher,
		view:  known.View(client, fetcher, b.budget, holdOffs, c.policy()),
		links: links, linkHoldOffs: pace.NewHoldOffs(),
	}, nil
}

func (b *backend) newClient(ctx context.Context, c *config, holdOffs *pace.HoldOffs, observer api.Observer) (*api.Client, error) {
	base, transport, err := b.reach(c)
	if err != nil {
		return nil, err
	}
	return api.New(ctx, c.api(base), transport, b.budget, holdOffs, observer, b.Logger), nil
}

// newLinks is the client for Connect links. What it is refused, and what it
// costs, is nothing to those who read.
func (b *backend) newLinks(c *config) (*api.Client, error) {
	base, transport, err := b.reach(c)
	if err != nil {
		return nil, err
	}
	own := c.api(base)
	own.Links, own.Scope = true, api.ScopeOfLinks
	return api.New(b.ctx, own, transport, b.linkBudget, pace.NewHoldOffs(), b.stats, b.Logger), nil
}

// reach is where a configuration's Pipedream is, and how to get there.
func (b *backend) reach(c *config) (*url.URL, http.RoundTripper, error) {
	base, err := parseBaseURL(c.BaseURL)
	if err != nil || b.transport != nil {
		return base, b.transport, err
	}
	transport, err := api.NewTransport(c.CACert)
	if err != nil {
		return nil, nil, badRequest("ca_cert is not a PEM certificate: %s", err)
	}
	return base, transport, nil
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

// verify checks with Pipedream that it accepts c's key or client. Its outcome
// does not show in status: until c is stored, the mount goes on with what it
// has. Some of the budget is kept for it.
func (b *backend) verify(ctx context.Context, c *config) error {
	claim := b.budget.NewClaim(pace.Check, "")
	client, err := b.newClient(claim.With(b.ctx), c, pace.NewHoldOffs(), newStats()) // its token is a part of the check
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, c.RequestTimeout)
	defer cancel()
	return client.Verify(claim.With(ctx))
}
