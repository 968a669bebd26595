package acceptance

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// onUpgradableVault enables the plugin on a server with its own plugin directory, reads a token, and registers the next
// version.
func onUpgradableVault(t *testing.T) (m *mount, token, nextVersion string) {
	t.Helper()
	next, nextVersion := nextPlugin(t)
	s := startWithOwnPlugins(t)
	m = enable(t, s, "pipedream")
	m.configure(t, nil)
	m.sim.SetAccount(github())
	token = asType[string](t, m.read(t, "creds/"+githubID).Data["oauth_access_token"])
	m.sim.ResetRequests()
	s.install(t, next, nextCommand)
	require.NoError(t, s.registerFile(nextCommand, nextVersion))
	return m, token, nextVersion
}

// startWithOwnPlugins is newVault with a plugin directory of its own.
func startWithOwnPlugins(t *testing.T) *vaultServer {
	t.Helper()
	s := &vaultServer{dir: t.TempDir()}
	withOwnPlugins(t, s)
	t.Cleanup(func() {
		if s.process != nil {
			s.showLog(t)
			assert.NoError(t, s.process.stop())
		}
	})
	require.NoError(t, s.start())
	return s
}

// serves asserts that this version serves the mount, and that it serves the token without a request.
func (m *mount) serves(t *testing.T, version, token string) {
	t.Helper()
	found, err := m.version()
	require.NoError(t, err)
	assert.Equal(t, version, found)
	assert.Equal(t, token, m.read(t, "static-creds/"+githubID).Data["oauth_access_token"])
	m.askedForNoAccount(t)
}

// isGone asserts that there is no engine, both for a reader and in Vault's log.
func (m *mount) isGone(t *testing.T) {
	t.Helper()
	secret, err := m.vault.root.Logical().Read(m.in("status"))
	require.NoError(t, err, "a path without an engine is a 404 without a text")
	require.Nil(t, secret)
	assert.Contains(t, m.vault.readLog(t), "skipping plugin-based mount entry: path="+m.in(""))
}

// otherArchitecture returns a program for another processor: the plugin with another machine number in its header.
func otherArchitecture(t *testing.T) []byte {
	t.Helper()
	content, err := os.ReadFile(pluginBin)
	require.NoError(t, err)
	const machine, s390 = 18, 22
	require.Equal(t, "\x7fELF", string(content[:4]))
	content[machine], content[machine+1] = 0, s390
	return content
}

// TestUpgradeToAPluginThatCannotStart shows the errors that an operator gets, and that tuning back helps: before the
// next start of Vault, so that no one notices, and after it, when there is no engine.
func TestUpgradeToAPluginThatCannotStart(t *testing.T) {
	t.Parallel()
	m, token, _ := onUpgradableVault(t)
	for _, broken := range []struct {
		name, version, err string
		content            []byte
	}{
		{"it exits at once", "v98.0.0", "Unrecognized remote plugin message", []byte("#!/bin/sh\nexit 1\n")},
		{"it is not a plugin", "v98.0.1", "Unrecognized remote plugin message: hello", []byte("#!/bin/sh\necho hello\n")},
		{"it is for another architecture", "v98.0.2", "exec format error", otherArchitecture(t)},
	} {
		t.Run(broken.name, func(t *testing.T) {
			m.vault.installContent(t, broken.content, broken.version)
			require.NoError(t, m.vault.registerFile(broken.version, broken.version), "Vault accepts any version")
			err := m.vault.root.Sys().Mount("try", &api.MountInput{
				Type: pluginName, Config: api.MountConfigInput{PluginVersion: broken.version},
			})
			refused(t, err, 400, broken.err)

			require.NoError(t, m.tuneTo(t, broken.version))
			require.ErrorContains(t, m.reloadPlugin(t), broken.err)
			m.serves(t, pluginVersion, token)
			require.NoError(t, m.tuneTo(t, pluginVersion))
			m.vault.restart(t)
			m.serves(t, pluginVersion, token)

			require.NoError(t, m.tuneTo(t, broken.version))
			m.vault.restart(t)
			m.isGone(t)
			require.NoError(t, m.tuneTo(t, pluginVersion))
			require.NoError(t, m.reloadPlugin(t))
			m.serves(t, pluginVersion, token)
			m.vault.noIrrevocableLease(t)
		})
	}
}

