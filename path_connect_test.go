package pipedream

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// linkBubble is like connectBubble, with a role for each user's own GitHub account on a
// custom OAuth client.
func linkBubble(t *testing.T, f func(*testing.T, *mount), opts ...pipedreamtest.Option) {
	t.Helper()
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{
			"app": "github", "external_user_id": eachUsersGithub["external_user_id"], "oauth_app_id": "oa_ours", "allowed_redirect_hosts": "app.example.com",
		})
		f(t, m)
	}, opts...)
}

// linkAs asks for a link as the entity with that alias. An empty alias means a caller
// without an entity.
func (m *mount) linkAs(alias string, data map[string]any) (*logical.Response, error) {
	m.Helper()
	if data == nil {
		data = map[string]any{}
	}
	req := &logical.Request{Operation: logical.UpdateOperation, Path: "connect/github", Data: data, Storage: m.storage, MountPoint: "pipedream/"}
	if alias != "" {
		req.EntityID = "entity-" + alias
		m.system.knows(&logical.Entity{ID: req.EntityID, Aliases: []*logical.Alias{{MountAccessor: accessor, Name: alias}}})
	}
	return m.b.HandleRequest(m.Context(), req)
}

// link asks for a link as that user, which must succeed, and returns its URL.
func (m *mount) link(alias string, data map[string]any) string {
	m.Helper()
	resp, err := m.linkAs(alias, data)
	require.NoError(m, err)
	return resp.Data["connect_link_url"].(string)
}

// tokenRequests returns the bodies of the requests for Connect tokens.
func (m *mount) tokenRequests() (bodies []map[string]any) {
	m.Helper()
	for _, r := range m.sim.Requests() {
		if r.Kind == pipedreamtest.KindConnectToken {
			var body map[string]any
			require.NoError(m, json.Unmarshal([]byte(r.Body), &body))
			bodies = append(bodies, body)
		}
	}
	return bodies
}

func (m *mount) get(path, field string) any {
	m.Helper()
	resp, err := m.read(path)
	require.NoError(m, err)
	return resp.Data[field]
}

func TestAUserConnectsAnAccount(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		_, err := m.as("carol")
		m.refused(err, http.StatusBadRequest, `external user "carol" has no healthy account with app "github"`, "vault write -force pipedream/connect/github")

		resp, err := m.linkAs("carol", nil)
		require.NoError(t, err)
		require.Nil(t, resp.Secret, "there is no lease")
		link := resp.Data["connect_link_url"].(string)
		delete(resp.Data, "connect_link_url")
		require.Equal(t, map[string]any{
			"expires_at": time.Now().Add(15 * time.Minute).UTC().Format(time.RFC3339), "app": "github", "external_user_id": "carol", "link_id": resp.Data["link_id"],
		}, resp.Data)
		u, err := url.Parse(link)
		require.NoError(t, err)
		require.Equal(t, []string{"github"}, u.Query()["app"])
		require.Equal(t, []string{"oa_ours"}, u.Query()["oauthAppId"])

		id, err := m.sim.Click(link)
		require.NoError(t, err)
		resp, err = m.as("carol")
		require.NoError(t, err, "at the first read after the click")
		require.Equal(t, id, resp.Data["pipedream_account_id"])
		require.Equal(t, m.sim.Token(id), resp.Data["oauth_access_token"])
	})
}

// Whoever holds a link can change its query, but not what it connects.
func TestALinkConnectsNothingElse(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		for name, change := range map[string]func(url.Values){
			"another app":                      func(q url.Values) { q.Set("app", "slack") },
			"another OAuth client":             func(q url.Values) { q.Set("oauthAppId", "oa_somebody_elses") },
			"another app and its OAuth client": func(q url.Values) { q.Set("app", "slack"); q.Set("oauthAppId", "oa_somebody_elses") },
		} {
			u, err := url.Parse(m.link("carol", nil))
			require.NoError(t, err)
			query := u.Query()
			change(query)
			u.RawQuery = query.Encode()
			_, err = m.sim.Click(u.String())
			require.Error(t, err, name)
		}
		u, err := url.Parse(m.link("carol", nil))
		require.NoError(t, err)
		query := u.Query()
		query.Del("app")
		query.Del("oauthAppId")
		u.RawQuery = query.Encode()
		id, err := m.sim.Click(u.String())
		require.NoError(t, err)
		resp, err := m.as("carol")
		require.NoError(t, err, "the link is for the role's app and client, whatever its query lacks")
		require.Equal(t, id, resp.Data["pipedream_account_id"])
	})
}

