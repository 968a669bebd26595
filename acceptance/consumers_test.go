package acceptance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	// mostLate is how long past its end a token may still be where a program keeps it.
	mostLate = time.Second
	// mostReads is how often a program may read in a token's life: once for it, and while Pipedream has no other yet, once
	// in its last tenth, once in the last tenth of that, and once more for the next.
	mostReads = 4
)

// keeper is a file in which a program keeps the credential of an account.
type keeper struct {
	account pipedreamtest.Account
	path    string // below the mount, which the program reads
	file    string // the access token, or the API key; absent before the first
	// held returns what is kept where that is no file.
	held func() string
	// takes is how long the program itself takes to pass a new token on.
	takes time.Duration

	kept map[string]bool // the tokens that were seen
	late time.Duration   // the longest that one was seen past its end
}

// keepers makes an account for each of the lives, and a keeper for each account and path.
func (m *mount) keepers(dir, program string, paths []string, lives ...time.Duration) []*keeper {
	var all []*keeper
	for _, life := range lives {
		for _, path := range paths {
			account := githubWith(func(a *pipedreamtest.Account) {
				a.ID, a.TokenLife = fmt.Sprintf("apn_%s_%s_%.0fs", program, path, life.Seconds()), life
			})
			m.sim.SetAccount(account)
			all = append(all, &keeper{account: account, path: path + "/" + account.ID, file: filepath.Join(dir, account.ID)})
		}
	}
	return all
}

// enough tells whether k saw tokens being replaced.
func (k *keeper) enough() bool {
	if k.account.TokenLife >= time.Minute {
		return len(k.kept) >= 2
	}
	return len(k.kept) >= 3
}

// holds returns what is kept now, empty before the first.
func (k *keeper) holds(t *testing.T) string {
	t.Helper()
	if k.held != nil {
		return k.held()
	}
	content, err := os.ReadFile(k.file)
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	return string(content)
}

// look notes what is kept now; ends has the end of each token that Pipedream handed out.
func (k *keeper) look(t *testing.T, ends map[string]time.Time) {
	t.Helper()
	token := k.holds(t)
	if token == "" {
		return
	}
	if k.kept == nil {
		k.kept = map[string]bool{}
	}
	k.kept[token] = true
	if end, ok := ends[token]; ok {
		k.late = max(k.late, time.Since(end))
	}
}

// stayAlive watches what programs keep until each has replaced its tokens, and asserts that no token was kept past its
// end, and that it did not take many reads.
func (m *mount) stayAlive(t *testing.T, keepers []*keeper) {
	t.Helper()
	ends := map[string]time.Time{}
	var lag lag
	require.NoError(t, poll(3*time.Minute, "every program to replace its tokens", func() (bool, error) {
		lag.measure(t, m)
		done := true
		for _, k := range keepers {
			id := k.account.ID
			token, end := m.sim.Token(id), m.sim.ExpiresAt(id)
			if token == m.sim.Token(id) { // else it was replaced between the questions
				ends[token] = end
			}
			k.look(t, ends)
			done = done && k.enough()
		}
		return done, nil
	}))
	for _, k := range keepers {
		reads := m.reads(t, k.path)
		t.Logf("%-40s %2d tokens, %2d reads, late by %s", k.path, len(k.kept), reads, k.late.Round(time.Millisecond))
		assert.LessOrEqual(t, k.late, mostLate+k.takes+lag.most, "how long past its end the token of %s was kept", k.path)
		assert.LessOrEqual(t, reads, mostReads*len(k.kept), "reads of %s for %d tokens", k.path, len(k.kept))
	}
}

// lag is how late this machine is with what takes no time, and so how late a program may be without being at fault.
type lag struct {
	last time.Time
	most time.Duration
}

// measure is called in each round of a poll.
func (l *lag) measure(t *testing.T, m *mount) {
	t.Helper()
	m.read(t, "status")
	now := time.Now()
	if !l.last.IsZero() {
		l.most = max(l.most, now.Sub(l.last)-pollInterval)
	}
	l.last = now
}

// reads counts in the audit log how often a path below the mount was read with success, by whatever operation.
func (m *mount) reads(t *testing.T, path string) (n int) {
	t.Helper()
	for line := range strings.Lines(m.vault.readAudit(t)) {
		if !strings.Contains(line, m.in(path)) {
			continue
		}
		var entry struct {
			Type    string `json:"type"`
			Error   string `json:"error"`
			Request struct {
				Path string `json:"path"`
			} `json:"request"`
		}
		if json.Unmarshal([]byte(line), &entry) != nil {
			continue // the last line, still being written
		}
		if entry.Type == "response" && entry.Error == "" && entry.Request.Path == m.in(path) {
			n++
		}
	}
	return n
}

// startConsumer runs a program until the test ends, and shows its log if the test failed.
func (m *mount) startConsumer(t *testing.T, name string, args ...string) {
	t.Helper()
	startProgram(t, m.vault.environment(), name, args...)
}

// startProgram runs a program with the given environment until the test ends, and shows its log if the test failed.
func startProgram(t *testing.T, env []string, name string, args ...string) (p *process, logPath string) { //nolint:unparam // the tests of Kubernetes use it
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "*.log")
	require.NoError(t, err)
	p, err = startProcess(log, env, name, args...)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, p.stop())
		assert.NoError(t, log.Close())
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", filepath.Base(name), tail(readFile(t, log.Name())))
		}
	})
	return p, log.Name()
}

func tail(log string) string {
	if len(log) > logTail {
		log = log[len(log)-logTail:]
		_, log, _ = strings.Cut(log, "\n")
	}
	return log
}

// mayRead makes rules of a policy for paths below the mount, to be read by a GET or a PUT.
func (m *mount) mayRead(paths ...string) string {
	var rules strings.Builder
	for _, path := range paths {
		fmt.Fprintf(&rules, "path %q { capabilities = [\"read\", \"update\"] }\n", m.in(path))
	}
	return rules.String()
}

// templates have Agent or consul-template render what each keeper keeps to its file. arguments, if any, go after the path
// of a secret, which makes it a PUT.
func (m *mount) templates(keepers []*keeper, arguments ...string) string {
	var config strings.Builder
	for _, k := range keepers {
		fmt.Fprintf(&config, "template {\n  contents    = %q\n  destination = %q\n}\n", m.contents(k, arguments...), k.file)
	}
	return config.String()
}

// contents is a template for what a keeper keeps.
func (m *mount) contents(k *keeper, arguments ...string) string {
	words := []string{"secret", strconv.Quote(m.in(k.path))}
	for _, argument := range arguments {
		words = append(words, strconv.Quote(argument))
	}
	field := "oauth_access_token"
	if k.account.TokenLife == 0 {
		field = "api_key"
	}
	return fmt.Sprintf("{{ with %s }}{{ .Data.%s }}{{ end }}", strings.Join(words, " "), field)
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}
