package acceptance

import (
	"crypto/rand"
	"maps"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// mount is the plugin enabled at a path, with its own simulated Pipedream.
type mount struct {
	vault  *vaultServer
	path   string
	sim    *pipedreamtest.Server
	apiURL string
	apiKey string
	// auditFrom and logFrom are how long the logs were when the mount was made. What came before is of other tests.
	auditFrom, logFrom int64
	// watcher is set by watch.
	watcher *watcher
}

// onSharedVault enables and configures the plugin on the shared server, at a path that only this test uses.
func onSharedVault(t *testing.T, opts ...pipedreamtest.Option) *mount {
	t.Helper()
	m := unconfigured(t, opts...)
	m.configure(t, nil)
	return m
}

// unconfigured is onSharedVault without a config.
func unconfigured(t *testing.T, opts ...pipedreamtest.Option) *mount {
	t.Helper()
	m := enable(t, sharedVault(t), slug(t.Name()), opts...)
	// This also proves that nothing the test did prevents an operator from disabling the engine.
	t.Cleanup(func() { require.NoError(t, m.vault.root.Sys().Unmount(m.path)) })
	return m
}

// onOwnVault enables and configures the plugin at pipedream/ on a server that only this test uses.
func onOwnVault(t *testing.T) *mount {
	t.Helper()
	m := enable(t, newVault(t), "pipedream")
	m.configure(t, nil)
	return m
}

func enable(t *testing.T, vault *vaultServer, path string, opts ...pipedreamtest.Option) *mount {
	t.Helper()
	m := &mount{vault: vault, path: path, apiKey: "pdkey_" + rand.Text(), auditFrom: sizeOf(vault.auditPath()), logFrom: sizeOf(vault.logPath())}
	m.sim = pipedreamtest.New(append(opts, pipedreamtest.WithAPIKey(m.apiKey))...)
	t.Cleanup(m.sim.Close)
	var err error
	m.apiURL, err = m.sim.Start()
	require.NoError(t, err)
	require.NoError(t, vault.root.Sys().Mount(path, &api.MountInput{Type: pluginName}))
	t.Cleanup(func() { m.checkLogs(t) })
	return m
}

// slug turns the name of a test into a mount path.
func slug(name string) string {
	words := regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(strings.TrimPrefix(name, "Test"), "$1-$2")
	return strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(words), "-"), "-")
}

// configure writes config with the key and URL of the simulated Pipedream, and the given fields.
func (m *mount) configure(t *testing.T, fields map[string]any) {
	t.Helper()
	config := map[string]any{"api_key": m.apiKey, "base_url": m.apiURL}
	maps.Copy(config, fields)
	m.write(t, "config", config)
}

// checkLogs runs after every test. It asserts that no log contains a secret, a data race or a panic.
func (m *mount) checkLogs(t *testing.T) {
	t.Helper()
	log := m.log(t)
	lacks(t, "the audit log", m.audit(t), m.sim.Secrets()...)
	lacks(t, "the server's log", log, m.sim.Secrets()...)
	lacks(t, "the server's log", log, "DATA RACE", "panic:")
}

// audit returns the audit log since the mount was made.
func (m *mount) audit(t *testing.T) string {
	t.Helper()
	return readFrom(t, m.vault.auditPath(), m.auditFrom)
}

// log returns the server's log since the mount was made.
func (m *mount) log(t *testing.T) string {
	t.Helper()
	return readFrom(t, m.vault.logPath(), m.logFrom)
}

// lacks asserts that a text contains none of the words. It does not print the text, which may be long.
func lacks(t *testing.T, where, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if strings.Contains(text, word) {
			t.Errorf("%s contains %q", where, word)
		}
	}
}

// askedForNoAccount asserts that Pipedream was not asked for what is cached. A pass may ask for the time.
func (m *mount) askedForNoAccount(t *testing.T) {
	t.Helper()
	for _, r := range m.sim.Requests() {
		assert.Equal(t, pipedreamtest.KindMe, r.Kind)
	}
}

// in returns the full path of a path below the mount.
func (m *mount) in(path string) string { return m.path + "/" + path }

// read returns the answer to a read, which must be a secret.
func (m *mount) read(t *testing.T, path string) *api.Secret {
	t.Helper()
	secret, err := m.vault.root.Logical().Read(m.in(path))
	require.NoError(t, err)
	require.NotNil(t, secret, "%s returned nothing", path)
	return secret
}

// readWith is read with query parameters.
func (m *mount) readWith(t *testing.T, path string, query map[string][]string) *api.Secret {
	t.Helper()
	secret, err := m.vault.root.Logical().ReadWithData(m.in(path), query)
	require.NoError(t, err)
	require.NotNil(t, secret, "%s returned nothing", path)
	return secret
}

// write returns the answer to a write: nil if it has no content.
func (m *mount) write(t *testing.T, path string, data map[string]any) *api.Secret {
	t.Helper()
	secret, err := m.vault.root.Logical().Write(m.in(path), data)
	require.NoError(t, err)
	return secret
}

func (m *mount) deleteConfig(t *testing.T) {
	t.Helper()
	_, err := m.vault.root.Logical().Delete(m.in("config"))
	require.NoError(t, err)
}

// list returns the keys of a list and the details of each.
func (m *mount) list(t *testing.T, path string, query map[string][]string) (keys []string, info map[string]any) {
	t.Helper()
	secret := m.readWith(t, path, listing(query))
	for _, key := range asType[[]any](t, secret.Data["keys"]) {
		keys = append(keys, asType[string](t, key))
	}
	info, _ = secret.Data["key_info"].(map[string]any)
	return keys, info
}

// listing turns query parameters into those of a list, because the client's own List takes none.
func listing(query map[string][]string) map[string][]string {
	all := map[string][]string{"list": {"true"}}
	maps.Copy(all, query)
	return all
}

// refused asserts that an error is an answer with this code, and that its text contains the given words.
func refused(t *testing.T, err error, code int, words ...string) {
	t.Helper()
	var answer *api.ResponseError
	require.ErrorAs(t, err, &answer)
	text := strings.Join(answer.Errors, "\n")
	assert.Equal(t, code, answer.StatusCode, text)
	for _, word := range words {
		assert.Contains(t, text, word)
	}
}

// errorOf returns the error of a read, which must fail.
func (m *mount) errorOf(t *testing.T, path string) error {
	t.Helper()
	secret, err := m.vault.root.Logical().Read(m.in(path))
	require.Error(t, err)
	require.Nil(t, secret)
	return err
}

// asType converts a value to a type. It fails the test if the value is of another type.
func asType[T any](t *testing.T, value any) T {
	t.Helper()
	typed, ok := value.(T)
	require.True(t, ok, "%v is a %T, not a %T", value, value, typed)
	return typed
}

// lasts asserts that seconds is what was left of a time some time after a request was sent. In whole seconds it may be
// rounded down twice: by the engine, and by Vault, which subtracts the time that it takes to store a lease.
func lasts(t *testing.T, left time.Duration, sent time.Time, seconds int) {
	t.Helper()
	took := time.Since(sent)
	assert.LessOrEqual(t, seconds, int(math.Ceil(left.Seconds())), "it took %s", took)
	assert.GreaterOrEqual(t, seconds, int(math.Floor((left-took).Seconds()))-1, "it took %s", took)
}
