package acceptance

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// reader follows a page, in a copy of the repository and a process group of its own.
type reader struct {
	page       string
	shell      string // a path
	run        pageRun
	dir        string // of the scripts and their output
	repository string
	vault      *vaultServer // nil where the page starts its own
	sim        *pipedreamtest.Server
	simURL     string
	key        string // that the simulated Pipedream takes
	secret     string // of its OAuth client
	devAddress string // for a development server
	jobToken   string // a JWT, whose issuer's public key is in issuer.pem
}

func newReader(t *testing.T, page, shell string, run pageRun) *reader {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	r := &reader{page: page, shell: shell, run: run, dir: dir, repository: filepath.Join(dir, "repository"), key: "pdkey_" + rand.Text(), secret: "pdsecret_" + rand.Text()}
	for _, sub := range []string{"home", "bin"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
	}
	require.NoError(t, os.Symlink(vaultBin, filepath.Join(dir, "bin", "vault")))
	r.copyRepository(t)
	r.devAddress = freeDevAddress(t)
	if !run.server {
		return r
	}
	r.sim = pipedreamtest.New(pipedreamtest.WithAPIKey(r.key), pipedreamtest.WithConnectScopesOnWorkspace())
	t.Cleanup(r.sim.Close)
	r.sim.SetOAuthClient(clientID, r.secret, 0)
	for id, project := range map[string]string{"apn_XehyZPr": run.project, "apn_alice": run.project, "apn_octocat": ""} {
		account := githubWith(func(a *pipedreamtest.Account) { a.ID, a.Project, a.OAuthAppID = id, project, "oa_demo" })
		if project != "" {
			account.ExternalUserID = "alice"
		}
		r.sim.SetAccount(account)
	}
	for _, account := range run.accounts {
		r.sim.SetAccount(account)
	}
	r.simURL, err = r.sim.Start()
	require.NoError(t, err)
	r.startServer(t)
	r.signJobToken(t)
	return r
}

// startServer starts a Vault for the reader alone, with a plugin directory of its own.
func (r *reader) startServer(t *testing.T) {
	t.Helper()
	r.vault = &vaultServer{dir: t.TempDir()}
	withOwnPlugins(t, r.vault)
	t.Cleanup(func() {
		if r.vault.process != nil {
			r.vault.showLog(t)
			require.NoError(t, r.vault.process.stop())
		}
	})
	require.NoError(t, r.vault.start())
	t.Cleanup(func() { (&mount{vault: r.vault, sim: r.sim}).checkLogs(t) })
}

// freeDevAddress is one that no client's own port can have taken by the time that it is listened on: systems give
// those higher numbers.
func freeDevAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		n, err := rand.Int(rand.Reader, big.NewInt(10000))
		require.NoError(t, err)
		address := fmt.Sprintf("127.0.0.1:%d", 20000+n.Int64())
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		if err == nil {
			require.NoError(t, listener.Close())
			return address
		}
	}
	require.Fail(t, "no free port")
	return ""
}

// copyRepository copies the sources, so that what a page builds does not replace what other tests run.
func (r *reader) copyRepository(t *testing.T) {
	t.Helper()
	source := os.DirFS("..")
	require.NoError(t, fs.WalkDir(source, ".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "bin", "dist"}, path):
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(r.repository, path), 0o700)
		case !entry.Type().IsRegular():
			return nil
		}
		content, err := fs.ReadFile(source, path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(r.repository, path), content, info.Mode().Perm())
	}))
}

// onServer has the commands reach the reader's server from here on.
func (r *reader) onServer() string {
	return fmt.Sprintf("export VAULT_ADDR=%s VAULT_TOKEN=%s", r.vault.addr, r.vault.rootToken)
}

func (r *reader) enable() string { return "vault secrets enable -path=pipedream " + pluginName }

func (r *reader) writeKey() string {
	return fmt.Sprintf("vault write pipedream/config api_key=- base_url=%s <<< %s", r.simURL, r.key)
}

func (r *reader) writeConfig() string {
	return fmt.Sprintf("vault write pipedream/config client_id=%s client_secret=- project_id=%s base_url=%s <<< %s", clientID, r.run.project, r.simURL, r.secret)
}

// step is a block with what the page shows of its output.
type step struct {
	block

	commands string
	outputs  []string
}

