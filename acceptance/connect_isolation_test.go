package acceptance

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// trespass is a request with which alice might try to get bob's account. The target and body may contain placeholders
// such as MOUNT and AUTH.
type trespass struct {
	method string
	target string
	body   string
	header map[string]string
	own    bool // the answer is alice's own token, as for a normal request
}

func trespasses() []trespass {
	const get, put, list = http.MethodGet, http.MethodPut, "LIST"
	all := []trespass{}
	for _, path := range []string{"creds", "static-creds", "refresh"} {
		method := get
		if path == "refresh" {
			method = put
		}
		for _, name := range []string{
			// Other names.
			"bobs", "pinned", "bob", "apn_bob", "apn_nobody", "GITHUB", "Github", "github.", ".github", "github-", "gıthub", "ｇithub", "",
			// Paths that lead elsewhere, in every spelling.
			"github/", "github/bobs", "github/../bobs", "github/../apn_bob", "github/%2e%2e/bobs", "github%2f..%2fbobs", "github/..%2fbobs",
			"..%2fcreds%2fbobs", "./bobs", "/bobs", "//bobs", "github/./../bobs", "github%252f..%252fbobs", "../roles/bobs",
			"../../MOUNT/creds/bobs", "github\\..\\bobs", "github%5c..%5cbobs", "users/bob", "apn_bob/", "apn_bob%2f", "apn_%62ob",
			// Characters that end or split names in other programs.
			"github%00", "github%00bobs", "bobs%00github", "github%20", "github%0a", "github%0abobs", "github%0d%0abobs", "github;bobs",
			"github;name=bobs", "github,bobs", "github+bobs", "github|bobs", "github%3fname=bobs", "github%23bobs", "github:bobs", "github@bob",
			"github=bobs", "%67ithub%2f", "*", "+", "%2a", "%2b", "{name}", "{{identity.entity.name}}", "github%7b%7bbob%7d%7d",
			"apn_bob%00", "apn_bob.", "APN_bob",
		} {
			all = append(all, trespass{method: method, target: "MOUNT/" + path + "/" + name})
		}
		// Fields of the role and other parameters. Only min_ttl has a meaning here.
		for _, query := range []string{
			"external_user_id=bob", "account_id=apn_bob", "name=bobs", "name=apn_bob", "name=bobs&name=pinned", "role=bobs",
			"app=github&external_user_id=bob", "entity_id=BOBS_ENTITY", "fields=oauth_refresh_token", "ttl=0", "external_id=bob", "user=bob", "path=creds/bobs", "min_ttl=1000h", "version=1", "help=1",
		} {
			all = append(all, trespass{method: method, target: "MOUNT/" + path + "/github?" + query, own: query != "help=1"})
		}
		for _, body := range []string{
			`{"name":"bobs"}`, `{"name":"apn_bob"}`, `{"name":["bobs"]}`, `{"name":{"a":"bobs"}}`, `{"Name":"bobs","NAME":"bobs"}`,
			`{"account_id":"apn_bob"}`, `{"external_user_id":"bob"}`, `{"app":"github","external_user_id":"bob","account_id":""}`,
			`{"entity_id":"BOBS_ENTITY"}`,
			`{"EntityID":"BOBS_ENTITY","entity":{"id":"BOBS_ENTITY"}}`, `{"role":{"external_user_id":"bob"}}`, `{"fields":["oauth_refresh_token"]}`,
			`{"path":"creds/bobs"}`, `{"ttl":"1000h"}`, `{"environment":"development"}`, `{"project_id":"proj_other"}`,
		} {
			all = append(all, trespass{method: put, target: "MOUNT/" + path + "/github", body: body, own: true})
		}
		all = append(all, trespass{method: put, target: "MOUNT/" + path + "/github", body: `{"name":"github","name":"bobs"}`, own: takesDuplicateKeys}) // else it is refused
		for _, header := range []map[string]string{
			{"X-Vault-Namespace": "bob"},
			{"X-Vault-Entity-Id": "BOBS_ENTITY"},
			{"X-Vault-Entity": "bob"},
			{"X-Forwarded-User": "bob"},
			{"X-Http-Method-Override": "PUT"},
			{"X-Original-Url": "/v1/MOUNT/creds/bobs"},
			{"X-Rewrite-Url": "/v1/MOUNT/creds/bobs"},
			{"X-Pd-Environment": "development"},
		} {
			// OpenBao has namespaces, but not this one.
			own := !onOpenBao || header["X-Vault-Namespace"] == ""
			all = append(all, trespass{method: method, target: "MOUNT/" + path + "/github", header: header, own: own})
		}
	}
	return append(
		all,
		// Other operations on what alice may read, and neighbouring paths.
		trespass{method: list, target: "MOUNT/creds/github"},
		trespass{method: list, target: "MOUNT/creds/"},
		trespass{method: http.MethodDelete, target: "MOUNT/creds/github"},
		trespass{
			method: http.MethodPatch, target: "MOUNT/creds/github", body: `{"name":"bobs"}`,
			header: map[string]string{"Content-Type": "application/merge-patch+json"},
		},
		trespass{method: http.MethodHead, target: "MOUNT/creds/bobs"},
		trespass{method: get, target: "MOUNT/refresh/github"},
		trespass{method: list, target: "MOUNT/accounts/?external_user_id=bob"},
		trespass{method: get, target: "MOUNT/accounts/apn_bob?include_credentials=1"},
		trespass{method: get, target: "MOUNT/roles/bobs"},
		trespass{method: put, target: "MOUNT/roles/github", body: `{"external_user_id":"bob"}`},
		trespass{method: put, target: "MOUNT/roles/mine", body: `{"app":"github","external_user_id":"bob"}`},
		trespass{method: put, target: "MOUNT/config", body: `{"allow_account_ids":true}`},
		trespass{method: get, target: "MOUNT/cache/apn_bob"},
		trespass{method: get, target: "sys/raw/logical/MOUNT/cache/apn_bob"},
		// Becoming bob.
		trespass{method: put, target: "identity/entity/id/ALICES_ENTITY", body: `{"name":"bob","metadata":{"user":"bob"}}`},
		trespass{method: put, target: "identity/entity-alias", body: `{"name":"bob","canonical_id":"ALICES_ENTITY","mount_accessor":"ACCESSOR"}`},
		trespass{method: put, target: "identity/entity/merge", body: `{"to_entity_id":"ALICES_ENTITY","from_entity_ids":["BOBS_ENTITY"],"force":true}`},
		trespass{method: put, target: "auth/AUTH/users/bob/password", body: `{"password":"taken-over"}`},
		trespass{method: put, target: "auth/AUTH/login/bob", body: `{"password":"taken-over"}`},
		trespass{method: put, target: "auth/token/create", body: `{"entity_alias":"bob"}`},
		// Bob's leases.
		trespass{method: put, target: "sys/leases/lookup", body: `{"lease_id":"BOBS_LEASE"}`},
		trespass{method: put, target: "sys/leases/renew", body: `{"lease_id":"BOBS_LEASE"}`},
		trespass{method: put, target: "sys/leases/revoke", body: `{"lease_id":"BOBS_LEASE"}`},
		trespass{method: list, target: "sys/leases/lookup/MOUNT/creds/github/"},
	)
}

