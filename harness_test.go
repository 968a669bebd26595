package pipedream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	testKey     = "pd_test_key"
	testBaseURL = "http://127.0.0.1/v1" // the simulator answers for any host
	testMaxTTL  = 32 * 24 * time.Hour
	github      = "apn_github"
	stripe      = "apn_stripe"
)

// mount is one mount of the engine in this process, with a simulated Pipedream. Its
// methods send requests as Vault does.
type mount struct {
	*testing.T
	sim     *pipedreamtest.Server
	storage *faultyStorage
	system  *system
	logs    *syncBuffer
	b       *backend

	offTheMap bool // whether the engine asks for what Pipedream's documentation does not have
}

// bubble runs f with a configured mount, two accounts and fake time.
func bubble(t *testing.T, f func(*testing.T, *mount), opts ...pipedreamtest.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t, opts...)
		m.sim.SetAccount(oauthAccount(github, time.Hour))
		m.sim.SetAccount(keyAccount(stripe))
		m.configure(nil)
		m.sim.ResetRequests()
		f(t, m)
	})
}

// system answers what the mount asks Vault: how the mount is tuned, and who its
// callers are. It looks up the entity of each request by its id.
type system struct {
	*logical.StaticSystemView

	entities sync.Map // of *logical.Entity, by id
}

func newSystem() *system {
	return &system{StaticSystemView: logical.TestSystemView()}
}

// knows makes entity the caller of requests with its id.
func (s *system) knows(entity *logical.Entity) {
	s.entities.Store(entity.ID, entity)
}

// EntityInfo returns the entity with that id; nil if Vault does not know it.
func (s *system) EntityInfo(id string) (*logical.Entity, error) {
	entity, _ := s.entities.Load(id)
	known, _ := entity.(*logical.Entity)
	return known, nil
}

func newMount(t *testing.T, opts ...pipedreamtest.Option) *mount {
	t.Helper()
	m := &mount{
		T:       t,
		sim:     pipedreamtest.New(append(reportedForms(t), opts...)...),
		storage: &faultyStorage{storage: &logical.InmemStorage{}},
		system:  newSystem(),
		logs:    &syncBuffer{},
	}
	m.system.MaxLeaseTTLVal = testMaxTTL
	m.system.PluginEnvironment = &logical.PluginEnvironment{VaultVersion: "1.21.1"}
	t.Cleanup(m.sim.Close)
	t.Cleanup(func() {
		if !m.offTheMap {
			require.Empty(t, m.sim.Violations(), "requests that Pipedream's documentation does not have")
		}
	})
	m.start()
	t.Cleanup(func() { m.b.Cleanup(context.Background()) })
	return m
}

// reportedForms are those in the report of pipedream-check that PIPEDREAM_REPLAY names: make test-replay.
func reportedForms(t *testing.T) []pipedreamtest.Option {
	t.Helper()
	name := os.Getenv("PIPEDREAM_REPLAY")
	if name == "" {
		return nil
	}
	report, err := os.ReadFile(name) //nolint:gosec // the file is for the caller to choose
	require.NoError(t, err)
	opts, _, err := pipedreamtest.Replay(bytes.NewReader(report))
	require.NoError(t, err)
	return opts
}

// start sets up a new backend on the same storage, as a restart of the plugin does.
func (m *mount) start() {
	m.Helper()
	if m.b != nil {
		m.b.Cleanup(m.Context())
	}
	m.b = newBackend(m.storage, m.sim.Transport())
	require.NoError(m, m.b.Setup(m.Context(), &logical.BackendConfig{
		Logger:      hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: m.logs, JSONFormat: true}),
		System:      m.system,
		StorageView: m.storage,
	}))
}

func oauthAccount(id string, life time.Duration) pipedreamtest.Account {
	return pipedreamtest.Account{
		ID:        id,
		Name:      "Octo Cat",
		App:       pipedreamtest.App{ID: "app_OrkhR1", Slug: "github", Name: "GitHub", AuthType: "oauth"},
		TokenLife: life,
	}
}

func keyAccount(id string) pipedreamtest.Account {
	return pipedreamtest.Account{
		ID:          id,
		App:         pipedreamtest.App{ID: "app_Strp1", Slug: "stripe", Name: "Stripe", AuthType: "keys"},
		Credentials: map[string]any{"api_key": "sk_live_0123456789"},
	}
}

