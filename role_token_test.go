package pipedream

import (
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// with returns settings with some changed. A nil value takes one out.
func with(settings, changes map[string]any) map[string]any {
	changed := map[string]any{}
	for _, fields := range []map[string]any{settings, changes} {
		for name, value := range fields {
			changed[name] = value
			if value == nil {
				delete(changed, name)
			}
		}
	}
	return changed
}

var (
	alicesToken = map[string]any{"credential_type": "connect_token", "scope": "connect:proxy", "external_user_id": "alice"}
	accessToken = map[string]any{"credential_type": "access_token", "scope": "connect:proxy"}
)

func TestRolesOfTokens(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		m.role("own", map[string]any{
			"scope": " connect:proxy  connect:accounts:read ", "token_ttl": "1h", "allowed_origins": "https://app.example.com,http://localhost:3000",
			"app": "github", "oauth_app_id": "oa_ours", "allowed_redirect_hosts": "app.example.com", "ttl": "10m", "min_ttl": "2m",
		})
		resp, err := m.read("roles/own")
		require.NoError(t, err)
		require.Equal(t, map[string]any{
			"credential_type": "connect_token", "scope": "connect:proxy connect:accounts:read", "token_ttl": int64(3600),
			"allowed_origins": []string{"https://app.example.com", "http://localhost:3000"}, "app": "github", "oauth_app_id": "oa_ours",
			"external_user_id": eachUsersGithub["external_user_id"], "account_id": "", "allowed_external_user_ids": []string{}, "fields": []string{}, "ttl": int64(600), "min_ttl": int64(120),
			"allowed_redirect_hosts": []string{"app.example.com"},
			"oauth_scope_profile":    "", "app_override_id": "", "required_scopes": []string{}, "enforce_scopes": false,
		}, resp.Data)
		resp, err = m.read("roles/all")
		require.NoError(t, err)
		require.Equal(t, "access_token", resp.Data["credential_type"])

		m.role("github", eachUsersGithub)
		require.Equal(t, "account", m.get("roles/github", "credential_type"))
		m.role("github", map[string]any{"credential_type": "account", "ttl": "10m"})
		require.Equal(t, "github", m.get("roles/github", "app"), "the same type keeps the other fields")
	})
}

// A role of another type takes over nothing from what it was.
func TestAChangeOfTypeKeepsNothing(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		roles := map[string]map[string]any{
			"account":       {"credential_type": "account", "app": "github", "external_user_id": "alice", "fields": "oauth_access_token", "ttl": "5m"},
			"connect_token": with(alicesToken, map[string]any{"app": "github", "token_ttl": "2h", "allowed_origins": "https://app.example.com", "min_ttl": "1m"}),
			"access_token":  with(accessToken, map[string]any{"ttl": "5m"}),
		}
		for from, before := range roles {
			for to, after := range roles {
				if from == to {
					continue
				}
				name := from + "-" + to
				m.role(name, before)
				_, err := m.write("roles/"+name, map[string]any{"credential_type": to})
				m.refused(err, http.StatusBadRequest, "give")
				require.Equal(t, from, m.get("roles/"+name, "credential_type"), "a write that is refused changes nothing")
				m.role(name, after)
				m.fresh(after)
				changed, err := m.read("roles/" + name)
				require.NoError(t, err)
				fresh, err := m.read("roles/fresh")
				require.NoError(t, err)
				require.Equal(t, fresh.Data, changed.Data, name)
			}
		}
	})
}

// fresh writes the role fresh, of which nothing was there before.
func (m *mount) fresh(settings map[string]any) {
	m.Helper()
	_, err := m.handle(logical.DeleteOperation, "roles/fresh", nil)
	require.NoError(m, err)
	m.role("fresh", settings)
}

