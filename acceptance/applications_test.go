package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestApplications runs the programs of docs/examples/applications, with only addresses and the account changed, against
// an API that accepts their tokens until the test tells it to refuse one.
func TestApplications(t *testing.T) {
	t.Parallel()
	for language, command := range map[string]func(t *testing.T, dir string, changes []string) (command, env []string){
		"go": func(t *testing.T, dir string, changes []string) (command, env []string) {
			t.Helper()
			return []string{buildExample(t, dir, filepath.Join("applications", "go"), changes)}, nil
		},
		"python": func(t *testing.T, dir string, changes []string) (command, env []string) {
			t.Helper()
			python := os.Getenv("PYTHON")
			if python == "" {
				t.Skip("PYTHON is not set; make test-acceptance sets it where one has hvac")
			}
			return []string{python, example(t, dir, filepath.Join("applications", "python", "app.py"), changes)}, nil
		},
		"node": func(t *testing.T, dir string, changes []string) (command, env []string) {
			t.Helper()
			modules := os.Getenv("NODE_MODULES")
			if modules == "" {
				t.Skip("NODE_MODULES is not set; make test-acceptance sets it where Node and npm are there")
			}
			return []string{"node", example(t, dir, filepath.Join("applications", "node", "app.js"), changes)}, []string{"NODE_PATH=" + modules}
		},
		"curl": func(t *testing.T, dir string, changes []string) (command, env []string) {
			t.Helper()
			for _, needed := range []string{"bash", "curl", "jq"} {
				if _, err := exec.LookPath(needed); err != nil {
					t.Skip(err)
				}
			}
			return []string{"bash", example(t, dir, filepath.Join("applications", "curl", "app.sh"), changes)}, nil
		},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			m := onSharedVault(t)
			// Pipedream replaces the token early, so that only the program can be late.
			account := githubWith(func(a *pipedreamtest.Account) { a.TokenLife, a.RefreshBefore = 10*time.Second, 4*time.Second })
			m.sim.SetAccount(account)
			app := newApp(t, m, account.ID)
			token := m.vault.login(t, slug(t.Name()), m.mayRead("creds/"+account.ID, "refresh/"+account.ID)).Token()
			dir := t.TempDir()
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "applications", language), 0o700))
			run, env := command(t, dir, []string{"https://api.github.com/user", app.addr, "pipedream/", m.in(""), exampleID, account.ID})
			env = append(append(env, "VAULT_ADDR="+m.vault.addr, "VAULT_TOKEN="+token), m.vault.environment()...)
			startProgram(t, env, run[0], run[1:]...)

			waitUntil(t, "three tokens to be used", func() bool { return app.used() >= 3 })
			assert.Zero(t, app.refused())
			reads, used := m.reads(t, "creds/"+account.ID), app.used()
			// How late the program is depends on the machine too, so that is only logged.
			t.Logf("%d tokens, %d reads, %d replaced in time, late by %s at most", used, reads, app.punctual(), app.latest())
			assert.LessOrEqual(t, reads, mostReads*used)

			// A token that lasts, so that only the refusal makes the program take another.
			m.sim.Update(account.ID, func(a *pipedreamtest.Account) { a.TokenLife, a.RefreshBefore = time.Hour, time.Minute })
			m.sim.Rotate(account.ID)
			waitUntil(t, "the token that lasts to be used", func() bool { return app.takes(m.sim.Token(account.ID)) })
			app.revoke(m.sim.Token(account.ID))
			m.sim.Rotate(account.ID)
			waitUntil(t, "a token in place of the refused one", func() bool { return app.takes(m.sim.Token(account.ID)) })
			t.Logf("%d calls with the refused token", app.refused())
			assert.Positive(t, app.refused())
			assert.LessOrEqual(t, app.refused(), 8, "calls with the refused token")
		})
	}
}

// exampleID is the account of the examples.
const exampleID = "apn_XehyZPr"

// waitUntil waits until the condition holds. Its bound is far longer than anything here should take.
func waitUntil(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.NoError(t, poll(5*time.Minute, what, func() (bool, error) { return condition(), nil }))
}

// app is an API that accepts the tokens of an account, records how late each is used, and refuses all others.
type app struct {
	sim  *pipedreamtest.Server
	id   string
	addr string

	mu       sync.Mutex
	ends     map[string]time.Time // of the tokens that Pipedream handed out
	revoked  map[string]bool
	taken    map[string]time.Duration // how long past its end each token was used; negative if only before it
	last     string                   // the token that was used last
	refusals int
}

func newApp(t *testing.T, m *mount, id string) *app {
	t.Helper()
	a := &app{sim: m.sim, id: id, ends: map[string]time.Time{}, revoked: map[string]bool{}, taken: map[string]time.Duration{}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.addr = server.URL
	return a
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.look()
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	end, known := a.ends[token]
	if !known || a.revoked[token] {
		a.refusals++
		http.Error(w, "bad credentials", http.StatusUnauthorized)
		return
	}
	late := time.Since(end)
	if before, again := a.taken[token]; again {
		late = max(late, before)
	}
	a.taken[token], a.last = late, token
}

// look records the token that Pipedream has now.
func (a *app) look() {
	token, end := a.sim.Token(a.id), a.sim.ExpiresAt(a.id)
	if _, known := a.ends[token]; !known && token == a.sim.Token(a.id) {
		a.ends[token] = end
	}
}

// used returns how many tokens were accepted.
func (a *app) used() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.look()
	return len(a.taken)
}

// punctual returns how many tokens the program replaced before or soon after they ended.
func (a *app) punctual() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.look()
	for token, late := range a.taken {
		if token != a.last && late <= mostLate {
			n++
		}
	}
	return n
}

// takes reports whether a token was accepted.
func (a *app) takes(token string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.look()
	_, taken := a.taken[token]
	return taken
}

// latest returns the longest time that a token was used past its end.
func (a *app) latest() (most time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, late := range a.taken {
		most = max(most, late)
	}
	return most
}

func (a *app) refused() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refusals
}

// revoke makes the API refuse a token before its end.
func (a *app) revoke(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revoked[token] = true
}

// buildExample applies the changes to an example in Go, builds it and returns the program's path.
func buildExample(t *testing.T, dir, name string, changes []string) string {
	t.Helper()
	changed := example(t, dir, filepath.Join(name, "main.go"), changes)
	original, err := filepath.Abs(filepath.Join("..", "docs", "examples", name, "main.go"))
	require.NoError(t, err)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: changed}})
	require.NoError(t, err)
	overlayPath, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "program")
	writeFile(t, overlayPath, string(overlay))
	output, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlayPath, "-o", program, //nolint:gosec // an example of the project's own
		fmt.Sprintf(".%c%s", filepath.Separator, filepath.Join("..", "docs", "examples", name))).CombinedOutput()
	require.NoError(t, err, string(output))
	return program
}
