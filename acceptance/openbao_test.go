package acceptance

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOpenBaoByConfiguration has OpenBao register the plugin and log to a file through its configuration only.
func TestOpenBaoByConfiguration(t *testing.T) {
	t.Parallel()
	if !onOpenBao {
		t.Skip("the server is not OpenBao: make test-openbao")
	}
	s := &vaultServer{dir: t.TempDir()}
	require.NoError(t, s.makeDirectories())
	s.more = fmt.Sprintf(`
plugin_auto_register = true
plugin "secret" %q {
  command   = %q
  version   = %q
  sha256sum = "%x"
}
audit "file" "to-file" {
  options {
    file_path = %q
  }
}
`, pluginName, filepath.Base(pluginBin), pluginVersion, sha256.Sum256([]byte(readFile(t, pluginBin))), s.auditPath())
	require.NoError(t, s.launch())
	t.Cleanup(func() {
		s.showLog(t)
		require.NoError(t, s.process.stop())
	})
	require.NoError(t, s.initialize())
	require.NoError(t, s.unseal())

	m := enable(t, s, "pipedream")
	m.configure(t, nil)
	m.sim.SetAccount(github())
	assert.Equal(t, m.sim.Token(githubID), m.read(t, "creds/"+githubID).Data["oauth_access_token"])
	assert.Equal(t, 1, m.reads(t, "creds/"+githubID), "in the audit log")
}
