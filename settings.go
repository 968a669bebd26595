package pipedream

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/logical"
)

// settings are a configuration and what was made of it. They are never
// changed once made: whoever holds them goes on with them to the end.
type settings struct {
	opaque

	config *config
	client *client
	bulk   *bulk
}

// settingsHolder keeps the settings in force in memory, so that a read need
// not ask storage for them.
type settingsHolder struct {
	build   func(*config) (*settings, error)
	current atomic.Pointer[settings]

	mu    sync.Mutex // guards epoch, and current against a load that began before a reset
	epoch int
}

func newSettingsHolder(build func(*config) (*settings, error)) *settingsHolder {
	return &settingsHolder{build: build}
}

// get returns the settings in force, from storage where memory has none. It
// fails with errNotConfigured where there is no configuration.
func (h *settingsHolder) get(ctx context.Context, storage logical.Storage) (*settings, error) {
	for {
		if s := h.current.Load(); s != nil {
			return s, nil
		}
		h.mu.Lock()
		epoch := h.epoch
		h.mu.Unlock()

		c, err := readConfig(ctx, storage)
		if err != nil {
			return nil, err
		}
		if c == nil {
			return nil, errNotConfigured
		}
		s, err := h.build(c)
		if err != nil {
			return nil, err
		}
		if s := h.install(s, epoch); s != nil {
			return s, nil
		}
	}
}

// install puts s in force, unless another load was faster, and returns what is
// in force; nil where config may have changed since epoch.
func (h *settingsHolder) install(s *settings, epoch int) *settings {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.epoch != epoch {
		return nil
	}
	if first := h.current.Load(); first != nil {
		return first
	}
	h.current.Store(s)
	s.client.budget.setLimit(s.config.RateLimit)
	return s
}

// reset makes the next get read config anew.
func (h *settingsHolder) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch++
	if old := h.current.Swap(nil); old != nil {
		old.bulk.close()
		old.client.close()
	}
}

// newSettings makes the client for a configuration.
func (b *backend) newSettings(c *config) (*settings, error) {
	client, err := b.newClient(c, b.traffic)
	if err != nil {
		return nil, err
	}
	return &settings{config: c, client: client, bulk: newBulk(b.ctx, client)}, nil
}

func (b *backend) newClient(c *config, t traffic) (*client, error) {
	if b.transport != nil {
		return newClient(b.ctx, c, b.transport, t)
	}
	transport, err := newTransport(c.CACert)
	if err != nil {
		return nil, badRequest("ca_cert is not a PEM certificate: %s", err)
	}
	return newClient(b.ctx, c, transport, t)
}

// verify checks with Pipedream that it accepts c's key or client. Its outcome
// does not show in status: until c is stored, the mount goes on with what it has.
func (b *backend) verify(ctx context.Context, c *config) error {
	client, err := b.newClient(c, traffic{budget: b.budget, stats: &stats{}, logger: b.logger})
	if err != nil {
		return err
	}
	defer client.close()
	ctx, cancel := context.WithTimeout(ctx, c.RequestTimeout)
	defer cancel()
	return client.verify(ctx)
}
