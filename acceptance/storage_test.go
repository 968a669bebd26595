package acceptance

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// passTimeout is far longer than the minute between two passes of Vault over its mounts.
const passTimeout = 4 * time.Minute

// noStart is a reason why Vault cannot start the plugin, with the cure that docs/troubleshooting.md has for it.
type noStart struct {
	cause func(t *testing.T, m *mount, servers []*vaultServer)
	cure  func(t *testing.T, m *mount, servers []*vaultServer)
}

func reinstall(t *testing.T, m *mount, servers []*vaultServer) {
	t.Helper()
	for _, s := range servers {
		require.NoError(t, os.RemoveAll(filepath.Join(s.plugins, filepath.Base(pluginBin))))
		s.install(t, pluginBin, filepath.Base(pluginBin))
	}
	require.NoError(t, m.reloadPlugin(t))
}

// script is a file that is no plugin.
var script = []byte("#!/bin/sh\nexit 1\n")

var noStarts = map[string]noStart{
	"its file is missing": {
		cause: func(t *testing.T, _ *mount, servers []*vaultServer) {
			t.Helper()
			for _, s := range servers {
				require.NoError(t, os.Remove(filepath.Join(s.plugins, filepath.Base(pluginBin))))
			}
		},
		cure: reinstall,
	},
	"its file was overwritten": {
		cause: func(t *testing.T, _ *mount, servers []*vaultServer) {
			t.Helper()
			for _, s := range servers {
				require.NoError(t, os.Remove(filepath.Join(s.plugins, filepath.Base(pluginBin)))) // as install does
				s.installContent(t, script, filepath.Base(pluginBin))
			}
		},
		cure: reinstall,
	},
	"its version cannot be started": {
		cause: func(t *testing.T, m *mount, servers []*vaultServer) {
			t.Helper()
			for _, s := range servers {
				s.installContent(t, script, "broken")
			}
			require.NoError(t, m.vault.registerFile("broken", "v98.0.0"))
			require.NoError(t, m.tuneTo(t, "v98.0.0"))
		},
		cure: func(t *testing.T, m *mount, _ []*vaultServer) {
			t.Helper()
			require.NoError(t, m.tuneTo(t, pluginVersion))
			require.NoError(t, m.reloadPlugin(t))
		},
	},
}

// TestWritesAfterThePluginCouldNotStart has Vault start while it cannot start the plugin. The cure brings the engine
// back, but Vault then refuses all its writes until the server becomes active again.
func TestWritesAfterThePluginCouldNotStart(t *testing.T) {
	t.Parallel()
	ends := map[string]func(*testing.T, *vaultServer){
		"its file is missing": func(t *testing.T, s *vaultServer) {
			t.Helper()
			require.NoError(t, s.root.Sys().StepDown())
		},
		"its file was overwritten":      func(t *testing.T, s *vaultServer) { t.Helper(); s.restart(t) },
		"its version cannot be started": func(t *testing.T, s *vaultServer) { t.Helper(); s.sealAndUnseal(t) },
	}
	for name, reason := range noStarts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startWithOwnPlugins(t)
			m := onReadableVault(t, s)
			reason.cause(t, m, []*vaultServer{s})
			s.restart(t)
			m.isGone(t)
			reason.cure(t, m, []*vaultServer{s})
			m.readsButCannotWrite(t)
			ends[name](t, s)
			m.writesAgain(t, func() { s.restart(t) })
		})
	}
}

// TestWritesAfterThePluginCouldNotStartInACluster has a server become active while it cannot start the plugin.
func TestWritesAfterThePluginCouldNotStartInACluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(s *vaultServer) { withOwnPlugins(t, s) })
	// A server that is unsealed more than once while it joins a cluster ignores a step-down until it is restarted.
	for i := range c.servers[1:] {
		require.NoError(t, c.servers[i+1].process.stop())
		c.launch(t, i+1)
		c.join(t, i+1)
	}
	m := onReadableVault(t, c.servers[0])
	for _, name := range []string{"its file is missing", "its version cannot be started"} {
		t.Run(name, func(t *testing.T) {
			reason, refuses := noStarts[name], false
			for range 5 {
				reason.cause(t, m, c.servers)
				c.stepDown(t)
				there := *m
				there.vault = c.servers[c.leader(t)]
				there.isGone(t)
				reason.cure(t, m, c.servers)
				// On a loaded machine an election can happen at any time, and ends the state.
				if refuses = onOpenBao || there.refusesWrites(t); refuses {
					break
				}
			}
			require.True(t, refuses)
			c.stepDown(t)
			m.writesAgain(t, func() { c.stepDown(t) })
		})
	}
}

