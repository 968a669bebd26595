package pipedream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/errutil"
	"github.com/hashicorp/vault/sdk/logical"
)

const operationPrefix = "pipedream"

const backendHelp = `
The Pipedream secrets engine hands out the credentials of accounts that are
connected in Pipedream, as leases that end when the credential does.

Configure it once with an API key or an OAuth client, then read the credentials
of an account:

    $ vault write pipedream/config api_key=-
    $ vault read pipedream/creds/apn_XehyZPr

Credentials are cached, encrypted, until they are due, so that any number of
readers fit in Pipedream's limit of 100 requests a minute.
`

// backend is one mount of the engine.
type backend struct {
	*framework.Backend

	// storage outlives requests; fetches that no reader waits for need it.
	storage logical.Storage
	// transport replaces the configured one in tests.
	transport http.RoundTripper

	// configWrites makes writers of config wait for each other. No reader ever
	// takes it, so it may be held while a key is checked with Pipedream.
	configWrites sync.Mutex

	traffic
	settings *settingsHolder
	cache    *cache
	roles    *roles

	ctx  context.Context // ends with the mount
	stop context.CancelFunc
}

// Factory returns a new backend for a mount. Vault calls it at registration
// too, with an empty configuration, so it does no I/O and starts nothing.
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

// Setup is [framework.Backend.Setup] with a system view that is not asked
// across processes on every request.
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
		storage:   storage,
		transport: transport,
		traffic:   traffic{budget: &budget{limit: defaultRateLimit}, stats: &stats{}},
		roles:     newRoles(),
		ctx:       ctx,
		stop:      stop,
	}
	b.settings = newSettingsHolder(b.newSettings)
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: version,
		Paths: framework.PathAppend(
			[]*framework.Path{
				b.pathCreds(), // the paths are tried in this order
				b.pathStaticCreds(),
				b.pathRefresh(),
				b.pathConfig(),
				b.pathStatus(),
			},
			b.pathAccounts(),
			b.pathRoles(),
		),
		PathsSpecial: &logical.Paths{
			// Credentials are fetched anew in every cluster, not replicated to it.
			LocalStorage: []string{cachePrefix, framework.WALPrefix},
			// Without a final slash an entry matches one key alone.
			SealWrapStorage: []string{configPath, cachePrefix},
		},
		Secrets:      []*framework.Secret{b.credentialSecret()},
		Invalidate:   b.invalidate,
		PeriodicFunc: b.periodic,
		Clean:        b.clean,
	}
	b.logger = b.Logger
	b.cache = newCache(ctx, storage, b.stats, b.settings, b.Logger)
	return b
}

// HandleRequest guards what the SDK's framework does with a request: it would
// show the value of a secret field of the wrong type in its error, has no text
// for a path that is no account's id, and lets a panic end the process for
// every mount that shares it.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	err = guard(b.Logger(), func() (err error) {
		resp, err = b.handle(ctx, req)
		return err
	})
	if errors.Is(err, errInternal) {
		return nil, logical.CodedError(http.StatusInternalServerError, err.Error())
	}
	return resp, err
}

func (b *backend) handle(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if err := b.checkSensitive(req); err != nil {
		return nil, err
	}
	resp, err := b.Backend.HandleRequest(ctx, req)
	switch {
	case errors.Is(err, logical.ErrUnsupportedPath) && b.takesName(req.Path):
		return b.handleBadName(ctx, req)
	case errors.Is(err, logical.ErrUnsupportedOperation):
		return nil, unsupported(req)
	case err == nil && resp == nil:
		resp = b.warnOfUnknown(req)
	}
	return resp, err
}

// handleBadName answers for a path that would be one of the engine's if it had
// a name in it. Help is about what the path would be.
func (b *backend) handleBadName(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	switch req.Operation {
	case logical.ListOperation:
		return nil, logical.ErrUnsupportedPath
	case logical.HelpOperation:
		first, _, _ := strings.Cut(req.Path, "/")
		help := *req
		help.Path = first + "/" + exampleAccountID
		return b.Backend.HandleRequest(ctx, &help)
	default:
		return nil, errBadName
	}
}

