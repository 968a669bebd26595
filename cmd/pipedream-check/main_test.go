package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// asProgram makes the test binary behave as the program.
const asProgram = "PIPEDREAM_CHECK_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

const (
	canary = "canary"
	secret = canary + "_secret"
	client = canary + "_client"
)

// simulate starts a simulated Pipedream and returns what the program must know to ask it.
func simulate(t *testing.T, opts ...pipedreamtest.Option) (sim *pipedreamtest.Server, env []string) {
	t.Helper()
	sim = pipedreamtest.New(opts...)
	t.Cleanup(sim.Close)
	base, err := sim.Start()
	require.NoError(t, err)
	sim.SetOAuthClient(client, secret, time.Hour)
	sim.SetAccount(pipedreamtest.Account{
		ID: "apn_" + canary, Name: canary, Project: "proj_" + canary, ExternalUserID: canary, TokenLife: time.Hour, OAuthAppID: "oa_" + canary,
		App: pipedreamtest.App{ID: "app_" + canary, Slug: canary, Name: canary, AuthType: "oauth"},
	})
	return sim, []string{
		"PIPEDREAM_BASE_URL=" + base, "PIPEDREAM_CLIENT_ID=" + client, "PIPEDREAM_CLIENT_SECRET=" + secret, "PIPEDREAM_PROJECT_ID=proj_" + canary,
	}
}

// program returns the program with these arguments, and only these variables besides what it needs to be one.
func program(t *testing.T, env []string, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0], args...) //nolint:gosec // this program itself
	cmd.Dir, cmd.Env = t.TempDir(), append([]string{asProgram + "=1"}, env...)
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

// files returns the names of the files that the program left, and all that is in them.
func files(t *testing.T, dir string) (names []string, text string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(dir, entry.Name())) //nolint:gosec // of this test
		require.NoError(t, err)
		names, text = append(names, entry.Name()), text+string(content)
	}
	return names, text
}

func TestTheProgramSavesAReportThatSaysNothingOfAnybody(t *testing.T) {
	for _, how := range []string{"environment", "standard input"} {
		t.Run(how, func(t *testing.T) {
			sim, env := simulate(t)
			seen := make(chan string, 1000)
			started, pid := make(chan int, 1), 0
			sim.AddFault(pipedreamtest.Fault{Where: func(pipedreamtest.Request) bool {
				if pid == 0 {
					pid = <-started
				}
				line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // where there is no such file, there is nothing to see
				seen <- string(line)
				return false
			}})
			args, given := []string{"-rate=100", "-environment=production"}, env
			if how == "standard input" {
				args, given = append(args, "-stdin"), nil
			}
			cmd, stdout, stderr := program(t, given, args...)
			if how == "standard input" {
				cmd.Stdin = strings.NewReader(strings.Join(env, "\n"))
			}
			require.NoError(t, cmd.Start())
			started <- cmd.Process.Pid
			require.NoError(t, cmd.Wait(), "%s%s", stdout, stderr)
			names, text := files(t, cmd.Dir)
			require.Equal(t, []string{"pipedream-report.json", "pipedream-report.txt"}, names)
			require.Contains(t, text, "The engine handles everything that was seen.")
			require.Contains(t, text, stdout.String())
			close(seen)
			lines := []string{text, stdout.String(), stderr.String()}
			for line := range seen {
				lines = append(lines, line)
			}
			require.NotContains(t, strings.ToLower(strings.Join(lines, "\n")), canary)
		})
	}
}

func TestExitCodes(t *testing.T) {
	for name, tt := range map[string]struct {
		opts  []pipedreamtest.Option
		fault pipedreamtest.Fault
		env   []string
		args  []string
		want  int
	}{
		"an answer that the engine cannot read": {fault: pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Garbage: true}, want: exitNotHandled},
		"a refused client":                      {env: []string{"PIPEDREAM_CLIENT_SECRET=" + canary + "_other"}, want: exitNothing},
		"half a client":                         {env: []string{"PIPEDREAM_CLIENT_SECRET="}, want: exitUsage},
		"a secret as an argument":               {args: []string{canary}, want: exitUsage},
		"an unknown option":                     {args: []string{"-key=" + canary}, want: exitUsage},
		"a report that cannot be saved":         {args: []string{"-report=none/report"}, want: exitUsage},
		"help":                                  {args: []string{"-help"}, want: exitHandled},
	} {
		t.Run(name, func(t *testing.T) {
			sim, env := simulate(t, tt.opts...)
			defer sim.AddFault(tt.fault)()
			cmd, stdout, stderr := program(t, append(env, tt.env...), append([]string{"-rate=100", "-environment=production"}, tt.args...)...)
			_ = cmd.Run() // the exit code is what counts
			require.Equal(t, tt.want, cmd.ProcessState.ExitCode(), "%s%s", stdout, stderr)
			require.NotContains(t, stdout.String()+strings.ReplaceAll(stderr.String(), "-key", ""), secret)
		})
	}
}

func TestAnInterruptLeavesNothing(t *testing.T) {
	sim, env := simulate(t)
	reached := make(chan struct{}, 1)
	sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, After: 3, Times: 1, Hang: true, Where: func(pipedreamtest.Request) bool {
		select {
		case reached <- struct{}{}:
		default: // it is there already
		}
		return true
	}})
	cmd, _, stderr := program(t, env, "-rate=100")
	require.NoError(t, cmd.Start())
	<-reached
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait() // the exit code is what counts
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode(), stderr.String())
	names, _ := files(t, cmd.Dir)
	require.Empty(t, names)
}

func TestReadValues(t *testing.T) {
	values, err := readValues(strings.NewReader("# a comment\n\nexport PIPEDREAM_CLIENT_ID=\"a=b\"\nPIPEDREAM_CLIENT_SECRET='s'\r\n"))
	require.NoError(t, err)
	require.Equal(t, map[string]string{nameClientID: "a=b", nameClientSecret: "s"}, values)
	for _, bad := range []string{canary, "PATH=" + canary, canary + "=x"} {
		_, err := readValues(strings.NewReader(bad))
		require.Error(t, err)
		require.NotContains(t, err.Error(), canary)
	}
	_, err = parseOptions([]string{"-stdin"}, os.Getenv, strings.NewReader(""), io.Discard)
	require.Error(t, err)
}
