package acceptance

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// agentRestartDelay is how long Agent waits for further changes before it restarts the program that it supervises.
const agentRestartDelay = 2 * time.Second

// TestAgentKeepsTokensAlive runs Vault Agents that keep long-lived and short-lived tokens in each way that Agent offers.
func TestAgentKeepsTokensAlive(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t, pipedreamtest.WithLimit(0))
	m.write(t, "config", map[string]any{"rate_limit": 0})
	m.watch(t)
	lives := []time.Duration{3 * time.Second, 10 * time.Second, time.Minute}
	both := []string{"creds", "static-creds"}

	files := m.keepers(t.TempDir(), "file", both, lives...)
	// For some accounts Pipedream hands out the same token until it ends.
	for _, k := range m.keepers(t.TempDir(), "last", []string{"creds"}, lives[1:]...) {
		m.sim.Update(k.account.ID, func(a *pipedreamtest.Account) { a.RefreshBefore = time.Millisecond })
		files = append(files, k)
	}
	m.startAgent(t, files, m.templates(files))

	cached := m.keepers(t.TempDir(), "cache", both, lives...)
	m.startAgent(t, cached, "cache {}\n"+m.templates(cached))

	supervised := m.keepers(t.TempDir(), "env", []string{"creds"}, lives...)
	for _, k := range supervised {
		k.takes = agentRestartDelay
		m.startAgent(t, []*keeper{k}, m.supervision(k))
	}
	m.stayAlive(t, append(append(files, cached...), supervised...))
}

// startAgent runs Vault Agent until the test ends, with a Vault token that may read only what it is to keep.
func (m *mount) startAgent(t *testing.T, keepers []*keeper, config string) {
	t.Helper()
	dir := t.TempDir()
	tokenPath, configPath := filepath.Join(dir, "token"), filepath.Join(dir, "agent.hcl")
	var paths []string
	for _, k := range keepers {
		paths = append(paths, k.path)
	}
	token := m.vault.login(t, slug(t.Name()+" "+keepers[0].path), m.mayRead(paths...)).Token()
	writeFile(t, tokenPath, token)
	writeFile(t, configPath, fmt.Sprintf(`
vault {
  address = %q
}
auto_auth {
  method "token_file" {
    config = { token_file_path = %q }
  }
}
%s`, m.vault.addr, tokenPath, config))
	m.startConsumer(t, vaultBin, "agent", "-config="+configPath)
}

// supervision makes Agent run a program with the token in its environment. The program writes it to the keeper's file.
func (m *mount) supervision(k *keeper) string {
	script := fmt.Sprintf(`printf %%s "$TOKEN" > %[1]s.new && mv %[1]s.new %[1]s && exec sleep 3600`, k.file)
	return fmt.Sprintf(`
env_template "TOKEN" {
  contents = %q
}
exec {
  command = ["/bin/sh", "-c", %q]
}
`, m.contents(k), script)
}

// TestAgentsCachePassesReadsOn reads through Agent's API proxy with its cache on. Agent caches only what can be renewed.
// This engine's leases cannot be, so a client behind Agent sees a new token as soon as any other client does.
func TestAgentsCachePassesReadsOn(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	ports, err := freePorts(1)
	require.NoError(t, err)
	keepers := []*keeper{
		{account: github(), path: "creds/" + githubID},
		{account: github(), path: "static-creds/" + githubID},
		{account: github(), path: "refresh/" + githubID},
		{account: github(), path: "creds/apn_nobody"},
	}
	m.startAgent(t, keepers, fmt.Sprintf(`
cache {}
api_proxy {
  use_auto_auth_token = true
}
listener "tcp" {
  address     = "127.0.0.1:%d"
  tls_disable = true
}
`, ports[0]))
	client := m.vault.client("")
	require.NoError(t, client.SetAddress(fmt.Sprintf("http://127.0.0.1:%d", ports[0])))
	read := func(path string) *api.Secret {
		secret, err := client.Logical().Read(m.in(path))
		require.NoError(t, err)
		require.NotNil(t, secret)
		return secret
	}
	require.NoError(t, poll(readyTimeout, "Agent to answer", func() (bool, error) {
		_, err := client.Logical().Read(m.in("creds/" + githubID))
		return err == nil, nil
	}))

	first := read("creds/" + githubID)
	assert.NotEqual(t, first.LeaseID, read("creds/"+githubID).LeaseID, "each read has a lease of its own")
	m.sim.Rotate(githubID)
	require.NoError(t, poll(30*time.Second, "a refresh to go out", func() (bool, error) {
		_, err := client.Logical().Write(m.in("refresh/"+githubID), nil)
		return m.sim.Count(pipedreamtest.KindAccount) == 2, err
	}))
	for _, path := range []string{"creds/", "static-creds/"} {
		assert.Equal(t, m.sim.Token(githubID), read(path + githubID).Data["oauth_access_token"], path)
	}

	_, err = client.Logical().Read(m.in("creds/apn_nobody"))
	refused(t, err, http.StatusBadRequest, "apn_nobody", cliName+" list "+m.in("accounts"))
}
