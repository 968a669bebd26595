package acceptance

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// ourClient is a custom OAuth client. Pipedream hands out tokens only for accounts that use one.
const ourClient = "oa_ours"

// onLinks lets all users of a userpass method connect and use their own GitHub account.
func onLinks(t *testing.T) (*connect, *people) {
	t.Helper()
	c := onConnect(t)
	p := c.people(t, c.rules("github"), c.linkRules("github"))
	c.write(t, "roles/github", map[string]any{
		"app": "github", "external_user_id": p.name(), "oauth_app_id": ourClient, "allowed_redirect_hosts": "127.0.0.1",
	})
	return c, p
}

// linkRules are policy rules for links by role. A name may end in *.
func (m *mount) linkRules(names ...string) string {
	var rules strings.Builder
	for _, name := range names {
		fmt.Fprintf(&rules, "path %q { capabilities = [\"update\"] }\n", m.in("connect/"+name))
	}
	return rules.String()
}

// link requests a link, which must succeed, and returns the answer.
func (p *person) link(t *testing.T, data map[string]any) *api.Secret {
	t.Helper()
	secret, err := p.Logical().Write(p.m.in("connect/github"), data)
	require.NoError(t, err, p.name)
	return secret
}

// getsNoLink asserts that the person is refused a link.
func (p *person) getsNoLink(t *testing.T, code int, words ...string) {
	t.Helper()
	secret, err := p.Logical().Write(p.m.in("connect/github"), nil)
	require.Nil(t, secret)
	refused(t, err, code, words...)
}

// finds asserts that the person can read this account soon. The engine's own tests check on a fake clock how soon.
func (p *person) finds(t *testing.T, id string, clicked time.Time) {
	t.Helper()
	require.NoError(t, poll(readyTimeout, "the account to be found", func() (bool, error) {
		secret, err := p.Logical().Read(p.m.in("creds/github"))
		return err == nil && secret.Data["pipedream_account_id"] == id, nil
	}))
	t.Logf("%s reads the account %s after the click", p.name, time.Since(clicked).Round(time.Millisecond))
	p.reads(t, id)
}

// tokenRequests returns the bodies of the requests for Connect tokens.
func (m *mount) tokenRequests() (bodies []string) {
	for _, request := range m.sim.Requests() {
		if request.Kind == pipedreamtest.KindConnectToken {
			bodies = append(bodies, request.Body)
		}
	}
	return bodies
}

// TestConnectLinks has a user without an account follow the advice of the error: she connects an account and reads it.
func TestConnectLinks(t *testing.T) {
	t.Parallel()
	c, p := onLinks(t)
	c.sim.SetAccount(connectedWith("apn_alice", "alice", func(a *pipedreamtest.Account) { a.OAuthAppID = ourClient }))
	alice, carol := p.login(t, "alice"), p.login(t, "carol")
	alice.reads(t, "apn_alice")
	carol.isRefused(t, http.StatusBadRequest, `external user "carol" has no healthy account with app "github"`, cliName+" write -force "+c.in("connect/github"))

	secret := carol.link(t, nil)
	assert.Empty(t, secret.LeaseID)
	assert.Equal(t, "carol", secret.Data["external_user_id"])
	assert.Equal(t, "github", secret.Data["app"])
	expires, err := time.Parse(time.RFC3339, asType[string](t, secret.Data["expires_at"]))
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now().Add(15*time.Minute), expires, time.Minute)
	link := asType[string](t, secret.Data["connect_link_url"])

	// She has the link, and polls.
	var last error
	for range 20 {
		_, last = carol.Logical().Read(c.in("creds/github"))
		require.Error(t, last)
	}
	id, err := c.sim.Click(link)
	require.NoError(t, err)
	carol.finds(t, id, time.Now())
	alice.reads(t, "apn_alice")
	assert.Empty(t, c.sim.Violations())

	// The log shows what each token was used for.
	scopes := map[string]bool{}
	for _, request := range c.sim.Requests() {
		assert.True(t, request.Authorized, "%s %s", request.Method, request.Path)
		if request.Kind == pipedreamtest.KindToken {
			for _, scope := range []string{"connect:accounts:read", "connect:tokens:create"} {
				scopes[scope] = scopes[scope] || strings.Contains(request.Body, `"scope":"`+scope+`"`)
			}
		}
	}
	assert.Equal(t, map[string]bool{"connect:accounts:read": true, "connect:tokens:create": true}, scopes)
	for _, body := range c.tokenRequests() {
		assert.Contains(t, body, `"scope":"connect:accounts:write connect:apps:*"`)
	}
}

