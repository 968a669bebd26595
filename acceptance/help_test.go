package acceptance

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestEveryPathHasHelp runs the equivalent of "vault path-help" for each path.
func TestEveryPathHasHelp(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	for _, path := range []string{
		"", "config", "creds/" + githubID, "static-creds/" + githubID, "accounts", "accounts/" + githubID,
		"refresh/" + githubID, "connect/github", "status",
	} {
		help, err := m.vault.root.Help(m.in(path))
		require.NoError(t, err, path)
		assert.NotEmpty(t, help.Help, path)
		assert.NotContains(t, help.Help, "<no value>", path)
	}
	for _, path := range []string{"creds", "static-creds", "refresh", "connect"} {
		help, err := m.vault.root.Help(m.in(path + "/crm/acme:42"))
		require.NoError(t, err, path)
		assert.Contains(t, help.Help, "pipedream/"+path+"/crm/acme:42")
	}
}