// unsupported says which operation was meant, where that is plain.
func unsupported(req *logical.Request) error {
	meant := ""
	switch first, _, _ := strings.Cut(req.Path, "/"); {
	case req.Operation == logical.RenewOperation:
	case strings.Trim(req.Path, "/") == "accounts", strings.Trim(req.Path, "/") == "roles":
		meant = first + " are listed: vault list <mount>/" + first
	case first == "refresh":
		meant = "refresh is written: vault write -force <mount>/" + req.Path
	}
	if meant == "" {
		return logical.ErrUnsupportedOperation
	}
	return logical.CodedError(http.StatusMethodNotAllowed, atMount(req, meant))
}

// warnOfUnknown answers a successful write that names fields there are not:
// the framework warns of them beside a response alone, and a misspelt setting
// must not pass for one that was set.
func (b *backend) warnOfUnknown(req *logical.Request) *logical.Response {
	path := b.Route(req.Path)
	if path == nil || req.Operation != logical.CreateOperation && req.Operation != logical.UpdateOperation {
		return nil
	}
	var unknown []string
	for name := range req.Data {
		if path.Fields[name] == nil {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	resp := &logical.Response{}
	resp.AddWarning(fmt.Sprintf("Endpoint ignored these unrecognized parameters: %v", unknown))
	return resp
}

// HandleExistenceCheck guards the check that comes before a write in the same
// way. Of its errors, Vault shows the text of this type alone.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checked, exists bool, err error) {
	err = guard(b.Logger(), func() error {
		if err := b.checkSensitive(req); err != nil {
			return errutil.UserError{Err: err.Error()}
		}
		checked, exists, err = b.Backend.HandleExistenceCheck(ctx, req)
		return err
	})
	return checked, exists, err
}

// checkSensitive refuses a secret of the wrong type without showing it.
func (b *backend) checkSensitive(req *logical.Request) error {
	if req.Operation != logical.CreateOperation && req.Operation != logical.UpdateOperation {
		return nil
	}
	path := b.Route(req.Path)
	if path == nil {
		return nil
	}
	for name, field := range path.Fields {
		if field.DisplayAttrs == nil || !field.DisplayAttrs.Sensitive {
			continue
		}
		if value, ok := req.Data[name]; ok {
			if _, isString := value.(string); !isString {
				return badRequest("%s must be a string", name)
			}
		}
	}
	return nil
}

// takesName tells whether path would be one of the engine's with a valid
// account id or name after its first part.
func (b *backend) takesName(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return b.Route(first+"/"+exampleAccountID) != nil
}

// invalidate drops what is held in memory of a key that another node changed.
func (b *backend) invalidate(_ context.Context, key string) {
	switch {
	case key == configPath:
		b.settings.reset()
	case strings.HasPrefix(key, rolePrefix):
		b.roles.forget(strings.TrimPrefix(key, rolePrefix))
	case strings.HasPrefix(key, cachePrefix):
		b.cache.forget(strings.TrimPrefix(key, cachePrefix))
	}
}

// configChanged makes a stored change of config take effect here. Where the
// connection changed, nothing that was fetched over the old one is kept.
func (b *backend) configChanged(ctx context.Context, connection bool) {
	b.settings.reset()
	if connection {
		b.cache.empty(ctx)
	}
}

// periodic is called about once a minute on the active node.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	// The cache is local to the cluster, so a secondary's active node keeps its own.
	if b.System().ReplicationState().HasState(consts.ReplicationPerformanceStandby | consts.ReplicationDRSecondary) {
		return nil
	}
	s, err := b.settings.get(ctx, req.Storage)
	if errors.Is(err, errNotConfigured) {
		s = nil
	} else if err != nil {
		return err
	}
	b.cache.sweep(ctx, s)
	if s != nil {
		b.cache.refreshAhead(s)
	}
	return nil
}

func (b *backend) clean(context.Context) {
	b.stop()
	b.settings.reset()
}

func noContent() map[int][]framework.Response {
	return map[int][]framework.Response{
		http.StatusNoContent: {{Description: http.StatusText(http.StatusNoContent)}},
	}
}