// TestVersionIsDeregisteredWhileInUse shows that the version keeps serving until it has to be started again.
func TestVersionIsDeregisteredWhileInUse(t *testing.T) {
	t.Parallel()
	m, token, nextVersion := onUpgradableVault(t)
	deregister := func() {
		require.NoError(t, m.vault.root.Sys().DeregisterPlugin(&api.DeregisterPluginInput{
			Name: pluginName, Type: api.PluginTypeSecrets, Version: pluginVersion,
		}))
	}
	deregister()
	m.serves(t, pluginVersion, token)
	require.ErrorContains(t, m.reloadPlugin(t), "plugin not found in the catalog")
	refused(t, m.errorOf(t, "status"), 500, "plugin not found in the catalog")

	t.Run("it is registered again", func(t *testing.T) {
		require.NoError(t, m.vault.registerFile(filepath.Base(pluginBin), pluginVersion))
		m.serves(t, pluginVersion, token)
		deregister()
		m.vault.restart(t)
		m.isGone(t)
		require.NoError(t, m.vault.registerFile(filepath.Base(pluginBin), pluginVersion))
		require.NoError(t, m.reloadPlugin(t))
		m.serves(t, pluginVersion, token)
	})
	t.Run("another version takes its place", func(t *testing.T) {
		deregister()
		m.vault.restart(t)
		m.isGone(t)
		require.NoError(t, m.tuneTo(t, nextVersion))
		require.NoError(t, m.reloadPlugin(t))
		m.serves(t, nextVersion, token)
	})
}

// TestFileOfTheRunningVersionChanges shows that Vault cannot start a plugin whose file was overwritten or removed.
func TestFileOfTheRunningVersionChanges(t *testing.T) {
	t.Parallel()
	m, token, _ := onUpgradableVault(t)
	file := filepath.Join(m.vault.plugins, filepath.Base(pluginBin))
	for name, happens := range map[string]struct {
		err string
		to  func()
	}{
		"it is replaced by another version": {"checksums did not match", func() {
			require.NoError(t, os.Remove(file)) // as install does
			next, _ := nextPlugin(t)
			m.vault.install(t, next, filepath.Base(file))
		}},
		"it is removed":        {"no such file or directory", func() { require.NoError(t, os.Remove(file)) }},
		"it is not executable": {"permission denied", func() { require.NoError(t, os.Chmod(file, 0o600)) }},
		"it is a link to nowhere": {"no such file or directory", func() {
			require.NoError(t, os.Remove(file))
			require.NoError(t, os.Symlink("/nowhere", file))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			happens.to()
			m.serves(t, pluginVersion, token)
			require.ErrorContains(t, m.reloadPlugin(t), happens.err)
			require.ErrorContains(t, m.errorOf(t, "status"), happens.err)
			require.NoError(t, os.RemoveAll(file))
			m.vault.install(t, pluginBin, filepath.Base(file))
			m.serves(t, pluginVersion, token)
		})
	}
}

// TestSymbolicLinksAmongPlugins shows which symbolic links Vault rejects.
func TestSymbolicLinksAmongPlugins(t *testing.T) {
	t.Parallel()
	next, nextVersion := nextPlugin(t)
	t.Run("a file that is a link to elsewhere", func(t *testing.T) {
		m, token, _ := onUpgradableVault(t)
		require.NoError(t, os.Symlink(next, filepath.Join(m.vault.plugins, "link")))
		require.ErrorContains(t, m.vault.registerFile("link", nextVersion), "cannot execute files outside of configured plugin directory")
		m.serves(t, pluginVersion, token)
	})
	t.Run("a directory that is a link", func(t *testing.T) {
		s := &vaultServer{dir: t.TempDir()}
		withOwnPlugins(t, s)
		target := s.plugins
		s.plugins = filepath.Join(s.dir, "link")
		require.NoError(t, os.Symlink(target, s.plugins))
		t.Cleanup(func() { assert.NoError(t, s.process.stop()) })
		require.ErrorContains(t, s.start(), "cannot execute files outside of configured plugin directory")
	})
}