// errors are how many commands of the step the page shows to fail.
func (s *step) errors() (n int) {
	for _, output := range s.outputs {
		for line := range strings.Lines(output) {
			if strings.HasPrefix(line, "\t* ") {
				n++
			}
		}
	}
	return n
}

// steps are the blocks that are run, with the output that follows each.
func (r *reader) steps(t *testing.T) (steps []step) {
	t.Helper()
	shown := false // whether the output to come is that of the last step
	for _, b := range blocksOf(t, r.page) {
		switch {
		case b.kind == blockOutput && shown:
			last := &steps[len(steps)-1]
			last.outputs = append(last.outputs, b.text)
		case b.kind == blockCommands:
			shown = !b.notRun()
			if shown {
				s := step{block: b}
				var output string
				if s.commands, output = b.split(); output != "" {
					s.outputs = []string{output}
				}
				steps = append(steps, s)
			}
		}
	}
	require.NotEmpty(t, steps)
	return steps
}

// follow runs the page's blocks one after the other in one shell.
func (r *reader) follow(t *testing.T) {
	t.Helper()
	steps := r.steps(t)
	r.write(t, "page.sh", r.script(t, steps))
	err := r.runScript(t)
	at, _ := os.ReadFile(r.path("at"))
	if err != nil {
		r.explain(t, steps, strings.TrimSpace(string(at)), err)
	}
	require.Equal(t, "end", strings.TrimSpace(string(at)))
	for i := range steps {
		s := &steps[i]
		printed := readFile(t, r.path(fmt.Sprintf("%d.out", i)))
		for _, output := range s.outputs {
			r.checkOutput(t, s, output, printed)
		}
	}
}

func (r *reader) explain(t *testing.T, steps []step, at string, err error) {
	t.Helper()
	var i int
	if _, scanned := fmt.Sscanf(at, "%d", &i); scanned != nil || strings.Contains(at, "before") {
		require.NoError(t, err, "%s, at %s: %s", r.page, at, readFile(t, r.path("page.out")))
		return
	}
	printed, _ := os.ReadFile(r.path(at + ".out"))
	require.NoError(t, err, "%s:%d:\n%s\n%s", r.page, steps[i].line, steps[i].commands, printed)
}

// prologue has everything that was started end with the shell, and waits for that.
const prologue = `set -euo pipefail
finish() {
  trap : TERM
  kill -TERM 0
  until wait; do :; done
}
trap finish EXIT
`

// script sources each block in turn, in one shell. "at" says how far it came.
func (r *reader) script(t *testing.T, steps []step) string {
	t.Helper()
	var script strings.Builder
	script.WriteString(prologue)
	if r.run.needs != nil {
		script.WriteString(r.run.needs(r) + "\n")
	}
	var names *strings.Replacer
	if r.run.replace != nil {
		names = strings.NewReplacer(r.run.replace(r)...)
	}
	used := map[string]bool{}
	for i := range steps {
		s := &steps[i]
		for piece, prepare := range r.run.before {
			if strings.Contains(s.commands, piece) && !used[piece] {
				used[piece] = true
				fmt.Fprintf(&script, "echo before %d > %s\n%s\n", i, r.path("at"), prepare(r))
			}
		}
		commands := s.commands
		if names != nil {
			commands = names.Replace(commands)
		}
		fmt.Fprintf(&script, "echo %d > %s\n%s", i, r.path("at"), r.source(t, i, s, commands))
	}
	for piece := range r.run.before {
		assert.True(t, used[piece], "%s has no block with %q", r.page, piece)
	}
	fmt.Fprintf(&script, "echo end > %s\n", r.path("at"))
	return script.String()
}

var typed = regexp.MustCompile(`(?m)^read -rs (\w+)`)