// Each token has the scopes that it needs and no others.
func TestScopesOfLinks(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		_, err := m.as("alice")
		require.Error(t, err, "hers is on another OAuth client")
		m.link("alice", nil)
		var scopes []string
		for _, r := range m.sim.Requests() {
			if r.Kind == pipedreamtest.KindToken {
				var body map[string]string
				require.NoError(t, json.Unmarshal([]byte(r.Body), &body))
				scopes = append(scopes, body["scope"])
			}
		}
		require.Equal(t, []string{"connect:accounts:read", "connect:tokens:create"}, scopes)
		require.Equal(t, []map[string]any{{
			"external_user_id": "alice", "app_id": "github", "oauth_app_id": "oa_ours", "expires_in": float64(900), "scope": "connect:accounts:write connect:apps:*",
		}}, m.tokenRequests())

		_, err = m.write("config", map[string]any{"connect_token_scope": "connect:accounts:write  connect:apps:*"})
		require.NoError(t, err)
		m.link("alice", nil)
		require.Equal(t, "connect:accounts:write connect:apps:*", m.tokenRequests()[1]["scope"])
		for _, scope := range []string{"*", "connect:*", "", " ", "connect:accounts:read connect:*", "connect:accounts:read *", "accounts", "connect:", "connect:*:*", "Connect:accounts:read", strings.Repeat("connect:a ", 100)} {
			_, err := m.write("config", map[string]any{"connect_token_scope": scope})
			m.refused(err, http.StatusBadRequest, "connect_token_scope")
		}
		require.Equal(t, "connect:accounts:write connect:apps:*", m.get("config", "connect_token_scope"))
	})
}

func TestLifeOfALink(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		for _, life := range []any{"59s", 0, -60, "4h1s", "soon"} {
			_, err := m.linkAs("carol", map[string]any{"expires_in": life})
			m.refused(err, http.StatusBadRequest, "expires_in")
		}
		require.Empty(t, m.tokenRequests())
		for life, want := range map[any]time.Duration{"1m": time.Minute, 14400: 4 * time.Hour} {
			resp, err := m.linkAs("carol", map[string]any{"expires_in": life})
			require.NoError(t, err)
			require.Equal(t, time.Now().Add(want).UTC().Format(time.RFC3339), resp.Data["expires_at"])
		}
	})
}