// TestConnectLinksByPolicy has two users under different policies. One may only read, the other may only connect.
func TestConnectLinksByPolicy(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	p := c.people(t) // may only read
	c.write(t, "roles/github", p.ownAccount())
	carol := p.login(t, "carol")
	carol.getsNoLink(t, http.StatusForbidden, "permission denied")
	q := c.peopleAt(t, slug(t.Name())+"-2", c.linkRules("github")) // may only connect
	c.write(t, "roles/github", q.ownAccount())
	dave := q.login(t, "dave")
	dave.link(t, nil)
	refused(t, dave.errorOf(t, "creds/github"), http.StatusForbidden, "permission denied")
	assert.Len(t, c.tokenRequests(), 1)
}

// linkTrespasses are requests with which alice might try to get a link for bob, or one that does more than hers.
func linkTrespasses() (all []trespass) {
	for _, name := range []string{
		"bobs", "pinned", "bob", "apn_bob", "GITHUB", "github.", "gıthub", "", "github/", "github/bobs", "github/../bobs", "github/%2e%2e/bobs",
		"github%2f..%2fbobs", "..%2fconnect%2fbobs", "./bobs", "//bobs", "../roles/bobs", "../../MOUNT/connect/bobs", "github\\..\\bobs", "github%00", "github%00bobs",
		"bobs%00github", "github%20", "github%0abobs", "github;name=bobs", "github,bobs", "github%3fname=bobs", "github%23bobs", "github=bobs", "%67ithub%2f", "*", "%2b",
		"{{identity.entity.name}}", "apn_bob.", "proj_other/tokens",
	} {
		all = append(all, trespass{method: http.MethodPut, target: "MOUNT/connect/" + name})
	}
	for _, query := range []string{"external_user_id=bob", "name=bobs", "name=bobs&name=pinned", "role=bobs", "entity_id=BOBS_ENTITY", "user=bob", "path=connect/bobs", "expires_in=4h"} {
		all = append(all, trespass{method: http.MethodPut, target: "MOUNT/connect/github?" + query, own: true})
	}
	for _, body := range []string{
		`{"reconnect":true}`, `{"new":true}`,
	} {
		all = append(all, trespass{method: http.MethodPut, target: "MOUNT/connect/github", body: body, own: true})
	}
	for _, body := range []string{
		`{"name":"bobs"}`, `{"name":["bobs"]}`, `{"name":{"a":"bobs"}}`, `{"name":"github","name":"bobs"}`, `{"all":true}`,
		`{"account":"apn_bob"}`, `{"account":"bob"}`, `{"account":["apn_bob"]}`, `{"account":"apn_bob","new":true}`, `{"accountId":"apn_bob"}`, `{"link_id":"x"}`,
		`{"Name":"bobs","NAME":"bobs"}`, `{"external_user_id":"bob"}`, `{"account_id":"apn_bob"}`,
		`{"app":"slack","app_id":"slack"}`, `{"entity_id":"BOBS_ENTITY"}`, `{"EntityID":"BOBS_ENTITY","entity":{"id":"BOBS_ENTITY"}}`, `{"role":{"external_user_id":"bob"}}`,
		`{"path":"connect/bobs"}`, `{"environment":"development"}`, `{"project_id":"proj_other"}`, `{"scope":"connect:*"}`, `{"oauth_app_id":"oa_other","oauthAppId":"oa_other"}`,
		`{"webhook_uri":"https://evil.example","allowed_origins":["https://evil.example"]}`, `{"allowed_redirect_hosts":["evil.example"]}`,
	} {
		all = append(all, trespass{method: http.MethodPut, target: "MOUNT/connect/github", body: body})
	}
	for _, body := range []string{
		`{"success_redirect_uri":"https://evil.example"}`, `{"error_redirect_uri":"https://127.0.0.1@evil.example"}`,
		`{"success_redirect_uri":"https://127.0.0.1","allowed_redirect_hosts":["evil.example"],"error_redirect_uri":"https://evil.example"}`,
		`{"success_redirect_uri":["https://evil.example"]}`, `{"expires_in":"5h"}`, `{"expires_in":-1}`, `{"expires_in":true}`,
	} {
		all = append(all, trespass{method: http.MethodPut, target: "MOUNT/connect/github", body: body})
	}
	for _, header := range []map[string]string{
		{"X-Vault-Namespace": "bob"},
		{"X-Vault-Entity-Id": "BOBS_ENTITY"},
		{"X-Vault-Entity": "bob"},
		{"X-Forwarded-User": "bob"},
		{"X-Original-Url": "/v1/MOUNT/connect/bobs"},
		{"X-Rewrite-Url": "/v1/MOUNT/connect/bobs"},
		{"X-Pd-Environment": "development"},
	} {
		// OpenBao has namespaces, and none of that name.
		own := !onOpenBao || header["X-Vault-Namespace"] == ""
		all = append(all, trespass{method: http.MethodPut, target: "MOUNT/connect/github", header: header, own: own})
	}
	for _, method := range []string{http.MethodGet, "LIST", http.MethodDelete, http.MethodPatch} {
		all = append(all, trespass{method: method, target: "MOUNT/connect/github", header: map[string]string{"Content-Type": "application/merge-patch+json"}})
	}
	return append(all, trespass{method: "LIST", target: "MOUNT/connect/"}, trespass{method: http.MethodGet, target: "MOUNT/connect/"})
}