// TestSnapshotIsRestoredIntoANewCluster shows that a snapshot contains the catalog but not the plugin file: the new
// servers need the registered file.
func TestSnapshotIsRestoredIntoANewCluster(t *testing.T) {
	t.Parallel()
	m, token, nextVersion := onUpgradableVault(t)
	require.NoError(t, m.tuneTo(t, nextVersion))
	require.NoError(t, m.reloadPlugin(t))
	lease := m.read(t, "creds/"+githubID).LeaseID
	snapshot := m.vault.snapshot(t)

	s := startWithOwnPlugins(t)    // has only the file of the old version
	file, err := os.Open(snapshot) //nolint:gosec // written by snapshot
	require.NoError(t, err)
	defer file.Close() //nolint:errcheck // only read
	require.NoError(t, s.root.Sys().RaftSnapshotRestoreWithContext(t.Context(), file, true))
	// Its keys are now those of the cluster that the snapshot came from.
	s.unsealKey, s.rootToken = m.vault.unsealKey, m.vault.rootToken
	s.root.SetToken(s.rootToken)
	require.NoError(t, poll(readyTimeout, "the snapshot to be taken in", func() (bool, error) {
		status, err := s.root.Sys().SealStatus()
		return err == nil && status.Sealed, nil
	}))
	require.NoError(t, s.unseal())

	there := *m
	there.vault = s
	there.isGone(t)
	next, _ := nextPlugin(t)
	s.install(t, next, nextCommand)
	require.NoError(t, there.reloadPlugin(t))
	there.serves(t, nextVersion, token)
	_, err = s.root.Sys().Lookup(lease)
	require.NoError(t, err, "a lease was lost")
}

// TestLeaseEndsWhileThereIsNoEngine shows what happens to a lease: Vault gives up on it at once, and an operator can
// revoke it when the engine is back.
func TestLeaseEndsWhileThereIsNoEngine(t *testing.T) {
	t.Parallel()
	m, token, _ := onUpgradableVault(t)
	m.vault.installContent(t, []byte("#!/bin/sh\nexit 1\n"), "broken")
	require.NoError(t, m.vault.registerFile("broken", "v98.0.0"))
	require.NoError(t, m.tuneTo(t, "v98.0.0"))
	m.vault.restart(t)
	m.isGone(t)

	require.NoError(t, m.vault.root.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: m.in("creds/"), Prefix: true}), "the lease ends now")
	require.NoError(t, poll(readyTimeout, "Vault to give up on the lease", func() (bool, error) {
		return len(m.vault.irrevocable(t)) == 1, nil
	}))
	require.NoError(t, m.tuneTo(t, pluginVersion))
	require.NoError(t, m.reloadPlugin(t))
	m.serves(t, pluginVersion, token)
	assert.Len(t, m.vault.irrevocable(t), 1)
	lease := asType[map[string]any](t, m.vault.irrevocable(t)[0])["lease_id"]
	require.NoError(t, m.vault.root.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: asType[string](t, lease), Sync: true}))
	assert.Empty(t, m.vault.irrevocable(t))
}

// irrevocable returns the leases that Vault has given up on.
func (s *vaultServer) irrevocable(t *testing.T) []any {
	t.Helper()
	secret, err := s.root.Logical().ReadWithData("sys/leases", map[string][]string{"type": {"irrevocable"}})
	require.NoError(t, err)
	leases, _ := secret.Data["leases"].([]any)
	return leases
}