func TestRedirectsOfALink(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{"allowed_redirect_hosts": "app.example.com,dev.example.com:8443,127.0.0.1,[::1]:3000"})
		for _, uri := range []string{
			"https://app.example.com", "https://app.example.com/done?a=b#c", "https://APP.example.com/", "https://app.example.com:443/",
			"https://dev.example.com:8443/", "http://127.0.0.1/", "http://127.0.0.1:54321/back", "http://[::1]:3000/",
		} {
			m.sim.ResetRequests()
			for _, field := range []string{"success_redirect_uri", "error_redirect_uri"} {
				m.link("carol", map[string]any{field: uri})
			}
			sent := m.tokenRequests()
			require.Equal(t, sent[0]["success_redirect_uri"], sent[1]["error_redirect_uri"])
			require.Equal(t, strings.ToLower(uri), strings.ToLower(sent[0]["success_redirect_uri"].(string)))
			require.NotContains(t, sent[0], "error_redirect_uri")
			time.Sleep(time.Minute) // for the quota of the next two
		}
		m.sim.ResetRequests()
		for _, uri := range []string{
			"https://example.com", "https://evil.example", "https://app.example.com.evil.example", "https://app.example.com.", "https://evil-app.example.com",
			"https://app.example.com:8443/", "https://dev.example.com/", "http://app.example.com/", "ftp://app.example.com/", "javascript:alert(1)//app.example.com",
			"//app.example.com/", "app.example.com", "https:app.example.com", "https:///app.example.com", "https://app.example.com@evil.example/",
			"https://carol:pw@app.example.com/", "https://evil.example\\@app.example.com", "https://app.example.com\\.evil.example/", "https://evil.example#app.example.com",
			"https://evil.example?app.example.com", "https://app.example.com\t.evil.example", " https://app.example.com", "https://app.example.com\n",
			"https://%61pp.example.com/", "https://app.example.com%2eevil.example/", "https://ａpp.example.com/", "http://localhost/", "http://127.0.0.2/", "http://[::1]/",
			"https://app.example.com:", "https://app.example.com:443x/", "https://app.example.com/" + strings.Repeat("a", 2048), "data:text/html,x", "https://", "*",
		} {
			for _, field := range []string{"success_redirect_uri", "error_redirect_uri"} {
				_, err := m.linkAs("carol", map[string]any{field: uri})
				m.refused(err, http.StatusBadRequest, field)
			}
		}
		for _, hosts := range []string{
			"*", "*.example.com", "https://app.example.com", "app.example.com/", "App.example.com", "app.example.com:", "app..com", "-a.com", "user@a.com", "a b",
			"app.example.com:0", "app.example.com:65536", "app.example.com:99999", "localhost:00080", "localhost:0443", "[:::::]", "[::1", "[1::2::3]",
			strings.Repeat("a.example,", 21),
		} {
			_, err := m.write("roles/github", map[string]any{"allowed_redirect_hosts": hosts})
			m.refused(err, http.StatusBadRequest, "allowed_redirect_hosts")
		}
		require.Len(t, m.get("roles/github", "allowed_redirect_hosts"), 4)
		_, err := m.write("roles/billing", map[string]any{"account_id": stripe, "allowed_redirect_hosts": "app.example.com"})
		m.refused(err, http.StatusBadRequest, "allowed_redirect_hosts goes with app")
		// A default port is the same host, whether the role or the URI names it.
		for _, hosts := range []string{"app.example.com:443,localhost:80", "app.example.com,localhost"} {
			m.role("github", map[string]any{"allowed_redirect_hosts": hosts})
			for _, uri := range []string{"https://app.example.com/x", "https://app.example.com:443/x", "http://localhost/x", "http://localhost:80/x"} {
				m.link("carol", map[string]any{"success_redirect_uri": uri})
			}
			_, err := m.linkAs("carol", map[string]any{"success_redirect_uri": "https://app.example.com:80/x"})
			m.refused(err, http.StatusBadRequest, "allowed_redirect_hosts")
			time.Sleep(time.Minute)
		}
		m.role("github", map[string]any{"allowed_redirect_hosts": "localhost:80"})
		_, err = m.linkAs("carol", map[string]any{"success_redirect_uri": "https://localhost/x"})
		m.refused(err, http.StatusBadRequest, "allowed_redirect_hosts")
		m.role("github", map[string]any{"allowed_redirect_hosts": "[::1]"})
		m.link("carol", map[string]any{"success_redirect_uri": "http://[::1]:54321/back"})
		m.sim.ResetRequests()
		m.role("github", map[string]any{"allowed_redirect_hosts": ""})
		_, err = m.linkAs("carol", map[string]any{"success_redirect_uri": "https://app.example.com"})
		m.refused(err, http.StatusBadRequest, "allowed_redirect_hosts")
		require.Empty(t, m.tokenRequests())
	})
}

