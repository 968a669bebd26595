package acceptance

import (
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// pageTimeout bounds the commands of a page. They take seconds, and more where Go has nothing built yet.
const pageTimeout = 10 * time.Minute

// pageRun is what a page says that its reader has.
type pageRun struct {
	server  bool // a Vault server that runs, with the plugin registered
	project string
	// replace has names of the page and what they are here, in pairs.
	replace func(r *reader) []string
	// before has, by a piece of the first block that needs it, what the page leaves to its reader.
	before map[string]func(r *reader) string
	// needs is what the reader has from the start.
	needs func(r *reader) string
	// accounts are those that the page has beside those of every page.
	accounts []pipedreamtest.Account
	// passing are names in shown output that may be gone by the time that a slow machine reads them.
	passing []string
}

// pageRuns are the pages whose blocks of commands are run. A page that is not here has none, or marks them.
var pageRuns = map[string]pageRun{
	"README.md": {
		server:  true,
		project: "proj_readme",
		replace: func(r *reader) []string {
			return []string{"http://127.0.0.1:8200", "http://" + r.devAddress, "https://api.pipedream.com/v1", r.simURL, "/etc/vault.d/plugins", r.vault.plugins}
		},
		needs: func(r *reader) string {
			return fmt.Sprintf("export VAULT_DEV_LISTEN_ADDRESS=%s CLIENT_ID=%s CLIENT_SECRET=%s PROJECT_ID=proj_readme API_KEY=%s",
				r.devAddress, clientID, r.secret, r.key)
		},
		before: map[string]func(r *reader) string{
			"export VAULT_ADDR=": func(r *reader) string {
				return "until VAULT_ADDR=http://" + r.devAddress + " vault token lookup; do kill -0 $terminal; sleep 0.2; done"
			},
			"install -m 0755":                (*reader).onServer,
			"vault write pipedream/roles/gi": (*reader).writeConfig,
		},
	},
	"docs/connect.md": {},
	"docs/connect-app.md": {
		server:  true,
		project: "proj_demo",
		needs: func(r *reader) string {
			return r.onServer() + "\n" + r.enable() + "\n" + r.writeConfig() + `
				vault auth enable userpass
				ACCESSOR=$(vault auth list -format=json | jq -r '."userpass/".accessor')
				vault write auth/userpass/users/carol password=pw-carol token_policies=pipedream-github`
		},
		before: map[string]func(r *reader) string{
			`"X-Vault-Token: $USER_TOKEN"`: func(*reader) string {
				return "USER_TOKEN=$(vault login -method=userpass -no-store -token-only username=carol password=pw-carol)"
			},
		},
	},
	"docs/consumers.md": {
		server: true,
		needs:  func(r *reader) string { return r.onServer() + "\n" + r.enable() + "\n" + r.writeKey() },
	},
	"docs/login.md": {
		server: true,
		needs: func(r *reader) string {
			return r.onServer() + "\n" + r.enable() + "\n" + r.writeKey() + "\nexport JWT=" + r.jobToken
		},
	},
	"docs/proxy.md": {
		server:   true,
		project:  "proj_1aBcDeF",
		accounts: []pipedreamtest.Account{inProject(bare("apn_carol", "carol"), "proj_1aBcDeF")},
		replace: func(r *reader) []string {
			return []string{"https://api.pipedream.com/v1", r.simURL}
		},
		needs: func(r *reader) string {
			return r.onServer() + "\n" + r.enable() + "\n" + r.writeConfig() + `
				vault auth enable userpass
				vault write auth/userpass/users/carol password=pw-carol token_policies=pipedream-slack`
		},
		before: map[string]func(r *reader) string{
			"VAULT_TOKEN=$USER_TOKEN": func(*reader) string {
				return "USER_TOKEN=$(vault login -method=userpass -no-store -token-only username=carol password=pw-carol)"
			},
		},
	},
	"docs/production.md": {
		server:  true,
		project: "proj_1aBcDeF",
		replace: func(r *reader) []string {
			return []string{"/etc/vault.d/plugins", r.vault.plugins, "client_id=ID", "client_id=" + clientID}
		},
		needs: func(r *reader) string {
			return r.onServer() + "\nln -s " + r.vault.auditPath() + " audit.log"
		},
		before: map[string]func(r *reader) string{
			"read -rs KEY": (*reader).writeKey, // which leaves base_url
			"vault plugin deregister": func(*reader) string {
				return `vault secrets tune -plugin-version=v0.2.0 pipedream
					vault plugin reload -type=secret -plugin=vault-plugin-secrets-pipedream`
			},
		},
	},
	"docs/troubleshooting.md": {
		server: true,
		needs: func(r *reader) string {
			return r.onServer() + "\n" + r.enable() + "\n" + r.writeKey() + `
				vault read pipedream/creds/apn_XehyZPr
				vault write pipedream/config api_key=wrong verify=false
				! vault read pipedream/creds/apn_XehyZPr`
		},
		before:  map[string]func(r *reader) string{"verify=true": (*reader).writeKey},
		passing: []string{"held_off_until"},
	},
	"docs/troubleshooting-setup.md": {
		server: true,
		needs:  func(r *reader) string { return r.onServer() + "\n" + r.enable() + "\n" + r.writeKey() },
	},
}

// TestDocsCommands runs the commands of the pages, page by page and block by block, as they stand there: under bash, and
// under zsh where that is installed.
func TestDocsCommands(t *testing.T) {
	t.Parallel()
	if onOpenBao {
		t.Skip("the commands of the pages are those of Vault")
	}
	for _, needed := range []string{"bash", "curl", "go", "install", "jq", "make", "sha256sum"} {
		if _, err := exec.LookPath(needed); err != nil {
			t.Skipf("%s is not there", needed)
		}
	}
	for _, name := range []string{"bash", "zsh"} {
		shell, err := exec.LookPath(name)
		if err != nil {
			t.Logf("no %s: the pages are not followed with it", name)
			continue
		}
		for page, run := range pageRuns {
			t.Run(name+"/"+page, func(t *testing.T) {
				t.Parallel()
				newReader(t, page, shell, run).follow(t)
			})
		}
	}
}

// TestDocsCommandsAreRunOrMarked: each block of commands is run by a test, or says above itself why it is not.
func TestDocsCommandsAreRunOrMarked(t *testing.T) {
	t.Parallel()
	seen, pages := 0, pageNames(t)
	for page := range pageRuns {
		assert.Contains(t, pages, page)
	}
	for _, page := range pages {
		_, runs := pageRuns[page]
		for _, b := range blocksOf(t, page) {
			if b.kind != blockCommands {
				assert.Empty(t, b.mark, "%s:%d: a mark above what is no block of commands", b.page, b.line)
				continue
			}
			seen++
			ran := b.ofAPISample() || runs && (b.mark == "" || b.mark == markTerminal)
			assert.True(t, ran || b.notRun(), "%s:%d: neither run by a test nor marked, as in <!-- not run: needs a cluster -->:\n%s", b.page, b.line, b.text)
		}
	}
	require.Greater(t, seen, 80, "blocks of commands were looked for")
}