func TestRolesOfTokensThatAreRefused(t *testing.T) {
	manyOrigins := strings.Repeat("https://a.example.com,", maxAllowedOrigins+1)
	tokenBubble(t, func(t *testing.T, m *mount) {
		for _, c := range []struct {
			base, change map[string]any
			text         string
		}{
			{alicesToken, map[string]any{"credential_type": "token"}, "credential_type must be account, connect_token or access_token"},
			{alicesToken, map[string]any{"credential_type": "Connect_Token"}, "credential_type must be"},
			{alicesToken, map[string]any{"credential_type": ""}, "credential_type must be"},
			{alicesToken, map[string]any{"credential_type": nil, "app": "github"}, "scope, token_ttl and allowed_origins are for roles that hand out tokens"},
			{eachUsersGithub, map[string]any{"token_ttl": "15m"}, "scope, token_ttl and allowed_origins are for roles that hand out tokens"},
			{eachUsersGithub, map[string]any{"allowed_origins": "https://app.example.com"}, "scope, token_ttl and allowed_origins are for roles"},
			{alicesToken, map[string]any{"scope": nil}, "give scope"},
			{alicesToken, map[string]any{"scope": " "}, "give scope"},
			{accessToken, map[string]any{"scope": ""}, "give scope"},
			{alicesToken, map[string]any{"account_id": "apn_alice"}, "account_id, fields and enforce_scopes are for roles that hand out an account's credentials"},
			{alicesToken, map[string]any{"fields": "connect_token"}, "account_id, fields and enforce_scopes are for roles"},
			{alicesToken, map[string]any{"external_user_id": nil}, "needs external_user_id"},
			{alicesToken, map[string]any{"external_user_id": " "}, "external_user_id is blank"},
			{alicesToken, map[string]any{"external_user_id": strings.Repeat("x", 251)}, "longer than 250 characters"},
			{alicesToken, map[string]any{"external_user_id": "{{identity.now}}"}, "not a valid template"},
			{alicesToken, map[string]any{"oauth_app_id": "oa_ours"}, "oauth_app_id needs app"},
			{alicesToken, map[string]any{"allowed_redirect_hosts": "app.example.com"}, "allowed_redirect_hosts needs app"},
			{alicesToken, map[string]any{"app": "app_OrkhR1"}, "app must be an app's slug"},
			{alicesToken, map[string]any{"token_ttl": "59s"}, "token_ttl must be from 1m to 4h"},
			{alicesToken, map[string]any{"token_ttl": "4h1s"}, "token_ttl must be from 1m to 4h"},
			{alicesToken, map[string]any{"token_ttl": "-15m"}, "token_ttl must be"},
			{alicesToken, map[string]any{"token_ttl": ""}, "token_ttl is empty"},
			{alicesToken, map[string]any{"ttl": "1s"}, "ttl must be at least 2s"},
			{alicesToken, map[string]any{"allowed_origins": manyOrigins}, "20 at most"},
			{accessToken, map[string]any{"external_user_id": "alice"}, "an access token is good for all users"},
			{accessToken, map[string]any{"app": "github"}, "an access token is good for all users"},
			{accessToken, map[string]any{"token_ttl": "15m"}, "Pipedream chooses its life"},
			{accessToken, map[string]any{"allowed_origins": "https://app.example.com"}, "only scope, ttl and min_ttl"},
		} {
			_, err := m.write("roles/refused", with(c.base, c.change))
			m.refused(err, http.StatusBadRequest, c.text)
		}
		for _, origin := range []string{
			"*", "https://*", "https://*.example.com", "app.example.com", "http://app.example.com", "https://app.example.com/", "https://app.example.com/x",
			"https://app.example.com:443", "http://localhost:80", "https://", "https://a@app.example.com", "https://APP.example.com", "null", "file://x", "https://a b",
			"javascript:alert(1)", "https://app.example.com?x", "https://app.example.com#x",
		} {
			_, err := m.write("roles/refused", with(alicesToken, map[string]any{"allowed_origins": origin}))
			m.refused(err, http.StatusBadRequest, "allowed_origins must be origins of web pages")
		}
		require.Nil(t, m.roleOrNil("refused"))
	})
}

func (m *mount) roleOrNil(name string) any {
	m.Helper()
	resp, err := m.read("roles/" + name)
	require.NoError(m, err)
	if resp == nil {
		return nil
	}
	return resp.Data
}

// No role gets a scope that config does not allow, nor one that opens everything.
func TestScopesBeyondConfig(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		require.Equal(t, []string{"connect:proxy"}, m.get("config", "allowed_token_scopes"))
		require.Equal(t, false, m.get("config", "allow_access_tokens"))
		m.role("own", alicesToken)
		m.value("creds/own")
		_, err := m.write("roles/all", accessToken)
		m.refused(err, http.StatusBadRequest, "this mount hands out no access tokens")

		never := []string{
			"*", "connect:*", "connect:", "connect", "CONNECT:PROXY", "Connect:proxy", "connect:proxy,", "connect:**", "connect:*:read", "*:proxy",
			"connect:proxy *", "* connect:proxy", "connect:proxy\tconnect:*", "connect:proxy\nconnect:*", "connect:proxy\u00a0connect:*", "connect:accounts:read:more",
			"openid", "workflows:read", strings.Repeat("connect:proxy ", 100) + "connect:*", "connect:рroxy", "connect:proxy\x00", "connect:" + strings.Repeat("a", 51),
		}
		m.config(map[string]any{"allow_access_tokens": true, "allowed_token_scopes": "connect:proxy,connect:accounts:*"})
		beyond := []string{
			"connect:accounts:read", "connect:accounts:write", "connect:tokens:create", "connect:users:write", "connect:proxy connect:tokens:create",
			"connect:apps:*", "connect:proxy:*", "connect:proxy connect:accounts:* connect:accounts:read",
		}
		for _, base := range []map[string]any{alicesToken, accessToken} {
			for _, scope := range never {
				_, err := m.write("roles/beyond", with(base, map[string]any{"scope": scope}))
				m.refused(err, http.StatusBadRequest, "scope must be names of scopes with spaces between them")
			}
			for _, scope := range beyond {
				_, err := m.write("roles/beyond", with(base, map[string]any{"scope": scope}))
				m.refused(err, http.StatusBadRequest, "is not in allowed_token_scopes of config")
			}
			m.role("within", with(base, map[string]any{"scope": "connect:accounts:* connect:proxy"}))
			m.value("creds/within")
			_, err = m.handle(logical.DeleteOperation, "roles/within", nil)
			require.NoError(t, err)
		}
		require.Nil(t, m.roleOrNil("beyond"))
		for _, scope := range never {
			if strings.Trim(scope, ", ") == "connect:proxy" {
				continue
			}
			_, err := m.write("config", map[string]any{"allowed_token_scopes": []string{scope}})
			m.refused(err, http.StatusBadRequest, "allowed_token_scopes must be names of scopes")
		}
	})
}

