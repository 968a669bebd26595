//go:build oneshot

package acceptance

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOneShotPrograms runs programs that read once, print and exit: vals and gomplate. They show the token, or the
// engine's error if there is none.
func TestOneShotPrograms(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		arguments func(path string) []string
		reads     int
	}{
		"vals": {func(path string) []string { return []string{"get", "ref+vault://" + path + "#/oauth_access_token"} }, 1},
		"gomplate": {func(path string) []string {
			return []string{"--datasource", "account=vault:///" + path, "--in", `{{ (datasource "account").oauth_access_token }}`}
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := onSharedVault(t)
			m.sim.SetAccount(github())
			program, err := filepath.Abs(filepath.Join("..", "bin", name))
			require.NoError(t, err)
			require.FileExists(t, program, "make test-one-shot")
			token := m.vault.login(t, slug(t.Name()), m.mayRead("creds/*", "static-creds/*")).Token()
			run := func(path string) (stdout, stderr string, err error) {
				cmd := exec.CommandContext(t.Context(), program, test.arguments(m.in(path))...) //nolint:gosec // a program under test
				cmd.Env = append(m.vault.environment(), "VAULT_ADDR="+m.vault.addr, "VAULT_TOKEN="+token)
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
