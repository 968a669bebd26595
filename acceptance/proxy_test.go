package acceptance

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	slackOfCarol = "apn_carol_slack"
	slackAgain   = "apn_carol_again"
)

// bare is a Slack account on Pipedream's own OAuth client, so nobody gets its credentials.
func bare(id, user string) pipedreamtest.Account {
	return connectedWith(id, user, func(a *pipedreamtest.Account) {
		a.NoCredentials = true
		a.App = pipedreamtest.App{ID: "app_slack", Slug: "slack", Name: "Slack", AuthType: "oauth"}
	})
}

func inProject(a pipedreamtest.Account, project string) pipedreamtest.Account {
	a.Project = project
	return a
}

// onProxy lets all users of a userpass method use their own Slack account through Pipedream's proxy.
func onProxy(t *testing.T) (*connect, *people) {
	t.Helper()
	c := onConnect(t)
	p := c.people(t, c.rules("slack"))
	c.write(t, "roles/slack", map[string]any{"credential_type": "connect_token", "scope": "connect:proxy", "app": "slack", "external_user_id": p.name()})
	return c, p
}

// behind is an app that takes only the current token of an account.
type behind struct {
	sim  *pipedreamtest.Server
	addr string

	mu      sync.Mutex // guards the fields below
	id      string     // of the account
	taken   map[string]bool
	refused int
}

func newBehind(t *testing.T, sim *pipedreamtest.Server, id string) *behind {
	t.Helper()
	b := &behind{sim: sim, id: id, taken: map[string]bool{}}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	b.addr = server.URL + "/api/auth.test"
	return b
}

func (b *behind) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token != b.sim.Token(b.id) {
		b.refused++
		http.Error(w, "bad credentials", http.StatusForbidden)
		return
	}
	b.taken[token] = true
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"ok":true}`))
}

// moves has the app take the tokens of another account from now on.
func (b *behind) moves(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.id = id
}

// takes waits until the account's current token is used.
func (b *behind) takes(t *testing.T, when string) {
	t.Helper()
	waitUntil(t, "the account to be used "+when, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.taken[b.sim.Token(b.id)]
	})
}

// TestProxyClients runs the programs of docs/examples/proxy, with only addresses changed, for an account that has no
// credentials for anyone.
func TestProxyClients(t *testing.T) {
	t.Parallel()
	for language, command := range map[string]func(t *testing.T, dir string, changes []string) (command, env []string){
		"go": func(t *testing.T, dir string, changes []string) (command, env []string) {
			t.Helper()
			return []string{buildExample(t, dir, filepath.Join("proxy", "go"), changes)}, nil
		},
		"python": func(t *testing.T, dir string, changes []string) (command, env []string) {
			t.Helper()
			python, err := exec.LookPath("python3")
			if err != nil {
				t.Skip(err)
			}
			return []string{python, example(t, dir, filepath.Join("proxy", "python", "app.py"), changes)}, nil
		},
		"node": func(t *testing.T, dir string, changes []string) (command, env []string) {
			t.Helper()
			modules := os.Getenv("NODE_MODULES")
			if modules == "" {
				t.Skip("NODE_MODULES is not set; make test-acceptance sets it where Node and npm are there")
			}
			return []string{"node", example(t, dir, filepath.Join("proxy", "node", "app.js"), changes)}, []string{"NODE_PATH=" + modules}
		},
		"curl": func(t *testing.T, dir string, changes []string) (command, env []string) {
			t.Helper()
			for _, needed := range []string{"bash", "curl", "jq"} {
				if _, err := exec.LookPath(needed); err != nil {
					t.Skip(err)
				}
			}
			return []string{"bash", example(t, dir, filepath.Join("proxy", "curl", "app.sh"), changes)}, nil
		},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			c, p := onProxy(t)
			c.sim.SetAccount(bare(slackOfCarol, "carol"))
			app := newBehind(t, c.sim, slackOfCarol)
			carol := p.login(t, "carol")
			dir := t.TempDir()
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "proxy", language), 0o700))
			changes := []string{"https://slack.com/api/auth.test", app.addr, "/v1/pipedream/", "/v1/" + c.in("")}
			if language == "go" {
				changes = []string{"https://slack.com/api/auth.test", app.addr, `"pipedream/`, `"` + c.in("")}
			}
			run, env := command(t, dir, changes)
			env = append(append(env, "VAULT_ADDR="+c.vault.addr, "VAULT_TOKEN="+carol.Token()), c.vault.environment()...)
			startProgram(t, env, run[0], run[1:]...)

			app.takes(t, "at first")
			c.sim.Rotate(slackOfCarol)
			app.takes(t, "after Pipedream refreshed its token")
			c.sim.AddFault(pipedreamtest.Fault{
				Kind: pipedreamtest.KindProxy, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}, Times: 1,
			})
			c.sim.Rotate(slackOfCarol)
			app.takes(t, "after a 429 of the proxy")
			c.sim.RevokeConnectTokens()
			c.sim.Rotate(slackOfCarol)
			app.takes(t, "after the Connect token ended")
			app.moves(slackAgain)
			c.sim.SetAccount(bare(slackAgain, "carol"))
			c.sim.DeleteAccount(slackOfCarol)
			app.takes(t, "after it was disconnected and connected again")

			assert.Zero(t, app.refused)
			assert.Zero(t, c.sim.Count(pipedreamtest.KindAccount), "nobody asked for its credentials")
		})
	}
}
