//go:build terraform

package acceptance

import (
	"archive/zip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestTerraformReadsACredential applies docs/examples/terraform.tf, with a program in place of the second provider, and
// searches all files that remain for the token.
func TestTerraformReadsACredential(t *testing.T) {
	t.Parallel()
	m := onOwnVault(t)
	account := githubWith(func(a *pipedreamtest.Account) { a.ID = exampleID })
	m.sim.SetAccount(account)
	w := newWorkspace(t, m, m.mayRead("static-creds/"+exampleID))
	used := filepath.Join(w.dir, "used")
	w.write(t, "terraform.tf",
		"https://vault.example.com:8200", m.vault.addr,
		`    github = {
      source  = "integrations/github"
      version = ">= 6.0"
    }
`, "",
		`provider "github" {
  token = ephemeral.vault_generic_secret.github.data["oauth_access_token"]
}`, fmt.Sprintf(`resource "terraform_data" "app" {
  provisioner "local-exec" {
    command     = "printenv TOKEN > %s"
    environment = { TOKEN = ephemeral.vault_generic_secret.github.data["oauth_access_token"] }
  }
}`, used))

	w.run(t, "plan", "-out=plan")
	w.run(t, "apply", "-auto-approve", "plan")
	assert.Equal(t, m.sim.Token(exampleID), strings.TrimSpace(readFile(t, used)))
	require.NoError(t, os.Remove(used))
	w.run(t, "apply", "-auto-approve", "-replace=terraform_data.app") // also creates a backup of the state
	assert.Equal(t, m.sim.Token(exampleID), strings.TrimSpace(readFile(t, used)))
	w.lacks(t, m.sim.Token(exampleID))
	assert.Equal(t, 4, m.reads(t, "static-creds/"+exampleID), "one read for each plan and each apply")
}

// TestTerraformsDataSourceKeepsTheToken shows why the example does not use the data source.
func TestTerraformsDataSourceKeepsTheToken(t *testing.T) {
	t.Parallel()
	m := onOwnVault(t)
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID = exampleID }))
	w := newWorkspace(t, m, m.mayRead("static-creds/"+exampleID))
	writeFile(t, w.in("main.tf"), fmt.Sprintf(`
provider "vault" { address = %q }
data "vault_generic_secret" "github" {
  path                  = "pipedream/static-creds/apn_XehyZPr"
  with_lease_start_time = false
}
`, m.vault.addr))
	w.run(t, "apply", "-auto-approve")
	assert.Contains(t, readFile(t, w.in("terraform.tfstate")), m.sim.Token(exampleID))
}

// TestTerraformManagesTheEngine applies docs/examples/terraform-engine.tf to a server without the engine.
func TestTerraformManagesTheEngine(t *testing.T) {
	t.Parallel()
	m := &mount{vault: newVault(t), path: "pipedream", apiKey: "pdkey_of_terraform"}
	m.sim = pipedreamtest.New(pipedreamtest.WithAPIKey(m.apiKey))
	t.Cleanup(m.sim.Close)
	var err error
	m.apiURL, err = m.sim.Start()
	require.NoError(t, err)
	m.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID = exampleID }))
	w := newWorkspace(t, m, `
path "sys/mounts" { capabilities = ["read"] }
path "sys/mounts/pipedream" { capabilities = ["create", "read", "update", "delete"] }
path "sys/mounts/pipedream/tune" { capabilities = ["read", "update"] }
path "pipedream/config" { capabilities = ["create", "update"] }
path "pipedream/roles/*" { capabilities = ["create", "read", "update", "delete"] }`)
	w.env = append(w.env, "TF_VAR_pipedream_api_key="+m.apiKey)
	w.write(t, "terraform-engine.tf", "https://vault.example.com:8200", m.vault.addr,
		"api_key = var.pipedream_api_key", fmt.Sprintf("api_key = var.pipedream_api_key, base_url = %q", m.apiURL))

	w.run(t, "plan", "-out=plan")
	w.run(t, "apply", "-auto-approve", "plan")
	secret := m.read(t, "creds/billing")
	assert.Equal(t, m.sim.Token(exampleID), secret.Data["oauth_access_token"])
	assert.LessOrEqual(t, secret.LeaseDuration, int((15 * time.Minute).Seconds()))

	w.run(t, "plan", "-detailed-exitcode", "-out=plan") // fails if there is something to change
	w.run(t, "apply", "-auto-approve", "-replace=vault_generic_endpoint.billing")
	w.lacks(t, m.apiKey)

	// config is written at each plan, so a change is undone, although no plan shows it.
	m.write(t, "config", map[string]any{"api_key": "pdkey_of_somebody", "verify": false})
	w.run(t, "plan", "-detailed-exitcode")
	m.write(t, "refresh/billing", nil)

	w.run(t, "destroy", "-auto-approve")
	mounts, err := m.vault.root.Sys().ListMounts()
	require.NoError(t, err)
	assert.NotContains(t, mounts, "pipedream/")
	w.lacks(t, m.apiKey)
}