// A caller who may not read gets no link either, with the same error.
func TestCallersWhoGetNoLink(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		m.role("one", map[string]any{"account_id": "apn_alice"})
		m.role("meta", map[string]any{"app": "github", "external_user_id": "{{identity.entity.metadata.user}}"})
		entities := map[string]*logical.Entity{
			"none":         nil,
			"no alias":     {ID: "e"},
			"another's":    {ID: "e", Aliases: []*logical.Alias{{MountAccessor: "auth_other_1", Name: "alice"}}},
			"an empty one": {ID: "e", Aliases: []*logical.Alias{{MountAccessor: accessor, Name: ""}}, Metadata: map[string]string{"user": ""}},
			"two":          {ID: "e", Aliases: []*logical.Alias{{MountAccessor: accessor, Name: "alice"}, {MountAccessor: accessor, Name: "bob"}}},
			"too long":     {ID: "e", Aliases: []*logical.Alias{{MountAccessor: accessor, Name: strings.Repeat("a", 251)}}},
			"no text":      {ID: "e", Aliases: []*logical.Alias{{MountAccessor: accessor, Name: "ali\xffce"}}, Metadata: map[string]string{"user": "b\xff"}},
		}
		for name, entity := range entities {
			for _, role := range []string{"github", "meta"} {
				req := logical.Request{Operation: logical.ReadOperation, Path: "creds/" + role, Storage: m.storage, MountPoint: "pipedream/"}
				if entity != nil {
					m.system.knows(entity)
					req.EntityID = entity.ID
				}
				read := req
				_, readErr := m.b.HandleRequest(t.Context(), &read)
				req.Operation, req.Path, req.Data = logical.UpdateOperation, "connect/"+role, map[string]any{}
				_, err := m.b.HandleRequest(t.Context(), &req)
				m.refused(err, http.StatusBadRequest)
				require.Equal(t, readErr, err, "%s, %s", name, role)
			}
		}
		for path, texts := range map[string][]string{
			"connect/nobody":    {`there is no role "nobody"`, "vault list pipedream/roles"},
			"connect/apn_alice": {"roles with app and external_user_id"},
			"connect/one":       {`role "one" is for one account`},
			"connect/a/b":       {`there is no role "a"`},
			"connect/-x":        {"a role's name must be"},
		} {
			_, err := m.write(path, nil)
			m.refused(err, http.StatusBadRequest, texts...)
		}
		require.Empty(t, m.sim.Requests())

		_, err := m.write("config", map[string]any{"project_id": "", "scope": "*"})
		require.NoError(t, err)
		m.sim.ResetRequests()
		_, err = m.linkAs("carol", nil)
		m.refused(err, http.StatusBadRequest, "set project_id in config")
		require.Empty(t, m.sim.Requests())
	})
}

// No field that a caller can send changes whose link it is, or for which app. What the
// path does not know is refused, so that nothing else happens than was meant.
func TestParametersCannotNameAnotherUser(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		m.role("bobs", map[string]any{"app": "github", "external_user_id": "bob"})
		for _, data := range []map[string]any{
			{"external_user_id": "bob"},
			{"role": "bobs"},
			{"entity_id": "entity-bob"},
			{"app": "slack"},
			{"app_id": "slack"},
			{"scope": "connect:*"},
			{"project_id": "proj_other"},
			{"environment": "development"},
			{"oauth_app_id": "oa_other"},
			{"webhook_uri": "https://evil.example"},
			{"allowed_origins": []string{"https://evil.example"}},
			{"allowed_redirect_hosts": "evil.example"},
			{"user": map[string]any{"id": "bob"}},
			{"expires_in": "5m", "reconect": "true"},
			{"name": "bobs"},
		} {
			_, err := m.linkAs("carol", data)
			m.refused(err, http.StatusBadRequest, "nothing was done, because a write of this path has no parameters named")
		}
		require.Empty(t, m.sim.Requests())
	})
}

// Each of many users at the same time gets their own link and account.
func TestManyUsersAskForLinksAtOnce(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{"external_user_id": "{{identity.entity.id}}"})
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				user := fmt.Sprint("user-", i)
				m.system.knows(&logical.Entity{ID: user})
				resp, err := m.b.HandleRequest(t.Context(), &logical.Request{
					Operation: logical.UpdateOperation, Path: "connect/github", EntityID: user, Data: map[string]any{}, Storage: m.storage,
				})
				if err != nil {
					t.Errorf("%s got nothing: %v", user, err)
					return
				}
				id, err := m.sim.Click(resp.Data["connect_link_url"].(string))
				if err != nil {
					t.Errorf("%s: %v", user, err)
					return
				}
				read, err := m.b.HandleRequest(t.Context(), &logical.Request{
					Operation: logical.ReadOperation, Path: "creds/github", EntityID: user, Storage: m.storage,
				})
				if err != nil || read.Data["pipedream_account_id"] != id || resp.Data["external_user_id"] != user {
					t.Errorf("%s reads what is not theirs, or nothing: %v", user, err)
				}
			})
		}
		all.Wait()
	})
}