// TestConnectAttemptsOnAnothersLink has alice try everything to get a link for bob. Under a policy for one role, Vault
// itself stops most attempts. Under a policy for every role, only the engine does.
func TestConnectAttemptsOnAnothersLink(t *testing.T) {
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
			p := c.people(t, c.rules(test.role), c.linkRules(test.role))
			c.write(t, "roles/github", map[string]any{
				"app": "github", "external_user_id": p.name(), "oauth_app_id": ourClient, "allowed_redirect_hosts": "127.0.0.1",
			})
			c.write(t, "config", map[string]any{"allow_account_ids": test.roles})
			if test.roles {
				c.write(t, "roles/bobs", map[string]any{"app": "github", "external_user_id": "bob"})
				c.write(t, "roles/pinned", map[string]any{"account_id": "apn_bob"})
			}
			bob := p.login(t, "bob")
			alice, made := p.login(t, "alice-0"), 0
			for _, try := range linkTrespasses() {
				if made == 10 { // the limit for one caller per minute, also of what is refused
					alice, made = p.login(t, alice.name+"0"), 0
				}
				made++
				whatIsThere := strings.NewReplacer("MOUNT", c.path, "BOBS_ENTITY", bob.entity)
				for name, value := range try.header {
					try.header[name] = whatIsThere.Replace(value)
				}
				code, answer := alice.send(t, try.method, whatIsThere.Replace(try.target), whatIsThere.Replace(try.body), try.header)
				what := fmt.Sprint(try.method, " ", try.target, " ", try.body, " ", try.header)
				if !try.own {
					assert.NotContains(t, answer, "connect_link_url\":", what)
					assert.GreaterOrEqual(t, code, http.StatusBadRequest, what)
					continue
				}
				assert.Equal(t, http.StatusOK, code, "%s: %s", what, answer)
				assert.Contains(t, answer, `"external_user_id":"`+alice.name+`"`, what)
				assert.Contains(t, answer, "app=github", what)
				assert.Contains(t, answer, "oauthAppId="+ourClient, what)
			}
			for _, body := range c.tokenRequests() {
				assert.Contains(t, body, `"external_user_id":"alice-0`)
				assert.Contains(t, body, `"scope":"connect:accounts:write connect:apps:*"`)
				lacks(t, "a request", body, "bob", "evil", "other", "slack")
			}
			for _, request := range c.sim.Requests() {
				if request.Kind == pipedreamtest.KindConnectToken {
					assert.Equal(t, "/v1/connect/"+projectID+"/tokens", request.Path)
					assert.Equal(t, []string{production}, request.Header.Values("X-Pd-Environment"))
				}
			}
		})
	}
}

