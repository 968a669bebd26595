package acceptance

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestAPinnedVersionGoesBeforeTheMounts shows what a pin of the plugin's version does to an upgrade: Vault refuses to
// tune any mount to a version, and a reload moves them all to the pinned one.
func TestAPinnedVersionGoesBeforeTheMounts(t *testing.T) {
	t.Parallel()
	if onOpenBao {
		t.Skip("OpenBao pins no versions")
	}
	m, token, nextVersion := onUpgradableVault(t)
	pin := "sys/plugins/pins/secret/" + pluginName
	_, err := m.vault.root.Logical().Write(pin, map[string]any{"version": pluginVersion})
	require.NoError(t, err)
	refused(t, m.tuneTo(t, nextVersion), http.StatusBadRequest, "plugin_version cannot be set", "as a pinned version "+pluginVersion+" is in effect")
	require.NoError(t, m.reloadPlugin(t))
	m.serves(t, pluginVersion, token)

	t.Run("the pin moves all mounts", func(t *testing.T) {
		_, err := m.vault.root.Logical().Write(pin, map[string]any{"version": nextVersion})
		require.NoError(t, err)
		m.serves(t, pluginVersion, token)
		require.NoError(t, m.reloadPlugin(t))
		m.serves(t, nextVersion, token)
		pinned, err := m.vault.root.Logical().Read(pin)
		require.NoError(t, err)
		assert.Equal(t, nextVersion, pinned.Data["version"])
	})
	t.Run("the pin is removed", func(t *testing.T) {
		_, err := m.vault.root.Logical().Delete(pin)
		require.NoError(t, err)
		m.serves(t, nextVersion, token)
		require.NoError(t, m.reloadPlugin(t))
		m.serves(t, pluginVersion, token) // what the mount is tuned to
		require.NoError(t, m.tuneTo(t, nextVersion))
	})
}