// While a link is open, reads by its user look for the account every 3 seconds at most
// for 2 minutes, and then every 15, however often they find nothing. Other users do not.
func TestAReadFindsTheAccountSoonAfterTheClick(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		for range 10 { // a hold-off of minutes
			_, err := m.as("carol")
			require.Error(t, err)
			time.Sleep(5 * time.Minute)
		}
		_, err := m.as("carol")
		require.Error(t, err)
		m.link("carol", nil)
		m.sim.ResetRequests()
		polls := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				_, err := m.as("carol")
				require.Error(t, err)
			}
		}
		polls(10 * time.Minute)
		looks := m.sim.Count(pipedreamtest.KindList)
		require.InDelta(t, 2*60/3+8*60/15, looks, 3)

		link := m.link("carol", nil)
		id, err := m.sim.Click(link)
		require.NoError(t, err)
		clicked := time.Now()
		for {
			resp, err := m.as("carol")
			if err == nil {
				require.Equal(t, id, resp.Data["pipedream_account_id"])
				break
			}
			require.Less(t, time.Since(clicked), 5*time.Second)
			time.Sleep(100 * time.Millisecond)
		}

		// Once a link has ended, the hold-off is as usual.
		m.link("dave", map[string]any{"expires_in": "1m"})
		time.Sleep(time.Minute)
		m.sim.ResetRequests()
		for range 600 {
			_, err := m.as("dave")
			require.Error(t, err)
			time.Sleep(time.Second)
		}
		require.Less(t, m.sim.Count(pipedreamtest.KindList), 12)
	})
}

// A user with a dead account connects it again, under another id or the same one.
func TestADeadAccountIsConnectedAgain(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{"oauth_app_id": ""})
		_, err := m.as("alice")
		require.NoError(t, err)
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Dead = true })
		time.Sleep(2 * time.Hour)
		for range 10 {
			_, err = m.as("alice")
			m.refused(err, http.StatusBadRequest, "pipedream/connect/github")
			time.Sleep(time.Minute)
		}
		link := m.link("alice", nil)
		id, err := m.sim.Click(link + "&oauthAppId=oa_ours")
		require.NoError(t, err)
		resp, err := m.as("alice")
		require.NoError(t, err)
		require.Equal(t, id, resp.Data["pipedream_account_id"])

		m.sim.Update(id, func(a *pipedreamtest.Account) { a.Dead = true })
		time.Sleep(2 * time.Hour)
		for range 10 {
			_, err = m.as("alice")
			require.Error(t, err)
			time.Sleep(time.Minute)
		}
		m.link("alice", nil)
		m.sim.Update(id, func(a *pipedreamtest.Account) { a.Dead = false })
		resp, err = m.as("alice")
		require.NoError(t, err)
		require.Equal(t, id, resp.Data["pipedream_account_id"])
	})
}

// A caller who asks for too many links is limited. Others are not.
func TestLinksAreLimitedPerCaller(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		budget := m.get("status", "budget_left")
		for range 10 {
			m.link("carol", nil)
		}
		_, err := m.linkAs("carol", nil)
		m.refused(err, http.StatusTooManyRequests, "10 Connect links", "try again in 60 s")
		m.link("dave", nil)
		time.Sleep(30 * time.Second)
		_, err = m.linkAs("carol", nil)
		m.refused(err, http.StatusTooManyRequests, "try again in 30 s")
		_, err = m.write("config", map[string]any{"static_ttl": "2h"})
		require.NoError(t, err)
		_, err = m.linkAs("carol", nil)
		m.refused(err, http.StatusTooManyRequests, "try again in 30 s")
		require.InDelta(t, budget, m.get("status", "budget_left"), 12, "a link costs no more of the accounts' budget than a list of the user's accounts")
		require.Len(t, m.tokenRequests(), 11)
		time.Sleep(30 * time.Second)
		m.link("carol", nil)
	})
}

// All callers together stay below what Pipedream allows for one external user.
func TestLinksOfOneUserByManyCallers(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		m.role("team", map[string]any{"app": "github", "external_user_id": "team"})
		made, refused := 0, 0
		for i := range 150 {
			_, err := m.b.HandleRequest(t.Context(), &logical.Request{
				Operation: logical.UpdateOperation, Path: "connect/team", ClientTokenAccessor: strconv.Itoa(i), Data: map[string]any{}, Storage: m.storage,
			})
			if err != nil {
				m.refused(err, http.StatusTooManyRequests, "limit of Connect links for this minute", "try again in")
				refused++
				continue
			}
			made++
		}
		require.InDelta(t, maxLinkRequests, made, 5)
		require.Equal(t, 150-made, refused)
		_, err := m.read("creds/apn_alice")
		require.NoError(t, err)
	})
}