// TestConnectLinksAreRefusedWithoutAUser has callers ask for whom the role gives no user. They are refused as when they
// read.
func TestConnectLinksAreRefusedWithoutAUser(t *testing.T) {
	t.Parallel()
	c, p := onLinks(t)
	root := &person{Client: c.vault.root, m: c.mount, name: "root"}
	other := c.peopleAt(t, slug(t.Name())+"-2", c.rules("github"), c.linkRules("github")).login(t, "alice")
	renamed, unaliased := p.login(t, "renamed"), p.login(t, "unaliased")

	for who, words := range map[*person][]string{root: {"no identity entity"}, other: {"lacks what its external_user_id asks for"}} {
		who.isRefused(t, http.StatusBadRequest, words...)
		who.getsNoLink(t, http.StatusBadRequest, words...)
	}
	noToken := &person{Client: c.vault.client(""), m: c.mount, name: "nobody"}
	noToken.getsNoLink(t, http.StatusForbidden)

	// From now on the renamed person is another user.
	c.identity(t, "entity-alias/id/"+renamed.alias(t), map[string]any{"name": "alicia", "canonical_id": renamed.entity, "mount_accessor": p.accessor})
	assert.Equal(t, "alicia", renamed.link(t, nil).Data["external_user_id"])

	_, err := c.vault.root.Logical().Delete("identity/entity-alias/id/" + unaliased.alias(t))
	require.NoError(t, err)
	unaliased.isRefused(t, http.StatusBadRequest, "lacks what its external_user_id asks for")
	unaliased.getsNoLink(t, http.StatusBadRequest, "lacks what its external_user_id asks for")

	// A merge can leave two aliases of one mount. The engine cannot tell which of them logged in.
	one, two := p.login(t, "one"), p.login(t, "two")
	both := asType[string](t, c.identity(t, "entity", map[string]any{"name": slug(t.Name())}).Data["id"])
	c.cleanUp(t, func() error { _, err := c.vault.root.Logical().Delete("identity/entity/id/" + both); return err })
	c.identity(t, "entity/merge", map[string]any{"to_entity_id": both, "from_entity_ids": []string{one.entity, two.entity}})
	for _, name := range []string{"one", "two"} {
		again := p.login(t, name)
		require.Equal(t, both, again.entity)
		again.isRefused(t, http.StatusBadRequest, "more than one alias")
		again.getsNoLink(t, http.StatusBadRequest, "more than one alias")
	}
	requests := c.tokenRequests()
	require.Len(t, requests, 1)
	assert.Contains(t, requests[0], `"external_user_id":"alicia"`)
}

// TestConnectLinksOfManyAtATime has many users request a link, connect and read at the same time.
func TestConnectLinksOfManyAtATime(t *testing.T) {
	t.Parallel()
	const users = 20
	c, p := onLinks(t)
	everybody := make([]*person, users)
	for i := range everybody {
		everybody[i] = p.login(t, fmt.Sprintf("user-%02d", i))
	}
	var all sync.WaitGroup
	for _, who := range everybody {
		for range 3 {
			all.Go(func() {
				secret, err := who.Logical().Write(c.in("connect/github"), map[string]any{"new": true})
				if assert.NoError(t, err) {
					assert.Equal(t, who.name, secret.Data["external_user_id"])
				}
			})
		}
		all.Go(func() {
			secret, err := who.Logical().Write(c.in("connect/github"), nil)
			if err != nil {
				t.Errorf("%s did not get a link: %v", who.name, err)
				return
			}
			link, _ := secret.Data["connect_link_url"].(string)
			id, err := c.sim.Click(link)
			if err != nil {
				t.Errorf("%s cannot connect: %v", who.name, err)
				return
			}
			assert.NoError(t, poll(readyTimeout, "the account of "+who.name, func() (bool, error) {
				read, err := who.Logical().Read(c.in("creds/github"))
				if err == nil {
					assert.Equal(t, id, read.Data["pipedream_account_id"])
					assert.Equal(t, c.sim.Token(id), read.Data["oauth_access_token"])
				}
				return err == nil, nil
			}))
		})
	}
	all.Wait()
}

