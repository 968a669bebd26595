package pipedream

import (
	"context"
	"errors"
	"fmt"
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

const operationPrefix = "pipedream"

const backendHelp = `
The Pipedream secrets engine hands out the credentials of accounts that are
connected in Pipedream, as leases that end when the credential does.

Configure it once with an API key or an OAuth client, then read the credentials
of an account:

    $ vault write pipedream/config api_key=-
    $ vault read pipedream/creds/apn_XehyZPr

Credentials are cached, encrypted, until they are due. So any number of readers
stay within Pipedream's rate limit.
`

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
	roles             *roles

	ctx  context.Context // ends when the mount does
	stop context.CancelFunc
}

// Factory returns a new backend for a mount. Vault also calls it at registration,
// with an empty configuration, so it does no I/O and starts nothing.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	if conf == nil {
		return nil, errors.New("no configuration was passed to the backend")
	}
	b := newBackend(conf.StorageView, nil)
	if err := b.Setup(ctx, conf); err != nil {
		return nil, fmt.Errorf("the backend could not be set up: %w", err)
	}
	return b, nil
}

// Setup is like [framework.Backend.Setup], with a system view that remembers
// answers. Every question to Vault crosses from one process to another.
func (b *backend) Setup(ctx context.Context, conf *logical.BackendConfig) error {
	remembering := *conf
	if conf.System != nil {
		remembering.System = &systemView{SystemView: conf.System}
	}
	return b.Backend.Setup(ctx, &remembering)
}

func newBackend(storage logical.Storage, transport http.RoundTripper) *backend {
	ctx, stop := context.WithCancel(context.Background())
	b := &backend{
		transport: transport,
		budget:    pace.NewBudget(defaultRateLimit),
		stats:     newStats(),
		clock:     clock.New(nil),
		removed:   &cache.Removed{},
		roles:     newRoles(),
		ctx:       ctx,
		stop:      stop,

		linkBudget: pace.NewBudget(maxLinkRequests),
		linkQuota:  pace.NewQuota(maxLinksOfCaller),

		tokenBudget:       pace.NewBudget(maxConnectTokens),
		accessTokenBudget: pace.NewBudget(maxAccessTokens),
		tokenQuota:        pace.NewQuota(maxRefreshesOfCaller),
	}
	b.connections = &connections{build: b.connect, budget: b.budget}
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: version,
		Paths: framework.PathAppend(
			[]*framework.Path{
				b.pathCreds(), // the paths are tried in this order
				b.pathStaticCreds(),
				b.pathRefresh(),
				b.pathConnect(),
				b.pathUsers(),
				b.pathConfig(),
				b.pathStatus(),
				b.pathMetrics(),
			},
			b.pathAccounts(),
			b.pathRoles(),
		),
		PathsSpecial: &logical.Paths{
			// Every cluster fetches credentials for itself, with servers of its own; they are
			// not replicated.
			LocalStorage: []string{cache.Prefix, clockPath, framework.WALPrefix},
			// An entry without a final slash matches one key only.
			SealWrapStorage: []string{configPath, cache.Prefix},
		},
		Secrets:      []*framework.Secret{b.credentialSecret()},
		Invalidate:   b.invalidate,
		PeriodicFunc: b.periodic,
		Clean:        b.clean,
	}
	nameCLI(b.Backend, cli)
	b.writes = &storageWrites{logger: b.Logger}
	b.storage = b.writes.watch(storage)
	b.sweeper = cache.NewSweeper(b.storage, b.Logger)
	b.budget.LogTo(b.Logger)
	b.linkBudget.LogTo(b.Logger)
	return b
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

func noContent() map[int][]framework.Response {
	return map[int][]framework.Response{
		http.StatusNoContent: {{Description: http.StatusText(http.StatusNoContent)}},
	}
}
