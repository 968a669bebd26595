package acceptance

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestEveryPathHasHelp is vault path-help for each path.
func TestEveryPathHasHelp(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	for _, path := range []string{
		"", "config", "creds/" + githubID, "static-creds/" + githubID, "accounts", "accounts/" + githubID,
		"refresh/" + githubID, "status",
	} {
		help, err := m.vault.root.Help(m.in(path))
		require.NoError(t, err, path)
		assert.NotEmpty(t, help.Help, path)
		assert.NotContains(t, help.Help, "<no value>", path)
	}
}

// TestOpenAPIDescribesTheEngine reads what Vault's own UI and generated clients are made of.
func TestOpenAPIDescribesTheEngine(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	document, err := m.vault.root.Logical().Read("sys/internal/specs/openapi")
	require.NoError(t, err)
	paths := asType[map[string]any](t, document.Data["paths"])
	for _, path := range []string{
		"config", "creds/{account_id}", "static-creds/{account_id}", "accounts/", "accounts/{account_id}",
		"refresh/{account_id}", "status",
	} {
		assert.Contains(t, paths, "/"+m.path+"/"+path)
	}
}
