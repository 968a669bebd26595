package pipedream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/pace"
)

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
		roles:     newRoleStore(),
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
	for _, budget := range []*pace.Budget{b.budget, b.linkBudget, b.tokenBudget, b.accessTokenBudget} {
		budget.LogTo(b.Logger)
	}
	return b
}
