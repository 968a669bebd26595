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
	// mostLate is how long a program may keep a token past its end and still be counted as punctual in the log.
	mostLate = time.Second
	// replaceTimeout is how long programs have to replace some tokens. It is generous, because machines may be loaded.
	replaceTimeout = 10 * time.Minute
	// mostReads is how often a program may read during a token's life: once to get it, twice near its end while Pipedream
	// has no newer one, and once for the next token.
	mostReads = 4
)

// keeper is a file in which a program keeps the credential of an account.
type keeper struct {
	account pipedreamtest.Account
	path    string // the path below the mount that the program reads
	file    string // holds the access token or the API key; does not exist before the first read
	// held returns what is kept if that is not a file.
	held func() string
	// takes is how long the program itself takes to pass on a new token.
	takes time.Duration

	kept map[string]bool          // the tokens that were seen
	last string                   // the token that was seen last
	late map[string]time.Duration // how long past its end each token was seen, if its end is known
}

// keepers creates an account for each life, and a keeper for each account and path.
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

// enough reports whether k saw tokens being replaced.
func (k *keeper) enough() bool {
	if k.account.TokenLife >= time.Minute {
		return len(k.kept) >= 2
	}
	return len(k.kept) >= 3
}

// punctual returns how many tokens were replaced before or soon after they ended.
func (k *keeper) punctual() (n int) {
	for token, late := range k.late {
		if token != k.last && late <= mostLate+k.takes {
			n++
		}
	}
	return n
}

// latest returns the longest time that a token was kept past its end.
func (k *keeper) latest() (most time.Duration) {
	for _, late := range k.late {
		most = max(most, late)
	}
	return most
}

// holds returns what is kept now: an empty string before the first token.
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

// look records what is kept now. ends holds the expiry of each token that Pipedream handed out.
func (k *keeper) look(t *testing.T, ends map[string]time.Time) {
	t.Helper()
	token := k.holds(t)
	if token == "" {
		return
	}
	if k.kept == nil {
		k.kept, k.late = map[string]bool{}, map[string]time.Duration{}
	}
	k.kept[token], k.last = true, token
	if end, ok := ends[token]; ok {
		k.late[token] = max(k.late[token], time.Since(end))
	}
}

// stayAlive watches what programs keep until each has replaced several tokens. How late a program is depends on the
// machine too, so that is only logged. What the engine answered does not: m must be watched, and every answer must let
// the program read again before the token ends, without many reads.
func (m *mount) stayAlive(t *testing.T, keepers []*keeper) {
	t.Helper()
	require.NotNil(t, m.watcher, "the mount must be watched before the programs start")
	ends := map[string]time.Time{}
	err := poll(replaceTimeout, "every program to replace its tokens", func() (bool, error) {
		done := true
		for _, k := range keepers {
			id := k.account.ID
			token, end := m.sim.Token(id), m.sim.ExpiresAt(id)
			if token == m.sim.Token(id) { // otherwise it was replaced between the two calls
				ends[token] = end
			}
			k.look(t, ends)
			done = done && k.enough()
		}
		return done, nil
	})
	for _, k := range keepers {
		answers := m.watcher.answersFor(m.in(k.path))
		served := map[string]bool{}
		for _, a := range answers {
			a.leavesTimeToReadAgain(t, k.path, ends)
			served[a.token] = true
		}
		t.Logf("%-40s %2d tokens served in %2d reads, %2d replaced in time, late by %s at most",
			k.path, len(served), len(answers), k.punctual(), k.latest().Round(time.Millisecond))
		assert.LessOrEqual(t, len(answers), mostReads*len(served), "reads of %s for %d tokens", k.path, len(served))
	}
	require.NoError(t, err)
}

// reads counts in the audit log how often a path below the mount was read successfully, with any operation.
func (m *mount) reads(t *testing.T, path string) int {
	t.Helper()
	return successes(responses(m.audit(t), m.in(path)))
}

// successes counts responses without an error.
func successes(texts []string) (n int) {
	for _, text := range texts {
		if text == "" {
			n++
		}
	}
	return n
}

// responses returns the error of each response for a path in an audit log, which is empty for a success.
func responses(audit, path string) (texts []string) {
	for line := range strings.Lines(audit) {
		if !strings.Contains(line, path) {
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
		if entry.Type == "response" && entry.Request.Path == path {
			texts = append(texts, entry.Error)
		}
	}
	return texts
}

// startConsumer runs a program until the test ends, and shows its log if the test failed.
func (m *mount) startConsumer(t *testing.T, name string, args ...string) {
	t.Helper()
	startProgram(t, m.vault.environment(), name, args...)
}

// startProgram runs a program with the given environment until the test ends, and shows its log if the test failed.
func startProgram(t *testing.T, env []string, name string, args ...string) (p *process, logPath string) {
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

// mayRead returns policy rules that allow GET and PUT for paths below the mount.
func (m *mount) mayRead(paths ...string) string {
	var rules strings.Builder
	for _, path := range paths {
		fmt.Fprintf(&rules, "path %q { capabilities = [\"read\", \"update\"] }\n", m.in(path))
	}
	return rules.String()
}

// templates is the configuration with which Agent or consul-template renders each keeper's credential to its file.
// Arguments, if any, follow the path of the secret and turn the read into a PUT.
func (m *mount) templates(keepers []*keeper, arguments ...string) string {
	var config strings.Builder
	for _, k := range keepers {
		fmt.Fprintf(&config, "template {\n  contents    = %q\n  destination = %q\n}\n", m.contents(k, arguments...), k.file)
	}
	return config.String()
}

// contents is a template for a keeper's credential.
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
