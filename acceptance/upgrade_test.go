package acceptance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// nextCommand is the file name of the next version in a plugin directory, beside the one under test.
const nextCommand = pluginName + "-next"

// nextPlugin returns the program to upgrade to, and its version. It is the same code with another version.
func nextPlugin(t *testing.T) (program, version string) {
	t.Helper()
	program, err := locate("NEXT_PLUGIN_BIN", filepath.Join(filepath.Dir(pluginBin), "next", pluginName))
	require.NoError(t, err, "make build-race")
	out, err := exec.CommandContext(t.Context(), program, "-version").Output()
	require.NoError(t, err)
	version = strings.TrimSpace(string(out))
	require.NotEqual(t, pluginVersion, version)
	return program, version
}

// withOwnPlugins gives a server its own plugin directory with the plugin under test.
func withOwnPlugins(t *testing.T, s *vaultServer) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(s.dir)
	require.NoError(t, err)
	s.plugins = filepath.Join(dir, "plugins")
	require.NoError(t, os.Mkdir(s.plugins, 0o700))
	s.install(t, pluginBin, filepath.Base(pluginBin))
	// A plugin that its server left behind runs a file from this directory.
	t.Cleanup(func() {
		files, err := filepath.Glob(filepath.Join(s.plugins, "*"))
		assert.NoError(t, err)
		for _, file := range files {
			for _, pid := range startedWith("HOME="+s.home(), file) {
				if process, err := os.FindProcess(pid); err == nil {
					_ = process.Kill()
				}
			}
		}
	})
}

// install copies a program to the server's plugin directory, as an operator would.
func (s *vaultServer) install(t *testing.T, program, name string) {
	t.Helper()
	content, err := os.ReadFile(program) //nolint:gosec // a program under test
	require.NoError(t, err)
	s.installContent(t, content, name)
}

func (s *vaultServer) installContent(t *testing.T, content []byte, name string) {
	t.Helper()
	path := filepath.Join(s.plugins, name)
	require.NoError(t, os.WriteFile(path, content, 0o700)) //nolint:gosec // it is run
}

// registerFile registers a file in the plugin directory under a version.
func (s *vaultServer) registerFile(command, version string) error {
	return s.register(api.PluginTypeSecrets, pluginName, filepath.Join(s.plugins, command), version)
}

// tuneTo sets the version of the mount, which takes effect when the plugin is next started.
func (m *mount) tuneTo(t *testing.T, version string) error {
	t.Helper()
	return m.vault.root.Sys().TuneMountAllowNil(m.path, api.TuneMountConfigInput{PluginVersion: &version})
}

// reloadPlugin reloads all mounts of the plugin, as the documentation says. OpenBao has only the older endpoint.
func (m *mount) reloadPlugin(t *testing.T) error {
	t.Helper()
	if onOpenBao {
		_, err := m.vault.root.Sys().ReloadPlugin(&api.ReloadPluginInput{Plugin: pluginName})
		return err
	}
	_, err := m.vault.root.Sys().RootReloadPlugin(context.Background(),
		&api.RootReloadPluginInput{Plugin: pluginName, Type: api.PluginTypeSecrets})
	return err
}

// version returns the version of the plugin that serves the mount, or an empty string if there is no engine.
func (m *mount) version() (string, error) {
	secret, err := m.vault.root.Logical().Read(m.in("status"))
	if err != nil || secret == nil {
		return "", err
	}
	version, _ := secret.Data["version"].(string)
	return version, nil
}

// traffic records what the readers of a cluster see.
type traffic struct {
	served, leased  atomic.Int64
	failingOver     atomic.Bool // a server is being restarted
	mu              sync.Mutex
	whileFailing    map[string]int // errors while failingOver, by text
	otherwise       map[string]int
	leases          []string
	servedByServers []*atomic.Int64
}

// read reads through one server until it is stopped, like a client without retries.
func (tr *traffic) read(t *testing.T, stop *atomic.Bool, s *vaultServer, path, token string, served *atomic.Int64, pause time.Duration) {
	t.Helper()
	client := s.client(s.rootToken)
	for ; !stop.Load(); time.Sleep(pause) {
		before := tr.failingOver.Load()
		secret, err := client.Logical().Read(path)
		if err != nil || secret == nil {
			tr.count(before || tr.failingOver.Load(), err)
			continue
		}
		assert.Equal(t, token, secret.Data["oauth_access_token"])
		tr.served.Add(1)
		served.Add(1)
		if secret.LeaseID != "" {
			tr.leased.Add(1)
			tr.mu.Lock()
			tr.leases = append(tr.leases, secret.LeaseID)
			tr.mu.Unlock()
		}
	}
}

// noValue is what a reader got if the answer was a 404, which Vault's client does not treat as an error.
const noValue = "no value found"