func TestFaultsOfLinks(t *testing.T) {
	tests := map[string]struct {
		fault pipedreamtest.Fault
		code  int
		texts []string
	}{
		"down":               {pipedreamtest.Fault{Status: 503}, http.StatusBadGateway, []string{"no Connect link could be made", "Pipedream is not available", "503"}},
		"hanging":            {pipedreamtest.Fault{Hang: true}, http.StatusBadGateway, []string{"no Connect link could be made", "in time"}},
		"cut":                {pipedreamtest.Fault{Cut: true}, http.StatusBadGateway, []string{"no Connect link could be made"}},
		"its own limit":      {pipedreamtest.Fault{Status: 429, Header: http.Header{"Retry-After": {"50"}}}, http.StatusTooManyRequests, []string{"links for this external user", "try again in 50 s"}},
		"the scope":          {pipedreamtest.Fault{Status: 403}, http.StatusBadRequest, []string{"connect:tokens:create", "in Pipedream's settings", "proj_demo1"}},
		"an unknown project": {pipedreamtest.Fault{Status: 404}, http.StatusBadRequest, []string{"does not know project proj_demo1", "project_id"}},
		"rejected":           {pipedreamtest.Fault{Status: 400}, http.StatusBadRequest, []string{"connect_token_scope", "pipedream/config"}},
		"payment":            {pipedreamtest.Fault{Status: 402}, http.StatusBadRequest, []string{"payment"}},
		"refused":            {pipedreamtest.Fault{Status: 401}, http.StatusBadRequest, []string{"OAuth client", "connect:tokens:create", "pipedream/config"}},
		"a redirect":         {pipedreamtest.Fault{Redirect: "https://evil.example"}, http.StatusBadGateway, []string{"redirect"}},
		"a page":             {pipedreamtest.Fault{Garbage: true}, http.StatusBadGateway, []string{"could not be understood"}},
		"no link":            {pipedreamtest.Fault{Status: 200, Body: `{"token":"ctok_1"}`}, http.StatusBadGateway, []string{"connect_link_url"}},
		"a script":           {pipedreamtest.Fault{Status: 200, Body: `{"connect_link_url":"javascript:alert(1)"}`}, http.StatusBadGateway, []string{"connect_link_url"}},
		"a link in clear":    {pipedreamtest.Fault{Status: 200, Body: `{"connect_link_url":"http://evil.example/?token=ctok_1"}`}, http.StatusBadGateway, []string{"connect_link_url"}},
		"a control":          {pipedreamtest.Fault{Status: 200, Body: `{"connect_link_url":"https://a.example/\u001b[31m"}`}, http.StatusBadGateway, []string{"connect_link_url"}},
		"a long one":         {pipedreamtest.Fault{Status: 200, Body: `{"connect_link_url":"https://a.example/` + strings.Repeat("a", 5000) + `"}`}, http.StatusBadGateway, []string{"connect_link_url"}},
	}
	for name, test := range tests {
		for _, kind := range []pipedreamtest.Kind{pipedreamtest.KindConnectToken, pipedreamtest.KindToken} {
			if kind == pipedreamtest.KindToken && test.fault.Body != "" {
				continue
			}
			t.Run(fmt.Sprintf("%s at %s", name, kind), func(t *testing.T) {
				linkBubble(t, func(t *testing.T, m *mount) {
					m.creds("apn_bob") // fetches the access token that reads accounts
					test.fault.Kind = kind
					remove := m.sim.AddFault(test.fault)
					resp, err := m.linkAs("carol", nil)
					require.Nil(t, resp)
					code, texts := test.code, test.texts
					if kind == pipedreamtest.KindToken { // any refusal there is about the client, or from a gateway
						texts = nil
						switch test.fault.Status {
						case 400, 403:
							texts = []string{"OAuth client", "connect:tokens:create"}
						case 402, 404:
							code = http.StatusBadGateway
						}
					}
					m.refused(err, code, texts...)

					synctest.Wait() // the request ends at the same moment as the caller's time
					// Readers are not affected.
					m.creds("apn_alice")
					require.NotContains(t, m.mustRead("status"), "held_off_until")
					require.Equal(t, 0, m.get("status", "held_off_accounts"))
					require.Contains(t, m.get("status", "last_error"), "Connect link")
					remove()
					if code == http.StatusTooManyRequests {
						_, err = m.linkAs("carol", nil)
						m.refused(err, http.StatusTooManyRequests, "try again in 50 s")
						m.link("dave", nil)
						time.Sleep(time.Minute)
					}
					m.link("carol", nil)
				})
			})
		}
	}
}

