package acceptance

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
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
		// Fields of the role and other parameters. Of these, only min_ttl has a meaning. user is refused. For account, see
		// accountParameters.
		for _, query := range []string{
			"external_user_id=bob", "account_id=apn_bob", "name=bobs", "name=apn_bob", "name=bobs&name=pinned", "role=bobs",
			"app=github&external_user_id=bob", "entity_id=BOBS_ENTITY", "fields=oauth_refresh_token", "ttl=0", "external_id=bob", "user=bob", "path=creds/bobs", "min_ttl=1000h", "version=1", "help=1",
		} {
			all = append(all, trespass{method: method, target: "MOUNT/" + path + "/github?" + query, own: query != "help=1" && query != "user=bob"})
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

// accountParameters are what alice might add to a request to reach bob's account with it. Values of one name are sent as
// a list.
func accountParameters(t *testing.T) []url.Values {
	t.Helper()
	all := []url.Values{{}}
	for _, named := range []string{
		"apn_bob", "bob on GitHub", "bob", "APN_BOB", "Apn_bob", "bob on github", "BOB ON GITHUB", "apn_nobody",
		// Parts, patterns and lists.
		"", " ", "apn_", "apn_b", "bob on", "*", "apn_*", "%", "apn_bo_", "apn_bob,HERS", "HERS,apn_bob", "HERS apn_bob", `["apn_bob"]`, "{{identity.entity.name}}",
		// Paths and characters that end or split text in other programs.
		"apn_bob/", "../apn_bob", "HERS/../apn_bob", "apn_bob?external_user_id=bob", "apn_bob#", "HERS&account=apn_bob", "apn_bob;", "%61pn_bob", `apn_bob\`, `"apn_bob"`,
		"apn_bob\x00", "HERS\x00apn_bob", "HERS\napn_bob", "HERS\r\napn_bob", " apn_bob", "apn_bob\t", "apn_bob\u200b", "\ufeffapn_bob", "ａpn_bob", "bob on GitHub\xff",
		strings.Repeat("bob on GitHub ", 100),
	} {
		all = append(all, url.Values{"account": {named}})
	}
	for _, query := range []string{
		"acount=apn_bob", "Account=apn_bob", "ACCOUNT=apn_bob", "accounts=apn_bob", "account_id=apn_bob", "account%5B%5D=apn_bob", "account%00=apn_bob", "id=apn_bob",
		"account=HERS&account=apn_bob", "account=HERS&Account=apn_bob", "account=HERS&acount=apn_bob", "account=apn_bob&external_user_id=bob", "account=apn_bob&user=bob",
		"all=true&account=apn_bob", "all=true&account=HERS", "all=1&account=bob+on+GitHub", "all=true&acount=HERS", "all=true&Account=HERS", "all=true&external_user_id=bob",
		"all=false", "all=true&user=bob", "All=true", "al=true", "user=bob", "external_user_id=bob", "link_id=BOBS_LINK", "link_id=BOBS_LINK&account=apn_bob",
		"list=true", "list=true&account=apn_bob", "min_ttl=1h&account=apn_bob",
	} {
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		all = append(all, values)
	}
	return all
}

var someAccountParameters = []url.Values{{}, {"account": {"apn_bob"}}, {"account": {"bob on GitHub"}}, {"all": {"true"}, "account": {"HERS"}}}

// getsOwn reports whether the request of a user is one for an account of their own. creds/, static-creds/ and refresh/
// ignore what they do not know, connect/ refuses it.
func getsOwn(method, path string, sent url.Values) bool {
	reads, writes := method == http.MethodGet, method == http.MethodPut || method == http.MethodPost
	if sent.Has("user") || reads && sent.Has("list") || len(sent["account"]) > 1 {
		return false
	}
	hers := sent.Get("account") == "HERS"
	switch path {
	case "creds/github", "static-creds/github":
		return (reads || writes) && (hers || !sent.Has("account"))
	case "refresh/github":
		return writes && (hers || !sent.Has("account"))
	case "connect/github":
		known := []string{"link_id", "wait"}
		if writes {
			known = []string{"account"}
		}
		return (reads || writes && hers) && !slices.ContainsFunc(slices.Collect(maps.Keys(sent)), func(name string) bool { return !slices.Contains(known, name) })
	default:
		return false
	}
}

// accountTrespasses are requests of each kind, to each path that is about accounts. What a path supports is tried with all
// these parameters, the rest with some.
func accountTrespasses(t *testing.T, parameters []url.Values) (all []trespass) {
	t.Helper()
	const get, put, remove = http.MethodGet, http.MethodPut, http.MethodDelete
	supported := map[string][]string{
		"connect/github": {get, put, remove}, "creds/github": {get, put}, "static-creds/github": {get, put}, "refresh/github": {put},
	}
	paths := []string{
		"connect/github", "creds/github", "static-creds/github", "refresh/github", "connect/github/bob", "connect/apn_bob", "creds/github/bob", "creds/apn_bob",
		"static-creds/apn_bob", "refresh/apn_bob", "users/bob", "users/b64:Ym9i", "users/", "users/alice", "users/*", "accounts/apn_bob", "accounts/HERS", "accounts/",
	}
	for _, path := range paths {
		for _, method := range []string{get, put, http.MethodPost, http.MethodPatch, remove, "LIST"} {
			sent := someAccountParameters
			if slices.Contains(supported[path], method) {
				sent = parameters
			}
			for _, values := range sent {
				all = append(all, withParameters(t, method, path, values))
			}
		}
	}
	for path, methods := range supported {
		for _, method := range methods {
			for _, body := range []string{
				`{"account":{"id":"apn_bob"}}`, `{"account":null}`, `{"account":7}`, `{"account":true}`, `{"account":[]}`, `{"account":["apn_bob"]}`,
			} {
				if method != get {
					all = append(all, trespass{method: method, target: "MOUNT/" + path, body: body})
				}
			}
		}
	}
	return append(all, trespass{method: remove, target: "MOUNT/connect/github", body: `{"all":true}`}) // only its query counts
}

// withParameters is a request with parameters, in its body for a write and in its query otherwise.
func withParameters(t *testing.T, method, path string, sent url.Values) trespass {
	t.Helper()
	try := trespass{method: method, target: "MOUNT/" + path, own: getsOwn(method, path, sent)}
	if !strings.HasPrefix(method, "P") {
		try.target += "?" + sent.Encode()
		return try
	}
	fields := map[string]any{}
	for name, values := range sent {
		if fields[name] = values[0]; len(values) > 1 {
			fields[name] = values
		}
	}
	body, err := json.Marshal(fields)
	require.NoError(t, err)
	try.body, try.header = string(body), map[string]string{"Content-Type": "application/merge-patch+json"}
	return try
}

// given returns everything that the sender of a request wrote.
func (try *trespass) given() string {
	if target, err := url.QueryUnescape(try.target); err == nil {
		return target + try.body
	}
	return try.target + try.body
}

// TestConnectVerbsOnAnothersAccount has alice, who has two accounts, try every verb and parameter to see, use or
// disconnect an account of bob's. One of his has the name of one of hers.
func TestConnectVerbsOnAnothersAccount(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		role       string // the role that alice may use
		account    bool   // whether credentials can be read by account id
		parameters []url.Values
	}{
		"with a policy for one role":   {"github", true, someAccountParameters},
		"with a policy for every role": {"*", false, accountParameters(t)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := onConnect(t, pipedreamtest.WithLimit(0))
			c.write(t, "config", map[string]any{"rate_limit": 0, "allow_account_ids": test.account})
			var rules strings.Builder
			for _, path := range []string{"creds/", "static-creds/", "refresh/", "connect/"} {
				fmt.Fprintf(&rules, "path %q { capabilities = [\"create\", \"read\", \"update\", \"patch\", \"delete\", \"list\"] }\n", c.in(path+test.role))
			}
			p := c.people(t, rules.String())
			role := p.ownAccount()
			role["oauth_app_id"] = ourClient
			c.write(t, "roles/github", role)
			tokens := map[string]string{} // of all accounts
			connects := func(id, user, name string, life time.Duration) {
				c.sim.SetAccount(connectedWith(id, user, func(a *pipedreamtest.Account) { a.OAuthAppID, a.Name, a.TokenLife = ourClient, name, life }))
				tokens[id] = c.sim.Token(id)
			}
			connects("apn_bob", "bob", "bob on GitHub", 3*time.Hour)
			connects("apn_twin", "bob", "work", 5*time.Hour)
			bob := p.login(t, "bob")
			made := bob.link(t, map[string]any{"new": true}).Data
			clicked, err := c.sim.Click(asType[string](t, made["connect_link_url"]))
			require.NoError(t, err)
			tokens[clicked] = c.sim.Token(clicked)
			his := []string{"bob on GitHub"}
			for id, token := range tokens {
				his = append(his, id, token, c.sim.ExpiresAt(id).Format(time.RFC3339))
			}
			c.sim.ResetRequests()

			// Each alice is another one, because one may ask for 10 links in a minute.
			var alice *person
			var hers []string
			links := 10
			for _, try := range accountTrespasses(t, test.parameters) {
				if links == 10 {
					user := fmt.Sprintf("alice%d", len(tokens))
					connects("apn_"+user, user, "home", 2*time.Hour)
					connects("apn_"+user+"x", user, "work", 2*time.Hour)
					alice, links = p.login(t, user), 0
					hers = []string{tokens["apn_"+user], tokens["apn_"+user+"x"]}
				}
				if try.target == "MOUNT/connect/github" { // without a query: a write
					links++
				}
				whatIsThere := strings.NewReplacer("MOUNT", c.path, "HERS", "apn_"+alice.name, "BOBS_LINK", asType[string](t, made["link_id"]))
				try.target, try.body = whatIsThere.Replace(try.target), whatIsThere.Replace(try.body)
				code, answer := alice.send(t, try.method, try.target, try.body, try.header)
				what := fmt.Sprint(try.method, " ", try.target, " ", try.body)
				given := try.given()
				lacks(t, what, answer, slices.DeleteFunc(slices.Clone(his), func(word string) bool { return strings.Contains(given, word) })...)
				if !try.own {
					assert.Contains(t, []int{http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed}, code, "%s: %s", what, answer)
					lacks(t, what, answer, hers...)
					continue
				}
				assert.Equal(t, http.StatusOK, code, "%s: %s", what, answer)
				switch {
				case strings.Contains(try.target, "/connect/"):
					assert.Contains(t, answer, `"external_user_id":"`+alice.name+`"`, what)
					lacks(t, what, answer, `"link_status":"connected"`, `"link_status":"open"`)
				case !strings.Contains(try.target, "/refresh/"):
					assert.True(t, slices.ContainsFunc(hers, func(token string) bool { return strings.Contains(answer, token) }), what)
				}
			}

			for _, request := range c.sim.Requests() {
				assert.NotEqual(t, http.MethodDelete, request.Method, request.Path)
				assert.NotContains(t, request.Path+"?"+request.RawQuery+request.Body, "bob")
			}
			for id, token := range tokens {
				assert.Equal(t, token, c.sim.Token(id), "%s is as it was", id)
			}
		})
	}
}