// stepDown has the active server step down, and waits until one is active after that.
func (c *cluster) stepDown(t *testing.T) {
	t.Helper()
	before := c.leader(t)
	s := c.servers[before]
	old, err := s.root.Sys().Leader()
	require.NoError(t, err)
	require.NoError(t, s.client(s.rootToken).Sys().StepDown()) // without retries, which the next active server would get
	require.NoError(t, poll(2*readyTimeout, "a server to be active", func() (bool, error) {
		for i, s := range c.servers {
			leader, err := s.root.Sys().Leader()
			if err == nil && leader.IsSelf && (i != before || !leader.ActiveTime.Equal(old.ActiveTime)) {
				return true, nil
			}
		}
		return false, nil
	}))
}

// onReadableVault enables the plugin, with an account that has been read.
func onReadableVault(t *testing.T, s *vaultServer) *mount {
	t.Helper()
	m := enable(t, s, "pipedream")
	m.configure(t, nil)
	m.sim.SetAccount(github())
	m.read(t, "creds/"+githubID)
	m.sim.ResetRequests()
	return m
}

// readsButCannotWrite asserts that the mount can be read, and that it tells how it can be written to again, even if
// nobody writes.
func (m *mount) readsButCannotWrite(t *testing.T) {
	t.Helper()
	m.serves(t, pluginVersion, m.sim.Token(githubID))
	if onOpenBao {
		return // it can be written to after a reload
	}
	require.NoError(t, poll(passTimeout, "status to show the state", func() (bool, error) {
		return m.storageError(t) != "", nil
	}))
	assert.Contains(t, m.metricsText(t), "\nvault_pipedream_storage_failing 1\n")
	assert.True(t, m.refusesWrites(t))
	assert.Contains(t, m.vault.readLog(t), "the mount's storage cannot be written to")
	m.serves(t, pluginVersion, m.sim.Token(githubID))
}

// refusesWrites reports whether Vault refuses the mount's writes. If so, the errors and status must have the way out.
func (m *mount) refusesWrites(t *testing.T) bool {
	t.Helper()
	wayOut := cliName + " operator step-down"
	client := m.vault.client(m.vault.rootToken) // without retries
	for path, data := range map[string]map[string]any{"config": {"static_ttl": "7m"}, "roles/new": {"account_id": githubID}} {
		_, err := client.Logical().Write(m.in(path), data)
		if err == nil {
			return false
		}
		refused(t, err, http.StatusInternalServerError, "nothing was changed", wayOut)
	}
	return strings.Contains(m.storageError(t), wayOut)
}

// storageError returns what status says about storage.
func (m *mount) storageError(t *testing.T) string {
	t.Helper()
	text, _ := m.read(t, "status").Data["storage_error"].(string)
	return text
}

// writesAgain asserts that config, roles and fetched credentials are stored: a server that becomes active finds them.
func (m *mount) writesAgain(t *testing.T, restart func()) {
	t.Helper()
	require.NoError(t, poll(2*readyTimeout, "config to be written", func() (bool, error) {
		_, err := m.vault.root.Logical().Write(m.in("config"), map[string]any{"static_ttl": "7m"})
		return err == nil, nil // no server may be active yet
	}))
	id := "apn_" + slug(t.Name())
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID = id }))
	m.write(t, "roles/new", map[string]any{"account_id": id})
	fetched := m.read(t, "static-creds/new").Data["oauth_access_token"]
	assert.Equal(t, m.sim.Token(id), fetched)
	assert.Empty(t, m.storageError(t))
	assert.Contains(t, m.metricsText(t), "\nvault_pipedream_storage_failing 0\n")
	m.sim.ResetRequests()

	restart()
	var found *api.Secret
	require.NoError(t, poll(2*readyTimeout, "the role to be read", func() (bool, error) {
		var err error
		found, err = m.vault.root.Logical().Read(m.in("static-creds/new"))
		return err == nil && found != nil, nil // no server may be active yet
	}))
	assert.Equal(t, fetched, found.Data["oauth_access_token"])
	assert.Equal(t, "420", fmt.Sprint(m.read(t, "config").Data["static_ttl"]))
	m.askedForNoAccount(t)
}

// metricsText returns the metrics as Prometheus gets them.
func (m *mount) metricsText(t *testing.T) string {
	t.Helper()
	response, err := m.vault.root.Logical().ReadRaw(m.in("metrics"))
	require.NoError(t, err)
	defer response.Body.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(text)
}