// A role that was written before config was narrowed hands out nothing more: not what it
// has cached, nor after a restart.
func TestConfigIsNarrowed(t *testing.T) {
	reads := map[string]logical.Operation{"creds/": logical.ReadOperation, "static-creds/": logical.ReadOperation, "refresh/": logical.UpdateOperation}
	roles := []string{"alices", "customers/acme:1", "all"}
	for name, narrow := range map[string]struct {
		config map[string]any
		text   string
	}{
		"another scope":    {map[string]any{"allowed_token_scopes": "connect:accounts:read"}, "the scope connect:proxy is not in allowed_token_scopes"},
		"no scope":         {map[string]any{"allowed_token_scopes": ""}, "the scope connect:proxy is not in allowed_token_scopes"},
		"no access tokens": {map[string]any{"allow_access_tokens": false}, "this mount hands out no access tokens"},
		"no project":       {map[string]any{"project_id": "", "verify": false}, "tokens are for Connect projects: set project_id in config"},
	} {
		t.Run(name, func(t *testing.T) {
			tokenBubble(t, func(t *testing.T, m *mount) {
				m.role("customers", map[string]any{"credential_type": "connect_token", "scope": "connect:proxy", "allowed_external_user_ids": "acme:*"})
				for _, role := range roles {
					m.value("static-creds/" + role)
					m.value("creds/" + role)
				}
				m.config(narrow.config)
				for _, then := range []func(){func() {}, m.start} {
					then()
					m.sim.ResetRequests()
					for _, role := range roles {
						if role != "all" && name == "no access tokens" {
							m.value("creds/" + role)
							continue
						}
						before := len(m.sim.Requests())
						for path, op := range reads {
							_, err := m.handle(op, path+role, nil)
							m.refused(err, http.StatusBadRequest, narrow.text)
						}
						written, _, _ := strings.Cut(role, "/")
						_, err := m.write("roles/"+written, map[string]any{"min_ttl": "1m"})
						m.refused(err, http.StatusBadRequest, narrow.text)
						require.Len(t, m.sim.Requests(), before, role)
					}
				}
			})
		})
	}
}

// No parameter of a read names another user, scope or life than the role does.
func TestNoReadNamesAnotherUserScopeOrLife(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		attacks := map[string][]any{
			"external_user_id": {"bob", "*", "", []string{"bob"}}, "user": {"bob"}, "scope": {"connect:*", "*", "connect:accounts:read"},
			"token_ttl": {"4h", 14400, -1}, "ttl": {"4h"}, "expires_in": {14400}, "allowed_origins": {"https://evil.example.com", "*"},
			"credential_type": {"access_token", "account"}, "app": {"slack"}, "oauth_app_id": {"oa_theirs"}, "account_id": {"apn_bob"},
			"account": {"apn_bob"}, "role": {"all"}, "project_id": {"proj_other"}, "environment": {"development"}, "min_ttl": {"5h", 0, "100000h"},
			"fields": {"oauth_access_token"}, "oauth_refresh_token": {true}, "entity_id": {"entity-bob"}, "name": {"all", "apn_bob"},
		}
		n := 0
		for name, values := range attacks {
			for _, value := range values {
				for _, op := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation} {
					for _, path := range []string{"creds/own", "static-creds/own", "refresh/own"} {
						req := &logical.Request{
							Operation: op, Path: path, Storage: m.storage, MountPoint: "pipedream/", EntityID: "entity-alice", Data: map[string]any{name: value},
						}
						if path == "refresh/own" && op == logical.ReadOperation {
							continue
						}
						_, err := m.handleAs("alice", logical.ReadOperation, "creds/own") // Vault knows alice
						require.NoError(t, err)
						resp, err := m.b.HandleRequest(t.Context(), req)
						n++
						if err != nil || path == "refresh/own" {
							continue
						}
						require.Equal(t, "alice", resp.Data["pipedream_external_user_id"], "%s with %s=%v", path, name, value)
						require.NotContains(t, resp.Data, "access_token")
					}
				}
			}
		}
		require.Greater(t, n, 150)
		for _, body := range m.tokenRequests() {
			require.Equal(t, map[string]any{"external_user_id": "alice", "expires_in": 900.0, "scope": "connect:proxy"}, body)
		}
		require.Zero(t, m.sim.Count("delete"))
		for _, alias := range []string{"", strings.Repeat("x", 251), " "} {
			_, err := m.handleAs(alias, logical.ReadOperation, "creds/own")
			require.Error(t, err, "caller %q", alias)
		}
	})
}
