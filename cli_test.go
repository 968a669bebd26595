package pipedream

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

func TestTheServersOwnProgramIsNamed(t *testing.T) {
	for program, environment := range map[string]map[string]string{
		"vault": {"VAULT_VERSION": "1.21.1"},
		"bao":   {"VAULT_VERSION": "2.4.0", "BAO_VERSION": "2.4.0"},
	} {
		require.Equal(t, program, cliOf(func(name string) (string, bool) {
			value, ok := environment[name]
			return value, ok
		}))
	}
}

func TestHelpNamesTheServersProgram(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		nameCLI(m.b.Backend, "bao")
		for _, path := range []string{"", "config", "creds/x", "static-creds/x", "accounts/x", "refresh/x", "connect/x", "roles/x", "status"} {
			resp, err := m.handle(logical.HelpOperation, path, nil)
			require.NoError(t, err)
			help := resp.Data["help"].(string)
			require.NotContains(t, help, "$ vault ", path)
			require.Contains(t, help, "$ bao ", path)
		}
	})
}
