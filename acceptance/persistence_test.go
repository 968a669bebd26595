package acceptance

import (
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLiveTokenOutlivesItsProcess shows that the end of a process, orderly or not, costs no request for a live token.
// Otherwise all programs that read after an outage would exceed the rate limit.
func TestLiveTokenOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	m := onOwnVault(t)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	token := m.read(t, "creds/"+githubID).Data
	key := m.read(t, "creds/"+stripeID).Data
	snapshot := m.vault.snapshot(t)
	requests := len(m.sim.Requests())

	for _, event := range []struct {
		name   string
		happen func(*testing.T)
	}{
		{"the plugin is reloaded", m.reload},
		{"the plugin is killed", m.killPlugin},
		{"the server is restarted", m.vault.restart},
		{"the server is killed", m.vault.crash},
		{"the server is sealed and unsealed", m.vault.sealAndUnseal},
		{"a snapshot is restored", func(t *testing.T) { t.Helper(); m.loseAndRestore(t, snapshot) }},
	} {
		t.Run(event.name, func(t *testing.T) {
			event.happen(t)
			assert.Equal(t, token, m.read(t, "creds/"+githubID).Data)
			assert.Equal(t, key, m.read(t, "creds/"+stripeID).Data)
			assert.Len(t, m.sim.Requests(), requests)
		})
	}
}

// TestLeaseOutlivesTheServer shows that a lease from before a restart can be revoked after it.
func TestLeaseOutlivesTheServer(t *testing.T) {
	t.Parallel()
	m := onOwnVault(t)
	m.sim.SetAccount(github())
	secret := m.read(t, "creds/"+githubID)
	m.vault.restart(t)

	found, err := m.vault.root.Sys().Lookup(secret.LeaseID)
	require.NoError(t, err)
	assert.LessOrEqual(t, number(t, found.Data["ttl"]), secret.LeaseDuration)
	require.NoError(t, m.vault.root.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: secret.LeaseID, Sync: true}))
}

// TestCachedCredentialsOutliveAnOutage shows that live credentials are served while Pipedream is down: before and after
// they are due, and after a restart of the server.
func TestCachedCredentialsOutliveAnOutage(t *testing.T) {
	t.Parallel()
	m := onOwnVault(t)
	m.configure(t, map[string]any{"static_ttl": "2s", "max_retries": 0})
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	token := m.read(t, "creds/"+githubID).Data
	key := m.read(t, "creds/"+stripeID).Data
	m.sim.Close()

	served := func() {
		assert.Equal(t, token, m.read(t, "creds/"+githubID).Data)
		assert.Equal(t, key, m.read(t, "creds/"+stripeID).Data)
	}
	require.NoError(t, poll(30*time.Second, "a fetch to fail", func() (bool, error) {
		served()
		return number(t, m.read(t, "status").Data["failures"]) > 0, nil
	}))
	served()
	m.vault.restart(t)
	served()
}

// TestStoredSecretsAreEncrypted searches everything that the server wrote to disk for secrets.
func TestStoredSecretsAreEncrypted(t *testing.T) {
	t.Parallel()
	m := onOwnVault(t)
	m.sim.SetAccount(github())
	m.read(t, "creds/"+githubID)
	require.NoError(t, m.vault.process.stop())

	files := 0
	require.NoError(t, filepath.WalkDir(m.vault.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		files++
		lacks(t, path, readFile(t, path), m.sim.Secrets()...)
		return nil
	}))
	assert.Greater(t, files, 3, "files below the server's directory")
}

func (m *mount) reload(t *testing.T) {
	t.Helper()
	_, err := m.vault.root.Sys().ReloadPlugin(&api.ReloadPluginInput{Mounts: []string{m.path + "/"}})
	require.NoError(t, err)
}

// killPlugin kills the plugin's process and waits until another one answers.
func (m *mount) killPlugin(t *testing.T) {
	t.Helper()
	pid := m.vault.pluginPID(t)
	require.NoError(t, killPlugin(pid))
	// Vault starts another process with the next request, and may fail that request.
	require.NoError(t, poll(30*time.Second, "the plugin to be back", func() (bool, error) {
		_, err := m.vault.root.Logical().Read(m.in("status"))
		return err == nil, nil
	}))
	assert.NotEqual(t, pid, m.vault.pluginPID(t))
}

// loseAndRestore deletes the config and restores a snapshot that has it.
func (m *mount) loseAndRestore(t *testing.T, snapshot string) {
	t.Helper()
	m.deleteConfig(t)
	m.vault.restore(t, snapshot)
	require.NoError(t, poll(readyTimeout, "the config to be back", func() (bool, error) {
		config, err := m.vault.root.Logical().Read(m.in("config"))
		return err == nil && config != nil, nil
	}))
}