// count counts an error by its text without addresses.
func (tr *traffic) count(failingOver bool, err error) {
	what := noValue
	var answer *api.ResponseError
	var connection *url.Error
	var network net.Error
	switch {
	case errors.As(err, &answer):
		what = fmt.Sprintf("%d %s", answer.StatusCode, strings.Join(answer.Errors, "; "))
	case errors.As(err, &connection), errors.As(err, &network):
		what = "no connection"
	case err != nil:
		what = err.Error()
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if failingOver {
		tr.whileFailing[what]++
	} else {
		tr.otherwise[what]++
	}
}

// untilServed waits until every server has answered some more reads.
func (tr *traffic) untilServed(t *testing.T) {
	t.Helper()
	for _, n := range tr.servedByServers {
		n.Store(0)
	}
	require.NoError(t, poll(2*readyTimeout, "reads through every server", func() (bool, error) {
		for _, n := range tr.servedByServers {
			if n.Load() < 5 {
				return false, nil
			}
		}
		return true, nil
	}))
}

// TestRollingUpgrade performs the upgrade that docs/production.md describes, and the way back, on a cluster that is
// read throughout.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	next, nextVersion := nextPlugin(t)
	c := newCluster(t, func(s *vaultServer) { withOwnPlugins(t, s) })
	m := enable(t, c.servers[0], "pipedream")
	m.configure(t, nil)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	first := m.read(t, "creds/"+githubID)
	key := m.read(t, "creds/"+stripeID)
	token := asType[string](t, first.Data["oauth_access_token"])
	m.sim.ResetRequests()

	tr := &traffic{whileFailing: map[string]int{}, otherwise: map[string]int{}}
	var group sync.WaitGroup
	var stop atomic.Bool
	t.Cleanup(func() { stop.Store(true); group.Wait() })
	for _, s := range c.servers {
		served := &atomic.Int64{}
		tr.servedByServers = append(tr.servedByServers, served)
		group.Go(func() { tr.read(t, &stop, s, m.in("static-creds/"+githubID), token, served, 20*time.Millisecond) })
		group.Go(func() { tr.read(t, &stop, s, m.in("creds/"+githubID), token, served, 200*time.Millisecond) })
	}
	tr.untilServed(t)

	for _, s := range c.servers {
		s.install(t, next, nextCommand)
	}
	require.NoError(t, m.vault.registerFile(nextCommand, nextVersion))
	for _, version := range []string{nextVersion, pluginVersion} {
		c.moveTo(t, m, tr, version)
	}
	stop.Store(true)
	group.Wait()

	t.Logf("%d reads served, %d of them with a lease; %d requests to Pipedream", tr.served.Load(), tr.leased.Load(), len(m.sim.Requests()))
	t.Logf("errors during a restart: %v", tr.whileFailing)
	t.Logf("other errors: %v", tr.otherwise)
	m.askedForNoAccount(t)
	for what := range tr.whileFailing {
		assert.True(t, what == "no connection" || isVaultsOwn(what), "a read failed during a restart, but not because of Vault itself: %s", what)
	}
	// On a loaded machine an election can happen at any time.
	for what := range tr.otherwise {
		assert.True(t, isVaultsOwn(what), "a read failed although no server was restarted: %s", what)
	}
	for _, lease := range append(tr.leases, first.LeaseID, key.LeaseID) {
		_, err := m.vault.root.Sys().Lookup(lease)
		require.NoError(t, err, "a lease was lost")
	}
	require.NoError(t, m.vault.root.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: m.in("creds/"), Prefix: true, Sync: true}))
	m.vault.noIrrevocableLease(t)
}

// isVaultsOwn reports whether an error that a reader got comes from a server that is sealed or is looking for the
// active server. An error from a request that a dying plugin dropped does not count as such.
func isVaultsOwn(what string) bool {
	// A server of OpenBao answers 404 while it mounts the engine, and cancels requests when it stops.
	if onOpenBao && (what == noValue || strings.Contains(what, "context canceled")) {
		return true
	}
	code, text, _ := strings.Cut(what, " ")
	if code != "500" && code != "503" {
		return false
	}
	if strings.Contains(text, "rpc error") || strings.Contains(text, "transport") {
		return strings.Contains(text, "forwarding") // from one server to another
	}
	return !strings.Contains(text, "Pipedream") && !strings.Contains(text, "plugin")
}

// moveTo moves the mount to a version, and then restarts one server after the other, the active one last.
func (c *cluster) moveTo(t *testing.T, m *mount, tr *traffic, version string) {
	t.Helper()
	require.NoError(t, m.tuneTo(t, version))
	c.reload(t, m)
	c.allServe(t, m, version)
	tr.untilServed(t)

	leader := c.leader(t)
	for _, i := range []int{(leader + 1) % 3, (leader + 2) % 3, leader} {
		tr.failingOver.Store(true)
		require.NoError(t, c.servers[i].process.stop())
		c.launch(t, i)
		c.join(t, i)
		c.allServe(t, m, version)
		tr.failingOver.Store(false)
		tr.untilServed(t)
	}
}

// reload reloads the plugin of the cluster. A standby of Vault forwards the request to the active server. One of OpenBao
// serves reads itself, and reloads its own plugin.
func (c *cluster) reload(t *testing.T, m *mount) {
	t.Helper()
	servers := c.servers[:1]
	if onOpenBao {
		servers = c.servers
	}
	for _, s := range servers {
		there := *m
		there.vault = s
		require.NoError(t, there.reloadPlugin(t))
	}
}

// allServe waits until every server answers, which may forward to the active one, and asserts that the version is
// right.
func (c *cluster) allServe(t *testing.T, m *mount, version string) {
	t.Helper()
	for _, s := range c.servers {
		there := *m
		there.vault = s
		var found string
		require.NoError(t, poll(2*readyTimeout, "the engine to answer", func() (answers bool, _ error) {
			var err error
			found, err = there.version()
			return err == nil, nil
		}))
		require.Equal(t, version, found)
	}
}
