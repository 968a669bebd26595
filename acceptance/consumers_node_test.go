package acceptance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestNodeClient runs node/client.js, which checks its own results. It needs Node and node-vault, so it runs only if
// NODE_MODULES is set. See "make test-node".
func TestNodeClient(t *testing.T) {
	t.Parallel()
	modules := os.Getenv("NODE_MODULES")
	if modules == "" {
		t.Skip("NODE_MODULES is not set; make test-node sets it")
	}
	node, err := exec.LookPath("node")
	require.NoError(t, err)
	m := onSharedVault(t)
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.RefreshBefore = 5*time.Second, 2*time.Second }))

	token := m.vault.login(t, slug(t.Name()), m.mayRead("creds/*", "static-creds/*", "refresh/*")+`
path "`+m.in("accounts")+`" { capabilities = ["list"] }
path "sys/leases/lookup" { capabilities = ["update"] }`).Token()
	cmd := exec.CommandContext(t.Context(), node, filepath.Join("node", "client.js")) //nolint:gosec // found where PATH says
	cmd.Env = append(m.vault.environment(), "NODE_PATH="+modules, "VAULT_ADDR="+m.vault.addr, "VAULT_TOKEN="+token,
		"MOUNT="+m.path, "ACCOUNT="+githubID)
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
	t.Log(strings.TrimSpace(string(output)))
}