// TestConnectLinkLeavesNoTrace searches everything except the answer itself for a link.
func TestConnectLinkLeavesNoTrace(t *testing.T) {
	t.Parallel()
	m := enable(t, newVault(t), "pipedream")
	c := m.connect(t)
	p := c.people(t, c.rules("github"), c.linkRules("github"))
	c.write(t, "roles/github", map[string]any{"app": "github", "external_user_id": p.name(), "allowed_redirect_hosts": "127.0.0.1"})
	carol := p.login(t, "carol")
	const back = "http://127.0.0.1:1/back_to_the_page_of_carol"
	var tokens []string
	for range 3 {
		u, err := url.Parse(asType[string](t, carol.link(t, map[string]any{"success_redirect_uri": back}).Data["connect_link_url"]))
		require.NoError(t, err)
		tokens = append(tokens, u.Query().Get("token"))
	}
	for _, token := range tokens {
		require.True(t, strings.HasPrefix(token, "ctok_"))
		require.True(t, slices.Contains(c.sim.Secrets(), token), "the simulator counts it among the secrets")
	}
	answer := c.audited(t, "connect/github").Response.Data
	hashed := []string{"connect_link_url", "external_user_id", "app", "expires_at"}
	if onOpenBao {
		hashed = hashed[:3] // it does not hash times
	}
	for _, field := range hashed {
		assert.Contains(t, answer[field], "hmac-sha256:", field)
	}
	said := textOf(c.read(t, "status")) + textOf(c.read(t, "config")) + textOf(c.read(t, "roles/github"))
	places := map[string]string{"what was said": said, "the snapshot": unpack(t, readFile(t, c.vault.snapshot(t)))}
	require.NoError(t, c.vault.process.stop())
	for path, text := range filesBelow(t, c.vault.dir) {
		places[path] = text
	}
	require.Greater(t, len(places), 5)
	for where, text := range places {
		for _, token := range tokens {
			for encoding, form := range formsOf(token) {
				if strings.Contains(text, form) {
					t.Errorf("%s holds a link's token (%s)", where, encoding)
				}
			}
		}
		lacks(t, where, text, back)
	}
}

// TestConnectLinkErrorsAsAClientSeesThem tries everything that can go wrong with a link, and shows that readers are not
// affected.
func TestConnectLinkErrorsAsAClientSeesThem(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault pipedreamtest.Fault
		code  int
		words []string
	}{
		"Pipedream is down":  {pipedreamtest.Fault{Status: http.StatusServiceUnavailable, Body: upstreamBody}, http.StatusBadGateway, []string{"Connect link", "Pipedream is not available", "503"}},
		"the limit of links": {pipedreamtest.Fault{Status: http.StatusTooManyRequests, Body: upstreamBody, Header: http.Header{"Retry-After": {"40"}}}, http.StatusTooManyRequests, []string{"Connect links", "try again in 40 s"}},
		"the scope":          {pipedreamtest.Fault{Status: http.StatusForbidden, Body: upstreamBody}, http.StatusBadRequest, []string{"connect:tokens:create", "in Pipedream's settings"}},
		"no such project":    {pipedreamtest.Fault{Status: http.StatusNotFound, Body: upstreamBody}, http.StatusBadRequest, []string{"does not know project " + projectID, "project_id"}},
		"rejected":           {pipedreamtest.Fault{Status: http.StatusBadRequest, Body: upstreamBody}, http.StatusBadRequest, []string{"connect_token_scope"}},
		"garbage":            {pipedreamtest.Fault{Garbage: true}, http.StatusBadGateway, []string{"Pipedream"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, p := onLinks(t)
			c.write(t, "config", map[string]any{"max_retries": 0})
			c.sim.SetAccount(connectedWith("apn_alice", "alice", func(a *pipedreamtest.Account) { a.OAuthAppID = ourClient }))
			alice, carol := p.login(t, "alice"), p.login(t, "carol")
			left := number(t, c.read(t, "status").Data["budget_left"])
			test.fault.Kind = pipedreamtest.KindConnectToken
			remove := c.sim.AddFault(test.fault)
			_, err := carol.Logical().Write(c.in("connect/github"), nil)
			refused(t, err, test.code, test.words...)
			c.keepsQuiet(t, err)
			status := c.read(t, "status").Data
			assert.GreaterOrEqual(t, number(t, status["budget_left"]), left-2, "the link asks which accounts there are")
			assert.NotContains(t, status, "held_off_until")
			assert.Equal(t, 0, number(t, status["held_off_accounts"]))
			alice.reads(t, "apn_alice")
			remove()
			alice.link(t, map[string]any{"new": true})
		})
	}
}

// TestConnectLinksAreLimited has one caller ask for more links than one caller may get.
func TestConnectLinksAreLimited(t *testing.T) {
	t.Parallel()
	c, p := onLinks(t)
	carol, dave := p.login(t, "carol"), p.login(t, "dave")
	var err error
	require.NoError(t, poll(readyTimeout, "a refusal", func() (bool, error) {
		_, err = carol.Logical().Write(c.in("connect/github"), nil)
		return err != nil, nil
	}))
	refused(t, err, http.StatusTooManyRequests, "10 Connect links", "try again in")
	dave.link(t, nil)
	refused(t, carol.errorOf(t, "creds/github"), http.StatusBadRequest, "no healthy account")
	status := c.read(t, "status").Data
	assert.NotContains(t, status, "held_off_until")
}
