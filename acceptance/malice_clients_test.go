package acceptance

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestFieldNamesBreakNoClient uses every name on the engine's list of reserved names for a field of credentials, with
// JSON values of every type. Each kind of client reads them. Some of these names make consul-template panic, and
// Vault's own HTTP layer gives others a meaning.
func TestFieldNamesBreakNoClient(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t, pipedreamtest.WithLimit(0))
	m.write(t, "config", map[string]any{"rate_limit": 0})
	values := map[string]any{
		"string": "text", "number": json.Number("17"), "list": []any{"a", "b"}, "map": map[string]any{"deletion_time": "2001-01-01T00:00:00Z"}, "null": nil,
	}
	var paths []string
	want := map[string][]string{} // lines that the template must produce, by path
	add := func(id string, fields map[string]any, static bool) {
		account := stripe()
		account.ID, account.Credentials = id, fields
		m.sim.SetAccount(account)
		kinds := []string{"static-creds/" + id}
		if !static {
			kinds = append(kinds, "creds/"+id)
		}
		for _, path := range kinds {
			paths = append(paths, path)
			for name, value := range fields {
				if value == nil {
					continue
				}
				text, isText := value.(string)
				if !isText {
					encoded, err := json.Marshal(value)
					require.NoError(t, err)
					text = string(encoded)
				}
				if name != "other" {
					name = "credential_" + name
				}
				want[path] = append(want[path], fmt.Sprintf("%s %s=%s", path, name, text))
			}
		}
	}
	names := namesReserved(t)
	for kind, value := range values {
		together := map[string]any{"other": "text"}
		for i, name := range names {
			together[name] = value
			alone := map[string]any{name: value}
			if value == nil {
				alone["other"] = "text" // otherwise there would be no credential
			}
			add(fmt.Sprintf("apn_%s_%d", kind, i), alone, true)
		}
		add("apn_all_"+kind, together, false)
	}
	slices.Sort(paths)

	for _, path := range paths {
		data := m.read(t, path).Data
		for _, line := range want[path] {
			name, value, _ := strings.Cut(strings.TrimPrefix(line, path+" "), "=")
			assert.Equal(t, value, data[name], "%s: %s", path, name)
		}
	}

	client := m.vault.login(t, slug(t.Name()), fmt.Sprintf(`path %q { capabilities = ["read"] }`, m.in("*")))
	var template strings.Builder
	for _, path := range paths {
		fmt.Fprintf(&template, "{{ with secret %q }}{{ range $k, $v := .Data }}%s {{ $k }}={{ $v }}\n{{ end }}{{ end }}", m.in(path), path)
	}
	rendered := func(t *testing.T, file string) {
		t.Helper()
		lines := strings.Split(readFile(t, file), "\n")
		for _, path := range paths {
			for _, line := range want[path] {
				assert.Contains(t, lines, line)
			}
		}
	}
	t.Run("Agent", func(t *testing.T) { m.readThroughAgent(t, client.Token(), template.String(), paths, rendered) })
	t.Run("consul-template", func(t *testing.T) { m.readThroughConsulTemplate(t, client.Token(), template.String(), rendered) })
}

// namesReserved are the names on the engine's own list, and one name for each prefix on it.
func namesReserved(t *testing.T) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "internal", "credential", "reserved.go"), nil, 0)
	require.NoError(t, err)
	ast.Inspect(file, func(node ast.Node) bool {
		if pair, ok := node.(*ast.KeyValueExpr); ok {
			name, err := strconv.Unquote(asType[*ast.BasicLit](t, pair.Key).Value)
			require.NoError(t, err)
			if strings.HasSuffix(name, "_") {
				name += "status_code"
			}
			names = append(names, name)
		}
		return true
	})
	assert.Subset(t, names, []string{"ttl", "certificate", "_raw", "http_status_code"})
	return names
}