// handle sends a request as Vault does. It checks a successful response against the
// schema that the path declares.
func (m *mount) handle(op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	m.Helper()
	if data == nil {
		data = map[string]any{}
	}
	resp, err := m.b.HandleRequest(m.Context(), &logical.Request{
		Operation: op, Path: path, Data: data, Storage: m.storage, MountPoint: "pipedream/",
	})
	if err != nil {
		return nil, err
	}
	if resp != nil && resp.IsError() {
		return nil, resp.Error()
	}
	if route := m.b.Route(path); resp != nil && route != nil && route.Operations[op] != nil {
		// Not strict, because no schema has an app's own fields. Required fields are
		// checked below.
		declared := schema.GetResponseSchema(m.T, route, op)
		schema.ValidateResponse(m.T, declared, resp, false)
		for name, field := range declared.Fields {
			if field.Required {
				require.Contains(m, resp.Data, name, "%s declares it as required", path)
			}
		}
	}
	return resp, nil
}

func (m *mount) configure(data map[string]any) {
	m.Helper()
	all := map[string]any{"api_key": testKey, "base_url": testBaseURL}
	for name, value := range data {
		all[name] = value
	}
	_, err := m.handle(logical.UpdateOperation, "config", all)
	require.NoError(m, err)
}

func (m *mount) write(path string, data map[string]any) (*logical.Response, error) {
	m.Helper()
	return m.handle(logical.UpdateOperation, path, data)
}

func (m *mount) read(path string) (*logical.Response, error) {
	m.Helper()
	return m.handle(logical.ReadOperation, path, nil)
}

// creds reads an account's credentials, which must succeed.
func (m *mount) creds(id string) *logical.Response {
	m.Helper()
	resp, err := m.read("creds/" + id)
	require.NoError(m, err)
	require.NotNil(m, resp.Secret)
	return resp
}

func (m *mount) token(id string) string {
	m.Helper()
	token, ok := m.creds(id).Data["oauth_access_token"].(string)
	require.True(m, ok)
	return token
}

// periodic runs the pass of each minute once.
func (m *mount) periodic() {
	m.Helper()
	_, err := m.b.HandleRequest(m.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage})
	require.NoError(m, err)
}

// refused asserts that err reaches a client with that code and those texts, even
// through the plugin's gRPC, and that it contains no secret.
func (m *mount) refused(err error, code int, texts ...string) {
	m.Helper()
	require.Error(m, err)
	coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // a wrapped one would lose its code on gRPC
	require.True(m, ok, "%T: %v", err, err)
	require.Equal(m, code, coded.Code(), err.Error())
	for _, text := range texts {
		require.Contains(m, err.Error(), text)
	}
	m.noSecretIn(err.Error())
}

func (m *mount) noSecretIn(text string) {
	m.Helper()
	for _, s := range append(m.sim.Secrets(), testKey) {
		require.NotContains(m, text, s)
	}
}

// cachedKeys returns the keys that storage has below the cache, without the folder
// that they are in. These are account ids and the keys of users.
func (m *mount) cachedKeys() (keys []string, err error) {
	top, err := m.storage.List(m.Context(), cache.Prefix)
	for _, key := range top {
		if !strings.HasSuffix(key, "/") {
			keys = append(keys, key)
			continue
		}
		inside, err := m.storage.List(m.Context(), cache.Prefix+key)
		if err != nil {
			return nil, err
		}
		keys = append(keys, inside...)
	}
	return keys, err
}

// cacheKey returns the key in storage of something in the cache of the connection in
// use.
func (m *mount) cacheKey(name string) string {
	m.Helper()
	return cache.Prefix + m.storedConfig().CacheID + "/" + name
}

// aliceKey returns the key in storage of alice with her GitHub account.
func (m *mount) aliceKey() string {
	m.Helper()
	return cache.Prefix + m.storedConfig().UsersID + "/" + githubOfAlice()
}

func (m *mount) storedConfig() (c config) {
	m.Helper()
	entry, err := m.storage.below().Get(m.Context(), configPath)
	require.NoError(m, err)
	require.NoError(m, entry.DecodeJSON(&c))
	return c
}

func (m *mount) cachedInMemory() int {
	m.Helper()
	resp, err := m.read("status")
	require.NoError(m, err)
	return resp.Data["cached_accounts"].(int)
}

// githubOfAlice returns the name in storage of the user alice with her GitHub account.
func githubOfAlice() string {
	return cache.User{App: "github", ExternalID: "alice"}.Key()
}

func fieldsOf(path *framework.Path) []string {
	var names []string
	for name := range path.Fields {
		names = append(names, name)
	}
	return names
}

var errStorage = errors.New("storage is on fire")

// faultyStorage is storage that fails on demand and records its use.
type faultyStorage struct {
	mu                                  sync.Mutex // guards the fields below
	storage                             logical.Storage
	failGet, failPut, failDel, failList error
	gets, puts, dels                    []string
}

