package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestExamplesWork runs those files of docs/examples that can run here, with only addresses, paths and the account
// changed.
func TestExamplesWork(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	approle := m.enableAppRole(t, in("role-id"), in("secret-id"), "creds/"+githubID, "static-creds/"+githubID)
	writeFile(t, in("token"), m.vault.login(t, slug(t.Name()), m.mayRead("creds/"+githubID, "static-creds/"+githubID)).Token())
	app := in("app")
	writeFile(t, app, fmt.Sprintf("#!/bin/sh\nprintf %%s \"$GITHUB_TOKEN\" > %s\nexec sleep 3600\n", in("app-token")))
	require.NoError(t, os.Chmod(app, 0o700)) //nolint:gosec // it is run
	ports, err := freePorts(1)
	require.NoError(t, err)

	common := []string{"https://vault.example.com:8200", m.vault.addr, "pipedream/", m.in(""), "apn_XehyZPr", githubID}
	agent := append([]string{
		"auth/approle", approle, "/etc/vault-agent/role-id", in("role-id"), "/etc/vault-agent/secret-id", in("secret-id"),
	}, common...)
	for name, changes := range map[string][]string{
		"agent-template.hcl": append([]string{"/run/app/github-token", in("agent-token")}, agent...),
		"agent-env.hcl":      append([]string{"/usr/local/bin/app", app}, agent...),
		"agent-proxy.hcl":    append([]string{"127.0.0.1:8100", fmt.Sprintf("127.0.0.1:%d", ports[0])}, agent...),
	} {
		m.startConsumer(t, vaultBin, "agent", "-config="+example(t, dir, name, changes))
	}
	m.startConsumer(t, consulTemplate(t), "-kill-signal=SIGTERM", "-config="+example(t, dir, "consul-template.hcl", append([]string{
		"/run/vault/token", in("token"), "/run/app/github-token-for-long-work", in("long-token"), "/run/app/github-token", in("token-file"),
	}, common...)))

	proxy := m.vault.client("")
	require.NoError(t, proxy.SetAddress(fmt.Sprintf("http://127.0.0.1:%d", ports[0])))
	holders := map[string]func() string{
		"agent-proxy.hcl": func() string {
			secret, err := proxy.Logical().Read(m.in("static-creds/" + githubID))
			if err != nil {
				return "" // not up yet
			}
			return asType[string](t, secret.Data["oauth_access_token"])
		},
	}
	for name, file := range map[string]string{
		"agent-template.hcl": "agent-token", "agent-env.hcl": "app-token",
		"consul-template.hcl, a lease": "token-file", "consul-template.hcl, no lease": "long-token",
	} {
		k := &keeper{file: in(file)}
		holders[name] = func() string { return k.holds(t) }
	}
	m.untilAll(t, holders, m.sim.Token(githubID))
	for _, file := range []string{"agent-token", "token-file"} {
		info, err := os.Stat(in(file))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode(), file)
	}
}

// enableAppRole sets up the login of an Agent for paths below the mount, and returns the path of the auth method.
func (m *mount) enableAppRole(t *testing.T, roleIDPath, secretIDPath string, paths ...string) string {
	t.Helper()
	name := slug(t.Name())
	root := m.vault.root
	require.NoError(t, root.Sys().PutPolicy(name+"-agent", m.mayRead(paths...)))
	require.NoError(t, root.Sys().EnableAuthWithOptions(name, &api.EnableAuthOptions{Type: "approle"}))
	t.Cleanup(func() { assert.NoError(t, root.Sys().DisableAuth(name)) })
	role := "auth/" + name + "/role/app"
	_, err := root.Logical().Write(role, map[string]any{"token_policies": name + "-agent"})
	require.NoError(t, err)
	id, err := root.Logical().Read(role + "/role-id")
	require.NoError(t, err)
	writeFile(t, roleIDPath, asType[string](t, id.Data["role_id"]))
	secret, err := root.Logical().Write(role+"/secret-id", nil)
	require.NoError(t, err)
	writeFile(t, secretIDPath, asType[string](t, secret.Data["secret_id"]))
	return "auth/" + name
}

// example writes an example with the changes, pairs of old and new text, to the directory and returns its path. The
// example must contain each old text.
func example(t *testing.T, dir, name string, changes []string) string {
	t.Helper()
	text := readFile(t, filepath.Join("..", "docs", "examples", name))
	for i := 0; i < len(changes); i += 2 {
		assert.Contains(t, text, changes[i], name)
	}
	path := filepath.Join(dir, name)
	writeFile(t, path, strings.NewReplacer(changes...).Replace(text))
	return path
}

func consulTemplate(t *testing.T) string {
	t.Helper()
	bin, err := locate("CONSUL_TEMPLATE_BIN", filepath.Join("..", "bin", "consul-template"))
	require.NoError(t, err, "make bin/consul-template")
	return bin
}