// source is how a block is run.
func (r *reader) source(t *testing.T, i int, s *step, commands string) string {
	t.Helper()
	name := strconv.Itoa(i)
	var input strings.Builder
	for _, m := range typed.FindAllStringSubmatch(commands, -1) {
		value, known := map[string]string{"KEY": r.key, "SECRET": r.secret}[m[1]]
		assert.True(t, known, "%s:%d: what is typed for %s", s.page, s.line, m[1])
		input.WriteString(value + "\n")
	}
	// The last command of a block whose errors are counted must not be counted twice.
	r.write(t, name+".sh", commands+map[bool]string{true: ":\n"}[s.errors() > 0])
	r.write(t, name+".in", input.String())
	source := fmt.Sprintf("source %s > %s 2>&1 < %s", r.path(name+".sh"), r.path(name+".out"), r.path(name+".in"))
	switch {
	case s.mark == markTerminal:
		return "( trap - EXIT; trap : TERM; " + source + " || :; wait ) &\nterminal=$!\n"
	case s.errors() > 0:
		return fmt.Sprintf(`failed=0
trap 'failed=$((failed + 1))' ERR
set +e
%s
set -e
trap - ERR
((failed == %d)) || { echo "commands that failed: $failed; the page shows: %[2]d" >> %[3]s; exit 1; }
`, source, s.errors(), r.path(name+".out"))
	default:
		return source + "\n"
	}
}

func (r *reader) path(name string) string { return filepath.Join(r.dir, name) }

func (r *reader) write(t *testing.T, name, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(r.path(name), []byte(content), 0o600))
}

// runScript runs the page's script, and ends whatever of it is left.
func (r *reader) runScript(t *testing.T) error {
	t.Helper()
	output, err := os.Create(r.path("page.out"))
	require.NoError(t, err)
	defer output.Close() //nolint:errcheck // the processes have descriptors of their own
	ctx, cancel := context.WithTimeout(t.Context(), pageTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.shell, r.path("page.sh")) //nolint:gosec // of the documentation
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = r.repository, r.environment(t), output, output
	cmd.SysProcAttr = dieWithParent()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	if err := onLauncher(cmd.Start); err != nil {
		return err
	}
	err = cmd.Wait()
	return errors.Join(err, killGroup(cmd.Process.Pid))
}

// killGroup ends what is left of a process group.
func killGroup(pid int) error {
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process group %d: %w", pid, err)
	}
	return nil
}

// environment is the developer's own, but for their home, and for what a make above this test has set.
func (r *reader) environment(t *testing.T) []string {
	t.Helper()
	own := []string{"HOME", "PATH", "VERSION", "OUT", "GOOS", "GOARCH"}
	var environment []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !slices.Contains(own, name) && !strings.Contains(name, "MAKE") && !strings.HasPrefix(name, "MFLAGS") && !strings.HasPrefix(name, "PIPEDREAM_") {
			environment = append(environment, variable)
		}
	}
	out, err := exec.CommandContext(t.Context(), "go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPATH", "GOENV").Output()
	require.NoError(t, err)
	var ofGo map[string]string
	require.NoError(t, json.Unmarshal(out, &ofGo))
	for name, value := range ofGo {
		environment = append(environment, name+"="+value)
	}
	return append(environment, "HOME="+r.path("home"), "PATH="+r.path("bin")+string(os.PathListSeparator)+os.Getenv("PATH"), "VAULT_BIN="+vaultBin)
}

var (
	jsonKey   = regexp.MustCompile(`"(\w+)":`)
	jsonError = regexp.MustCompile(`"errors":\["(.*)"\]`)
)

// checkOutput compares what a page shows with what was printed: the names of fields and rows, and errors as a whole.
func (r *reader) checkOutput(t *testing.T, s *step, shown, printed string) {
	t.Helper()
	if strings.HasPrefix(shown, "{") {
		for _, m := range slices.Concat(jsonKey.FindAllStringSubmatch(shown, -1), jsonError.FindAllStringSubmatch(shown, -1)) {
			assert.Contains(t, printed, m[1], "%s:%d: what the page shows", s.page, s.line)
		}
		return
	}
	first := map[string]bool{}
	for line := range strings.Lines(printed) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		first[word] = true
	}
	for line := range strings.Lines(shown) {
		line = strings.TrimSpace(line)
		word, _, _ := strings.Cut(line, " ")
		switch {
		case strings.HasPrefix(line, "* ") || strings.HasPrefix(line, "Code: "):
			assert.Contains(t, printed, line, "%s:%d: what the page shows", s.page, s.line)
		case strings.Trim(word, "-") != "" && !slices.Contains(r.run.passing, word):
			assert.True(t, first[word], "%s:%d: %s of the page is not in the output:\n%s", s.page, s.line, word, printed)
		}
	}
}
