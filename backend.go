package pipedream

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/pace"
)

// backend is one mount of the engine.
type backend struct {
	*framework.Backend

	// storage outlives requests, as fetches that no reader waits for need it to.
	storage logical.Storage
	// transport replaces the configured one in tests.
	transport http.RoundTripper

	// configWrites makes writers of config wait for each other. Readers never take
	// it, so it may be held while a key is checked with Pipedream.
	configWrites sync.Mutex

	budget            *pace.Budget // outlives connections: a new configuration does not refill it
	linkBudget        *pace.Budget // likewise; links do not use the accounts' budget
	linkQuota         *pace.Quota
	tokenBudget       *pace.Budget // of Connect tokens
	accessTokenBudget *pace.Budget
	tokenQuota        *pace.Quota // of explicit refreshes of tokens
	stats             *stats
	writes            *storageWrites
	clock             *clock.Clock // outlives connections: whatever Pipedream is asked with, it has one clock
	storedAhead       atomic.Int64 // by which this server's clock is ahead of Pipedream's, in seconds, as storage has it
	removed           *cache.Removed
	connections       *connections
	sweeper           *cache.Sweeper
	roles             *roleStore

	ctx  context.Context // ends when the mount does
	stop context.CancelFunc
}

// invalidate drops a key from memory that another node changed.
func (b *backend) invalidate(_ context.Context, key string) {
	switch {
	case key == configPath:
		b.connections.reset()
	case strings.HasPrefix(key, rolePrefix):
		b.roles.forget(strings.TrimPrefix(key, rolePrefix))
	case strings.HasPrefix(key, cache.Prefix):
		if c := b.connections.cached(); c != nil {
			c.Forget(key)
		}
	}
}

// configChanged makes a stored change of config take effect here. What old had in
// the cache, and updated has no use for, is no longer served, and is deleted in the
// background. Either can be nil for none.
func (b *backend) configChanged(old, updated *config) {
	b.connections.reset()
	if old == nil {
		return
	}
	if updated == nil {
		updated = &config{}
	}
	if old.CacheID != updated.CacheID {
		b.sweeper.Empty(b.ctx, old.CacheID)
	}
	if old.UsersID != updated.UsersID {
		b.sweeper.Empty(b.ctx, old.UsersID)
	}
}

// maxSweepTime bounds how long a pass deletes what is of no use. The next pass goes
// on with it.
const maxSweepTime = 20 * time.Second

// periodic is called about once a minute on the active node.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	// The cache is local to the cluster, so the active node of a secondary has its own.
	if b.System().ReplicationState().HasState(consts.ReplicationPerformanceStandby | consts.ReplicationDRSecondary) {
		return nil
	}
	c, err := b.connections.get(ctx, req.Storage)
	if err == nil {
		c.view.RefreshAhead() // before everything that may have to wait for storage
	}
	b.writes.probe(ctx, req.Storage)
	if err != nil && !errors.Is(err, errNotConfigured) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, maxSweepTime)
	defer cancel()
	b.storeClock(ctx, req.Storage)
	if c == nil {
		b.sweeper.Sweep(ctx, b.connections.cached, credential.Policy{})
		return nil
	}
	c.connectTokens.Sweep()
	c.accessTokens.Sweep()
	c.view.SweepMemory(ctx, c.config.policy())
	b.sweeper.Sweep(ctx, b.connections.cached, c.config.policy())
	return nil
}

func (b *backend) clean(context.Context) {
	b.stop()
	b.connections.reset()
}
