package acceptance

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// apiPage has samples for each operation.
const apiPage = "docs/api.md"

// TestSamplesOfTheAPIPageWork runs every sample request of docs/api.md, both with curl and with the vault command. Only
// names, secrets and the path of the mount are changed.
func TestSamplesOfTheAPIPageWork(t *testing.T) {
	t.Parallel()
	for _, needed := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(needed); err != nil {
			t.Skipf("%s is not installed", needed)
		}
	}
	c := onConnect(t)
	c.sim.SetAccount(github())
	c.sim.SetAccount(stripe())
	c.sim.SetAccount(githubWith(func(a *pipedreamtest.Account) { a.ID, a.Dead, a.Error = "apn_dead", true, "invalid_grant" }))
	c.sim.SetAccount(connected("apn_alice1", "alice"))
	dir := t.TempDir()
	require.NoError(t, os.Symlink(vaultBin, filepath.Join(dir, "vault")))

	names := strings.NewReplacer("pipedream/", c.in(""), "demo-client", clientID, "proj_1aBcDeF", projectID,
		`"client_secret": "..."`, `"client_secret": "`+c.clientSecret+`"`, "curl --header", "curl --fail-with-body --silent --show-error --header")
	sections := map[string]bool{}
	for _, b := range blocksOf(t, apiPage) {
		if b.kind != blockCommands || !b.ofAPISample() {
			continue
		}
		if !sections[b.section] {
			sections[b.section] = true
			c.prepareFor(t, b.section)
		}
		out, err := c.bash(t, dir, names.Replace(b.text))
		assert.NoError(t, err, "%s:\n%s\n%s", b.section, b.text, out) //nolint:testifylint // the others are to be run too
	}
	require.Greater(t, len(sections), 10, "samples were looked for")
}

// prepareFor creates what the samples of a section use.
func (c *connect) prepareFor(t *testing.T, title string) {
	t.Helper()
	inProject := map[string]any{"project_id": projectID}
	role := map[string]any{"app": "github", "external_user_id": "alice"}
	switch title {
	case "Make a Connect link": // of a user who has no account
		role["external_user_id"] = "carol"
	case "Disconnect an account of one's own":
		c.sim.SetAccount(connectedWith("apn_octocat", "alice", func(a *pipedreamtest.Account) { a.Name = "octocat" }))
	case "Disconnect an account by its id", "Read a user", "Remove a user":
	case "List accounts":
		c.sim.SetAccount(connected("apn_alice3", "alice"))
	case "Write the configuration", "Write a role", "See what is connected":
	default: // with an API key, for the accounts of the workspace
		inProject = nil
		role = map[string]any{"account_id": githubID}
	}
	if inProject == nil {
		c.configure(t, map[string]any{"project_id": ""})
	} else {
		c.configureClient(t, maps.Clone(inProject))
	}
	c.write(t, "roles/github", role)
	c.write(t, "roles/billing", map[string]any{"account_id": stripeID})
}

// bash runs a script as an operator would. Its directory comes first in PATH.
func (c *connect) bash(t *testing.T, dir, script string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script) //nolint:gosec // of the documentation
	cmd.Dir = dir
	cmd.Env = append(c.vault.environment(), "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"), "VAULT_ADDR="+c.vault.addr,
		"VAULT_TOKEN="+c.vault.rootToken, "KEY="+c.apiKey, "SECRET="+c.clientSecret)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}