// TestConnectAttemptsOnAnothersAccount has alice try everything to get bob's account. Under a policy for one role,
// Vault itself stops most attempts. Under a policy for every role, only the engine does.
func TestConnectAttemptsOnAnothersAccount(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		role  string // the role that alice may use
		roles bool   // whether there are other roles, for bob's account
	}{
		"with a policy for one role":   {"github", true},
		"with a policy for every role": {"*", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := onConnect(t)
			c.sim.SetAccount(connected("apn_alice", "alice"))
			// Everything that is returned for bob's account differs from alice's, even the expiry.
			c.sim.SetAccount(connectedWith("apn_bob", "bob", func(a *pipedreamtest.Account) { a.TokenLife = 3 * time.Hour }))
			c.sim.SetAccount(connectedWith("apn_dev", "alice", func(a *pipedreamtest.Account) { a.Environment = development }))
			p := c.people(t, c.rules(test.role))
			c.write(t, "roles/github", p.ownAccount())
			alice, bob := p.login(t, "alice"), p.login(t, "bob")
			alice.reads(t, "apn_alice")
			bob.reads(t, "apn_bob")
			lease := bob.read(t, "creds/github").LeaseID
			if test.roles {
				c.write(t, "roles/bobs", map[string]any{"app": "github", "external_user_id": "bob"})
				c.write(t, "roles/pinned", map[string]any{"account_id": "apn_bob"})
			} else {
				c.write(t, "config", map[string]any{"allow_account_ids": false})
			}
			others := []string{
				c.sim.Token("apn_bob"), c.sim.Token("apn_dev"), "pduid_apn_bob", "pdclient_apn_bob", c.sim.ExpiresAt("apn_bob").Format(time.RFC3339),
			}
			c.sim.ResetRequests()

			whatIsThere := strings.NewReplacer("MOUNT", c.path, "AUTH", p.path, "ACCESSOR", p.accessor, "BOBS_LEASE", lease,
				"BOBS_ENTITY", bob.entity, "ALICES_ENTITY", alice.entity)
			for _, try := range trespasses() {
				for name, value := range try.header {
					try.header[name] = whatIsThere.Replace(value)
				}
				code, answer := alice.send(t, try.method, whatIsThere.Replace(try.target), whatIsThere.Replace(try.body), try.header)
				what := fmt.Sprint(try.method, " ", try.target, " ", try.body, " ", try.header)
				lacks(t, what, answer, others...)
				switch {
				case !try.own:
					assert.NotContains(t, answer, c.sim.Token("apn_alice"), what)
				case strings.Contains(try.target, "/refresh/"):
					assert.Equal(t, http.StatusOK, code, "%s: %s", what, answer)
					assert.Contains(t, answer, c.sim.ExpiresAt("apn_alice").Format(time.RFC3339), what)
				default:
					assert.Equal(t, http.StatusOK, code, "%s: %s", what, answer)
					assert.Contains(t, answer, c.sim.Token("apn_alice"), what)
				}
			}

			// Pipedream was not asked for anything of bob's, and both users still have their own accounts.
			for _, request := range c.sim.Requests() {
				assert.NotContains(t, request.Path+"?"+request.RawQuery, "bob")
			}
			alice.reads(t, "apn_alice")
			bob.reads(t, "apn_bob")
			_, err := c.vault.root.Sys().Lookup(lease)
			require.NoError(t, err)
		})
	}
}
