package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestAgentKeepsTheTokenInAFileAlive has Vault Agent render an account whose tokens live for seconds, both as a lease
// and without: the file must never hold a token that has ended.
func TestAgentKeepsTheTokenInAFileAlive(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"creds/", "static-creds/"} {
		t.Run(strings.Trim(path, "/"), func(t *testing.T) {
			t.Parallel()
			m := onSharedVault(t)
			m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.RefreshBefore = 20*time.Second, 15*time.Second }))
			file := m.startAgent(t, path+githubID)

			require.NoError(t, poll(time.Minute, "Agent to write the file", func() (bool, error) { return exists(file), nil }))
			first := readFile(t, file)
			require.NoError(t, poll(time.Minute, "another token", func() (bool, error) {
				_, end, _ := strings.Cut(first, " ")
				assert.LessOrEqual(t, time.Now().UTC().Format(time.RFC3339), end, "the token in the file has ended")
				return readFile(t, file) != first || t.Failed(), nil
			}))
		})
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// startAgent runs Vault Agent, with a token for this path alone, until the test ends. It returns the file that Agent
// writes: an access token and when it ends.
func (m *mount) startAgent(t *testing.T, path string) (file string) {
	t.Helper()
	dir := t.TempDir()
	file = filepath.Join(dir, "rendered")
	tokenPath, configPath := filepath.Join(dir, "token"), filepath.Join(dir, "agent.hcl")
	policy := fmt.Sprintf(`path %q { capabilities = ["read"] }`, m.in(path))
	token := m.vault.login(t, slug(t.Name()), policy).Token()
	require.NoError(t, os.WriteFile(tokenPath, []byte(token), 0o600))
	config := fmt.Sprintf(`
vault {
  address = %q
}
auto_auth {
  method "token_file" {
    config = { token_file_path = %q }
  }
}
template {
  contents    = "{{ with secret \"%s\" }}{{ .Data.oauth_access_token }} {{ .Data.expires_at }}{{ end }}"
  destination = %q
}
`, m.vault.addr, tokenPath, m.in(path), file)
	require.NoError(t, os.WriteFile(configPath, []byte(config), 0o600))

	log, err := os.Create(filepath.Join(dir, "agent.log")) //nolint:gosec // below a directory of the test's own
	require.NoError(t, err)
	agent, err := startProcess(log, m.vault.environment(), vaultBin, "agent", "-config="+configPath)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, agent.stop())
		require.NoError(t, log.Close())
		if t.Failed() {
			t.Logf("the log of Agent:\n%s", readFile(t, log.Name()))
		}
	})
	return file
}
