//go:build oneshot

package acceptance

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestOneShotPrograms runs programs that read once, and print what they read or pass it to another program. They pass the
// token on, or show the engine's error if there is none.
func TestOneShotPrograms(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		given     string // the variable with the program's path, if make test-one-shot cannot build it
		arguments func(path string) []string
		env       func(path string) []string
		reads     int
		hangs     bool // on an error, instead of exiting with it
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
				return []string{"-once", "-vault-renew-token=false", "-no-prefix", "-secret=" + path, "printenv", "oauth_access_token"}
			},
			reads: 1,
			hangs: true, // https://github.com/hashicorp/envconsul/issues/169
		},
		"vault-env": {
			given:     "BANK_VAULTS_ENV_BIN",
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
			run := func(ctx context.Context, path string) (stdout, stderr string, err error) {
				cmd := exec.CommandContext(ctx, program, test.arguments(m.in(path))...) //nolint:gosec // a program under test
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
				stdout, stderr, err := run(t.Context(), path+githubID)
				require.NoError(t, err, stderr)
				assert.Equal(t, m.sim.Token(githubID), stdout, path)
				assert.Equal(t, test.reads, m.reads(t, path+githubID), path)
			}

			const missing = "static-creds/apn_nobody"
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var stdout, stderr string
			var err error
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				stdout, stderr, err = run(ctx, missing)
			}()
			if test.hangs {
				waitUntil(t, "the refusal", func() bool { return len(responses(m.audit(t), m.in(missing))) > 0 })
				stop()
			}
			<-ended
			require.Error(t, err)
			assert.Empty(t, stdout, "the program started without a token")
			if !test.hangs {
				assert.Contains(t, stderr, "Pipedream does not know account apn_nobody")
			}
		})
	}
}

// TestOneShotAnsible runs the example playbook. A refused read leaves the file as it is.
func TestOneShotAnsible(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	token := m.vault.login(t, slug(t.Name()), m.mayRead("static-creds/*")).Token()
	dir := t.TempDir()
	file := filepath.Join(dir, "github-token")
	run := func(id string) (output string, err error) {
		return m.vault.play(t, token, example(t, dir, "ansible.yaml", []string{
			"pipedream/static-creds/apn_XehyZPr", m.in("static-creds/" + id), "/etc/app/github-token", file,
		}))
	}

	output, err := run(githubID)
	require.NoError(t, err, output)
	assert.Equal(t, m.sim.Token(githubID), readFile(t, file))
	assert.Equal(t, 1, m.reads(t, "static-creds/"+githubID))
	lacks(t, "the output", output, m.sim.Secrets()...)

	output, err = run("apn_nobody")
	require.Error(t, err, output)
	assert.Equal(t, m.sim.Token(githubID), readFile(t, file))
}

// TestOneShotAnsibleInstalls installs another version of the plugin, and uses it.
func TestOneShotAnsibleInstalls(t *testing.T) {
	t.Parallel()
	next, version := nextPlugin(t)
	s := &vaultServer{dir: t.TempDir()}
	withOwnPlugins(t, s)
	t.Cleanup(func() {
		if s.process != nil {
			require.NoError(t, s.process.stop())
		}
	})
	require.NoError(t, s.start())
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "server"), 0o700))
	playbook := example(t, dir, "server/ansible.yaml", []string{
		"hosts: vault", "hosts: all", "become: true", "become: false", "/etc/vault.d/plugins", s.plugins,
		"v0.1.0", version, "{{ playbook_dir }}/../../../bin/{{ plugin }}", next,
	})
	for range 2 { // it can be run again
		output, err := s.play(t, s.rootToken, playbook)
		require.NoError(t, err, output)
	}
	_, err := s.root.Logical().Write("sys/mounts/pipedream", map[string]any{"type": pluginName, "plugin_version": version})
	require.NoError(t, err)
	status, err := s.root.Logical().Read("pipedream/status")
	require.NoError(t, err)
	require.Equal(t, version, status.Data["version"])
}

// play runs a playbook on this machine.
func (s *vaultServer) play(t *testing.T, token, playbook string) (output string, err error) {
	t.Helper()
	program := os.Getenv("ANSIBLE_PLAYBOOK_BIN")
	if program == "" {
		t.Skip("no ANSIBLE_PLAYBOOK_BIN: make test-one-shot finds an installed one")
	}
	cmd := exec.CommandContext(t.Context(), program, "--inventory=localhost,", "--connection=local", playbook) //nolint:gosec // a program under test
	cmd.Env = append(s.environment(), "VAULT_ADDR="+s.addr, "VAULT_TOKEN="+token, "HOME="+t.TempDir(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
