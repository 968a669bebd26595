//go:build oneshot

package acceptance

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOneShotPrograms runs programs that read once, and print what they read or run a program with it. Each passes on
// the token, or shows the engine's error if there is none.
func TestOneShotPrograms(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		given     string // the variable that says where the program is, for one that make test-one-shot cannot build
		arguments func(path string) []string
		env       func(path string) []string
		reads     int
	}{
		"vals": {
			arguments: func(path string) []string { return []string{"get", "ref+vault://" + path + "#/oauth_access_token"} },
			reads:     1,
		},
		"gomplate": {
			arguments: func(path string) []string {
				return []string{"--datasource", "account=vault:///" + path, "--in", `{{ (datasource "account").oauth_access_token }}`}
			},
			reads: 2,
		},
		"envconsul": {
			given: "ENVCONSUL_BIN",
			arguments: func(path string) []string {
				return []string{
					"-once", "-vault-renew-token=false", "-vault-retry-attempts=1", "-vault-retry-backoff=100ms",
					"-no-prefix", "-secret=" + path, "printenv", "oauth_access_token",
				}
			},
			reads: 1,
		},
		"vault-env": {
			given:     "VAULT_ENV_BIN",
			arguments: func(string) []string { return []string{"printenv", "TOKEN"} },
			env: func(path string) []string {
				return []string{"TOKEN=vault:" + path + "#oauth_access_token", "VAULT_LOG_LEVEL=error"}
			},
			reads: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := os.Getenv(test.given)
			if test.given == "" {
				var err error
				program, err = filepath.Abs(filepath.Join("..", "bin", name))
				require.NoError(t, err)
				require.FileExists(t, program, "make test-one-shot")
			} else if program == "" {
				t.Skipf("no %s: make test-one-shot %[1]s=path", test.given)
			}
			m := onSharedVault(t)
			m.sim.SetAccount(github())
			token := m.vault.login(t, slug(t.Name()), m.mayRead("creds/*", "static-creds/*")).Token()
			run := func(path string) (stdout, stderr string, err error) {
				cmd := exec.CommandContext(t.Context(), program, test.arguments(m.in(path))...) //nolint:gosec // a program under test
				cmd.Env = append(m.vault.environment(), "VAULT_ADDR="+m.vault.addr, "VAULT_TOKEN="+token)
				if test.env != nil {
					cmd.Env = append(cmd.Env, test.env(m.in(path))...)
				}
				var out, diagnosis bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &diagnosis
				err = cmd.Run()
				return strings.TrimSpace(out.String()), diagnosis.String(), err
			}

			for _, path := range []string{"static-creds/", "creds/"} {
				stdout, stderr, err := run(path + githubID)
				require.NoError(t, err, stderr)
				assert.Equal(t, m.sim.Token(githubID), stdout, path)
				assert.Equal(t, test.reads, m.reads(t, path+githubID), path)
			}
			_, stderr, err := run("static-creds/apn_nobody")
			require.Error(t, err)
			assert.Contains(t, stderr, "Pipedream does not know account apn_nobody")
		})
	}
}