// readThroughAgent has Vault Agent render a template and pass on reads through its API proxy, with its cache on.
func (m *mount) readThroughAgent(t *testing.T, vaultToken, template string, paths []string, rendered func(*testing.T, string)) {
	t.Helper()
	dir := t.TempDir()
	ports, err := freePorts(1)
	require.NoError(t, err)
	files := map[string]string{"token": vaultToken, "template": template}
	files["agent.hcl"] = fmt.Sprintf(`
vault { address = %q }
auto_auth {
  method "token_file" { config = { token_file_path = "%[2]s/token" } }
}
cache {}
api_proxy { use_auto_auth_token = true }
listener "tcp" {
  address     = "127.0.0.1:%[3]d"
  tls_disable = true
}
template {
  source      = "%[2]s/template"
  destination = "%[2]s/rendered"
}
`, m.vault.addr, dir, ports[0])
	log := m.startClient(t, dir, files, vaultBin, "agent", "-config="+filepath.Join(dir, "agent.hcl"))
	require.NoError(t, poll(readyTimeout, "Agent to render the template", func() (bool, error) {
		return present(filepath.Join(dir, "rendered")), log.alive()
	}))
	rendered(t, filepath.Join(dir, "rendered"))

	config := api.DefaultConfig()
	config.Address = fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	proxy, err := api.NewClient(config)
	require.NoError(t, err)
	for range 2 { // the second time, a lease comes from the cache
		for _, path := range paths {
			direct := m.read(t, path).Data
			secret, err := proxy.Logical().Read(m.in(path))
			if assert.NoError(t, err, path) && assert.NotNil(t, secret, path) {
				delete(direct, "ttl")
				delete(secret.Data, "ttl")
				assert.Equal(t, direct, secret.Data, path)
			}
		}
	}
	require.NoError(t, log.alive())
}

func (m *mount) readThroughConsulTemplate(t *testing.T, vaultToken, template string, rendered func(*testing.T, string)) {
	t.Helper()
	program, err := locate("CONSUL_TEMPLATE_BIN", filepath.Join("..", "bin", "consul-template"))
	if err != nil {
		t.Skipf("no consul-template: %v", err)
	}
	dir := t.TempDir()
	files := map[string]string{"template": template}
	files["consul-template.hcl"] = fmt.Sprintf(`
kill_signal = "SIGTERM"
vault {
  address     = %q
  token       = %q
  renew_token = false
}
template {
  source      = "%[3]s/template"
  destination = "%[3]s/rendered"
}
`, m.vault.addr, vaultToken, dir)
	log := m.startClient(t, dir, files, program, "-config="+filepath.Join(dir, "consul-template.hcl"))
	require.NoError(t, poll(readyTimeout, "consul-template to render", func() (bool, error) {
		return present(filepath.Join(dir, "rendered")), log.alive()
	}))
	rendered(t, filepath.Join(dir, "rendered"))
	require.NoError(t, log.alive())
}

// renderOnce has consul-template render a template, without another try. It returns what was rendered, and what
// consul-template said.
func (m *mount) renderOnce(t *testing.T, vaultToken, template string) (rendered, log string) {
	t.Helper()
	program, err := locate("CONSUL_TEMPLATE_BIN", filepath.Join("..", "bin", "consul-template"))
	if err != nil {
		t.Skipf("no consul-template: %v", err)
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "template"), []byte(template), 0o600))
	cmd := exec.CommandContext(t.Context(), program, "-once", "-vault-addr="+m.vault.addr, "-vault-renew-token=false", "-vault-retry=false", //nolint:gosec // the program under test
		fmt.Sprintf("-template=%[1]s/template:%[1]s/rendered", dir))
	cmd.Env = append(m.vault.environment(), "VAULT_TOKEN="+vaultToken)
	said, err := cmd.CombinedOutput()
	content, readErr := os.ReadFile(filepath.Join(dir, "rendered")) //nolint:gosec // below a directory of the test's own
	require.Equal(t, err == nil, readErr == nil, "%v: %s", err, said)
	return string(content), string(said)
}

// clientProcess is a program that reads from Vault until the test ends.
type clientProcess struct {
	*process
	log string
}

// alive returns an error if the process has ended by itself.
func (c *clientProcess) alive() error {
	if c.running() {
		return nil
	}
	content, _ := os.ReadFile(c.log)
	return fmt.Errorf("it ended: %w\n%s", c.err, content[max(0, len(content)-logTail):])
}

func (m *mount) startClient(t *testing.T, dir string, files map[string]string, program string, args ...string) *clientProcess {
	t.Helper()
	for name, content := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	log, err := os.Create(filepath.Join(dir, "log")) //nolint:gosec // below a directory of the test's own
	require.NoError(t, err)
	defer log.Close() //nolint:errcheck // the process has a descriptor of its own
	p, err := startProcess(log, m.vault.environment(), program, args...)
	require.NoError(t, err)
	c := &clientProcess{process: p, log: log.Name()}
	t.Cleanup(func() {
		assert.NoError(t, p.stop())
		lacks(t, "the client's log", readFile(t, c.log), "panic:")
		if t.Failed() {
			content := readFile(t, c.log)
			t.Logf("the end of the client's log:\n%s", content[max(0, len(content)-logTail):])
		}
	})
	return c
}

func present(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