// workspace is a directory for OpenTofu and its state.
type workspace struct {
	dir  string
	tofu string
	env  []string
}

// newWorkspace creates a workspace. Its Vault token has the given rules and may create child tokens, as the provider
// does.
func newWorkspace(t *testing.T, m *mount, rules string) *workspace {
	t.Helper()
	tofu, err := locate("TOFU_BIN", filepath.Join("..", "bin", "tofu"))
	require.NoError(t, err, "make test-terraform")
	provider := os.Getenv("PROVIDER_BIN")
	if provider == "" {
		t.Skip("PROVIDER_BIN is not set: make test-terraform VAULT_PROVIDER_BIN=path sets it")
	}
	w := &workspace{dir: t.TempDir(), tofu: tofu}
	plugins := t.TempDir()
	require.NoError(t, os.Symlink(provider, filepath.Join(plugins, "terraform-provider-vault")))
	writeFile(t, filepath.Join(plugins, "tofu.rc"), fmt.Sprintf("provider_installation {\n  dev_overrides { %q = %q }\n}\n", "hashicorp/vault", plugins))
	token := m.vault.login(t, slug(t.Name()), rules+"\npath \"auth/token/create\" { capabilities = [\"update\"] }\n").Token()
	w.env = append(m.vault.environment(), "TF_CLI_CONFIG_FILE="+filepath.Join(plugins, "tofu.rc"), "TF_IN_AUTOMATION=1",
		"CHECKPOINT_DISABLE=1", api.EnvVaultToken+"="+token)
	return w
}

func (w *workspace) in(name string) string { return filepath.Join(w.dir, name) }

// write copies an example with the changes into the workspace.
func (w *workspace) write(t *testing.T, name string, changes ...string) {
	t.Helper()
	example(t, w.dir, name, changes)
}

// run runs OpenTofu, which must succeed.
func (w *workspace) run(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), w.tofu, append([]string{args[0], "-no-color"}, args[1:]...)...) //nolint:gosec // a program under test
	cmd.Dir, cmd.Env = w.dir, w.env
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "tofu %s: %s", strings.Join(args, " "), output)
}

// lacks asserts that no file in the workspace contains the secret: not the state, its backup or a plan.
func (w *workspace) lacks(t *testing.T, secret string) {
	t.Helper()
	for _, name := range []string{"terraform.tfstate", "terraform.tfstate.backup"} {
		assert.NotContains(t, readFile(t, w.in(name)), secret, name)
	}
	plan, err := zip.OpenReader(w.in("plan"))
	require.NoError(t, err)
	defer plan.Close() //nolint:errcheck // only read
	require.NotEmpty(t, plan.File)
	for _, file := range plan.File {
		reader, err := file.Open()
		require.NoError(t, err)
		content, err := io.ReadAll(reader)
		require.NoError(t, err)
		assert.NotContains(t, string(content), secret, "%s in the plan", file.Name)
	}
}