func (m *mount) mustRead(path string) map[string]any {
	m.Helper()
	resp, err := m.read(path)
	require.NoError(m, err)
	return resp.Data
}

// The simulator enforces Pipedream's own limit.
func TestTheLimitOfOneUserDoesNotAffectOthers(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		m.link("carol", nil)
		m.link("carol", nil)
		_, err := m.linkAs("carol", nil)
		m.refused(err, http.StatusTooManyRequests, "for this external user at the moment", "try again in")
		requests := m.sim.Count(pipedreamtest.KindConnectToken)
		_, err = m.linkAs("carol", nil)
		m.refused(err, http.StatusTooManyRequests, "for this external user at the moment", "try again in")
		require.Equal(t, requests, m.sim.Count(pipedreamtest.KindConnectToken))
		m.link("dave", nil)
		m.creds("apn_alice")
		time.Sleep(time.Minute)
		m.link("carol", nil)
	}, pipedreamtest.WithTokenLimit(2))
}

// Their retries do not have to wait for it either.
func TestTheLimitOfOneUserDelaysNoRetryOfOthers(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{
			Kind: pipedreamtest.KindConnectToken, Status: 429, Header: http.Header{"Retry-After": {"19"}, "X-RateLimit-Reset": {"0"}}, Times: 1,
		})
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindConnectToken, Status: 503, Times: 1})
		m.role("daves", map[string]any{"app": "github", "external_user_id": "dave"})
		var carol sync.WaitGroup
		carol.Go(func() { _, _ = m.linkAs("carol", nil) })
		time.Sleep(time.Second)
		began := time.Now()
		_, err := m.write("connect/daves", nil)
		require.NoError(t, err)
		require.Less(t, time.Since(began), 5*time.Second)
		carol.Wait()
	})
}

// Reads by a user who is about to connect an account do not look like guesses.
func TestConnectingDoesNotLookLikeGuessing(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		m.link("carol", nil)
		for range 60 {
			_, err := m.as("carol")
			require.Error(t, err)
			time.Sleep(time.Second)
		}
		m.sim.ResetRequests()
		m.creds("apn_alice")
		time.Sleep(time.Second)
		require.Len(t, m.sim.Requests(), 1, "no list to learn what exists")
	})
}

// Links are made even while accounts are throttled or the budget for them is used up.
func TestLinksAreMadeWhileReadersAreHeldOff(t *testing.T) {
	linkBubble(t, func(_ *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: 429, Header: http.Header{"Retry-After": {"300"}}})
		_, err := m.read("creds/apn_alice")
		m.refused(err, http.StatusTooManyRequests)
		m.link("carol", nil)
	})
}

// A token that Pipedream has revoked is replaced once.
func TestARefusedTokenForLinksIsReplaced(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		m.creds("apn_alice") // fetches the access token that reads accounts
		m.sim.ResetRequests()
		m.link("carol", nil)
		m.link("carol", nil)
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindToken))
		m.sim.RevokeAccessTokens()
		m.link("carol", nil)
		require.Equal(t, 3, m.sim.Count(pipedreamtest.KindToken), "one that reads, and one that makes links")
	})
}

// A link is in its response and nowhere else. What is stored says only who waits for an
// account, and until when.
func TestALinkIsNotStored(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		links := []string{m.link("carol", nil)}
		for _, fault := range []pipedreamtest.Fault{{TruncatedJSON: true}, {CutBody: true}, {Status: 500}} {
			fault.Kind = pipedreamtest.KindConnectToken
			remove := m.sim.AddFault(fault)
			_, err := m.linkAs("carol", nil)
			m.refused(err, http.StatusBadGateway)
			remove()
			links = append(links, m.link("carol", nil))
		}
		for _, key := range m.storage.puts {
			entry, err := m.storage.below().Get(t.Context(), key)
			require.NoError(t, err)
			if key != configPath {
				m.noSecretIn(string(entry.Value))
				require.NotContains(t, string(entry.Value), "carol")
			}
		}
		secrets := m.sim.Secrets()
		for _, link := range links {
			u, err := url.Parse(link)
			require.NoError(t, err)
			require.Contains(t, secrets, u.Query().Get("token"), "the simulator counts it as a secret")
		}
		m.noSecretIn(m.logs.String())
		m.noSecretIn(fmt.Sprint(m.mustRead("status"), m.mustRead("config"), m.mustRead("roles/github")))
	})
}
