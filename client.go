// This file is Pipedream's client as the backend sees it: the connection in use, through
// which everything is asked for.

package pipedream

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/cache"
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
	build   func(storage logical.Storage, c *config, latest *connection) (*connection, error)
	budget  *pace.Budget
	current atomic.Pointer[connection]

	mu     sync.Mutex  // guards the fields below, and current against a load that began before a reset; never held across I/O
	epoch  int         // raised by every reset
	latest *connection // the next connection takes over what it may of its cache
}

// get returns the connection in use, or makes one from the stored configuration. It
// fails with errNotConfigured if there is none.
func (s *connections) get(ctx context.Context, storage logical.Storage) (*connection, error) {
	for {
		if c := s.current.Load(); c != nil {
			return c, nil
		}
		s.mu.Lock()
		epoch, latest := s.epoch, s.latest
		s.mu.Unlock()

		stored, err := readConfig(ctx, storage)
		if err != nil {
			return nil, err
		}
		if stored == nil {
			s.forget(epoch)
			return nil, errNotConfigured
		}
		c, err := s.build(storage, stored, latest)
		if err != nil {
			return nil, err
		}
		if c := s.install(c, epoch); c != nil {
			return c, nil
		}
	}
}

// install puts c into use, unless another load was faster, and returns the
// connection that is in use then. It returns nil if config may have changed since
// epoch.
func (s *connections) install(c *connection, epoch int) *connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != epoch {
		return nil
	}
	if first := s.current.Load(); first != nil {
		return first
	}
	s.latest = c
	s.budget.SetLimit(c.config.rateLimit())
	s.current.Store(c)
	return c
}

// forget drops the latest connection and its cache, unless config may have changed
// since epoch.
func (s *connections) forget(epoch int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch == epoch {
		s.latest = nil
	}
}

// reset makes the next get read config again.
func (s *connections) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	if old := s.current.Swap(nil); old != nil {
		old.fetcher.Close()
		old.connectTokens.Close()
		old.accessTokens.Close()
		old.client.Close() // the others have its transport
	}
}

// since returns c, and the connection that has taken its place meanwhile, if there is one.
func (s *connections) since(c *connection) []*connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == nil || s.latest == c {
		return []*connection{c}
	}
	return []*connection{c, s.latest}
}

// cached returns the cache of the latest connection; nil for none.
func (s *connections) cached() *cache.Cache {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == nil {
		return nil
	}
	return s.latest.view.Cache
}