// below returns the storage that calls go to when they do not fail.
func (s *faultyStorage) below() logical.Storage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.storage
}

// replace replaces the storage below by what with makes of it.
func (s *faultyStorage) replace(with func(logical.Storage) logical.Storage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.storage = with(s.storage)
}

func (s *faultyStorage) fail(get, put, del, list error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failGet, s.failPut, s.failDel, s.failList = get, put, del, list
}

// writes returns how many writes of keys with the prefix there were.
func (s *faultyStorage) writes(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range s.puts {
		if strings.HasPrefix(key, prefix) {
			n++
		}
	}
	return n
}

func (s *faultyStorage) used() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.gets) + len(s.puts) + len(s.dels)
}

func (s *faultyStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.mu.Lock()
	s.gets = append(s.gets, key)
	storage, err := s.storage, s.failGet
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return storage.Get(ctx, key)
}

func (s *faultyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.mu.Lock()
	s.puts = append(s.puts, entry.Key)
	storage, err := s.storage, s.failPut
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return storage.Put(ctx, entry)
}

func (s *faultyStorage) Delete(ctx context.Context, key string) error {
	s.mu.Lock()
	s.dels = append(s.dels, key)
	storage, err := s.storage, s.failDel
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return storage.Delete(ctx, key)
}

func (s *faultyStorage) List(ctx context.Context, prefix string) ([]string, error) {
	s.mu.Lock()
	storage, err := s.storage, s.failList
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return storage.List(ctx, prefix)
}

// syncBuffer collects log lines.
type syncBuffer struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func accountName(i int) string { return fmt.Sprintf("apn_%05d", i) }

// delayedStorage delays calls for as long as delay says.
type delayedStorage struct {
	logical.Storage

	delay func(operation, key string) time.Duration
}

func (s *delayedStorage) wait(ctx context.Context, operation, key string) error {
	d := s.delay(operation, key)
	if d == 0 {
		return nil
	}
	return backoff.Sleep(ctx, d)
}

func (s *delayedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	// It returns what is there before the delay.
	entry, err := s.Storage.Get(ctx, key)
	if waitErr := s.wait(ctx, "get", key); waitErr != nil {
		return nil, waitErr
	}
	return entry, err
}

func (s *delayedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if err := s.wait(ctx, "put", entry.Key); err != nil {
		return err
	}
	return s.Storage.Put(ctx, entry)
}

func (s *delayedStorage) Delete(ctx context.Context, key string) error {
	if err := s.wait(ctx, "delete", key); err != nil {
		return err
	}
	return s.Storage.Delete(ctx, key)
}

// slow makes storage slow for the keys of the cache, as raft is under load or without
// a quorum. A call gives up when its caller does.
func (m *mount) slow(get, put, del time.Duration) {
	waits := map[string]time.Duration{"get": get, "put": put, "delete": del}
	m.delay(func(operation, key string) time.Duration {
		if !strings.HasPrefix(key, cache.Prefix) {
			return 0
		}
		return waits[operation]
	})
}

// slowOnce delays the first such operation on key.
func (m *mount) slowOnce(operation, key string, d time.Duration) {
	var done atomic.Bool
	m.delay(func(o, k string) time.Duration {
		if o != operation || k != key || done.Swap(true) {
			return 0
		}
		return d
	})
}

func (m *mount) delay(delay func(operation, key string) time.Duration) {
	m.storage.replace(func(s logical.Storage) logical.Storage { return &delayedStorage{Storage: s, delay: delay} })
}

func ignoreAnswer(_ *logical.Response, err error) error { return err }

// rotateKey gives the workspace another API key, in Pipedream and in Vault.
func (m *mount) rotateKey() {
	m.sim.SetAPIKey("pd_test_key_2")
	m.configure(map[string]any{"api_key": "pd_test_key_2"})
}

// rotateClient gives the OAuth client another secret, in Pipedream and in Vault.
func (m *mount) rotateClient() {
	m.sim.SetOAuthClient(testClientID, "pd_client_secret_2", time.Hour)
	m.configureClient(map[string]any{"client_secret": "pd_client_secret_2", "project_id": testProject})
}

// stayRemembered reads roles whose users are known and whose tokens are live. That
// must cost no request, even after a restart.
func (m *mount) stayRemembered(roles ...string) {
	m.Helper()
	m.sim.ResetRequests()
	for range 2 {
		for _, role := range roles {
			m.creds(role)
		}
		m.start()
	}
	require.Empty(m, m.sim.Requests(), "requests for live tokens")
}
