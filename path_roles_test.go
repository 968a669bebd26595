package pipedream

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const accessor = "auth_userpass_4b1a"

func (m *mount) role(name string, data map[string]any) {
	m.Helper()
	_, err := m.write("roles/"+name, data)
	require.NoError(m, err)
}

// as reads creds/github as the entity with that alias. An empty alias means a caller
// without an entity.
func (m *mount) as(alias string) (*logical.Response, error) {
	m.Helper()
	return m.handleAs(alias, logical.ReadOperation, "creds/github")
}

func (m *mount) handleAs(alias string, op logical.Operation, path string) (*logical.Response, error) {
	m.Helper()
	return m.askAs(alias, op, path, nil)
}

// askAs is like handleAs, with parameters.
func (m *mount) askAs(alias string, op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	m.Helper()
	req := &logical.Request{Operation: op, Path: path, Data: data, Storage: m.storage, MountPoint: "pipedream/"}
	if alias != "" {
		req.EntityID = "entity-" + alias
		m.system.knows(&logical.Entity{
			ID: req.EntityID, Name: "entity of " + alias,
			Aliases: []*logical.Alias{{MountAccessor: "auth_other_1", Name: "somebody"}, {MountAccessor: accessor, Name: alias}},
		})
	}
	return m.b.HandleRequest(m.Context(), req)
}

var eachUsersGithub = map[string]any{"app": "github", "external_user_id": "{{identity.entity.aliases." + accessor + ".name}}"}

func TestRoleCRUD(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.role("billing", map[string]any{"account_id": stripe, "fields": "api_key,other", "ttl": "15m", "min_ttl": 60})
		resp, err := m.read("roles/billing")
		require.NoError(t, err)
		require.Equal(t, map[string]any{
			"account_id": stripe, "app": "", "oauth_app_id": "", "external_user_id": "", "allowed_external_user_ids": []string{}, "fields": []string{"api_key", "other"},
			"ttl": int64(900), "min_ttl": int64(60), "allowed_redirect_hosts": []string{},
			"oauth_scope_profile": "", "app_override_id": "", "required_scopes": []string{}, "enforce_scopes": false,
			"credential_type": "account", "scope": "", "token_ttl": int64(0), "allowed_origins": []string{},
		}, resp.Data)

		m.role("billing", map[string]any{"ttl": 0})
		resp, err = m.read("roles/billing")
		require.NoError(t, err)
		require.Equal(t, int64(0), resp.Data["ttl"])
		require.Equal(t, stripe, resp.Data["account_id"])

		m.role("billing", map[string]any{"app": "stripe", "external_user_id": "alice"})
		resp, err = m.read("roles/billing")
		require.NoError(t, err)
		require.Empty(t, resp.Data["account_id"], "one kind of role replaces the other")

		resp, err = m.handle(logical.ListOperation, "roles/", nil)
		require.NoError(t, err)
		require.Equal(t, []string{"billing"}, resp.Data["keys"])

		_, err = m.handle(logical.DeleteOperation, "roles/billing", nil)
		require.NoError(t, err)
		resp, err = m.read("roles/billing")
		require.NoError(t, err)
		require.Nil(t, resp)
		_, err = m.read("creds/billing")
		m.refused(err, http.StatusBadRequest, `no role "billing"`)
	})
}

func TestRoleValidation(t *testing.T) {
	tests := map[string]struct {
		data map[string]any
		text string
	}{
		"nothing":                {map[string]any{}, "give account_id"},
		"both kinds":             {map[string]any{"account_id": github, "app": "github", "external_user_id": "a"}, "not both"},
		"bad account":            {map[string]any{"account_id": "../config"}, "account_id"},
		"app alone":              {map[string]any{"app": "github"}, "external_user_id"},
		"user alone":             {map[string]any{"external_user_id": "alice"}, "app"},
		"bad app":                {map[string]any{"app": "git hub", "external_user_id": "alice"}, "app"},
		"app by its id":          {map[string]any{"app": "app_OrkhR1", "external_user_id": "alice"}, "app must be an app's slug, such as github, not its id"},
		"blank user":             {map[string]any{"app": "github", "external_user_id": " "}, "external_user_id is blank"},
		"blank user of tabs":     {map[string]any{"app": "github", "external_user_id": "\t\u00a0"}, "external_user_id is blank"},
		"ttl of a second":        {map[string]any{"account_id": github, "ttl": "1s"}, "ttl must be at least 2s"},
		"ttl is a word":          {map[string]any{"account_id": github, "ttl": "soon"}, "ttl"},
		"ttl below 1 s":          {map[string]any{"account_id": github, "ttl": "500ms"}, "whole seconds"},
		"ttl is empty":           {map[string]any{"account_id": github, "ttl": ""}, "ttl is empty"},
		"min_ttl below 1 s":      {map[string]any{"account_id": github, "min_ttl": "500ms"}, "whole seconds"},
		"misspelt":               {map[string]any{"acount_id": github}, "no fields named [acount_id]"},
		"field that is renamed":  {map[string]any{"account_id": github, "fields": "oauth_uid,ttl"}, "credential_ttl"},
		"field that is ours":     {map[string]any{"account_id": github, "fields": "expires_at"}, "always returned"},
		"our account's name":     {map[string]any{"account_id": github, "fields": "pipedream_app"}, "always returned"},
		"ttl below 0":            {map[string]any{"account_id": github, "ttl": -1}, "ttl"},
		"field with a break":     {map[string]any{"account_id": github, "fields": []string{"a\nb"}}, "fields"},
		"too many fields":        {map[string]any{"account_id": github, "fields": strings.Repeat("f,", 101) + "g"}, "fields"},
		"user too long":          {map[string]any{"app": "github", "external_user_id": strings.Repeat("é", 251)}, "250"},
		"template left open":     {map[string]any{"app": "github", "external_user_id": "{{identity.entity.id"}, "braces"},
		"template nested":        {map[string]any{"app": "github", "external_user_id": "{{ {{identity.entity.id}} }}"}, "braces"},
		"template of nothing":    {map[string]any{"app": "github", "external_user_id": "{{}}"}, "template"},
		"template of the time":   {map[string]any{"app": "github", "external_user_id": "{{time.now}}"}, "template"},
		"template of a list":     {map[string]any{"app": "github", "external_user_id": "{{identity.entity.groups.names}}"}, "template"},
		"template of an alias":   {map[string]any{"app": "github", "external_user_id": "{{identity.entity.aliases.auth_x}}"}, "template"},
		"template of the entity": {map[string]any{"app": "github", "external_user_id": "{{identity.entity}}"}, "template"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.role("kept", map[string]any{"account_id": stripe})
				for _, role := range []string{"fresh"} {
					_, err := m.write("roles/"+role, test.data)
					require.ErrorContains(t, err, test.text)
					resp, err := m.read("roles/" + role)
					require.NoError(t, err)
					require.Nil(t, resp)
				}
			})
		})
	}
	bubble(t, func(_ *testing.T, m *mount) {
		_, err := m.write("roles/apn_pose", map[string]any{"account_id": github})
		m.refused(err, http.StatusBadRequest, "apn_")
		_, err = m.write("roles/"+strings.Repeat("r", 129), map[string]any{"account_id": github})
		m.refused(err, http.StatusBadRequest, "name")
	})
}

// A template with the placeholder of a page in it is stored, with a warning.
func TestRoleWarnsOfWhatIsNoAccessor(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		for template, warned := range map[string]bool{
			"{{identity.entity.aliases.ACCESSOR.name}}":                 true,
			"{{ identity.entity.aliases.<mount accessor>.metadata.a }}": true,
			"{{identity.entity.aliases." + accessor + ".name}}":         false,
			"{{identity.entity.id}}":                                    false,
			"alice":                                                     false,
		} {
			resp, err := m.write("roles/github", map[string]any{"app": "github", "external_user_id": template})
			require.NoError(t, err, template)
			if !warned {
				require.Nil(t, resp, template)
				continue
			}
			require.Len(t, resp.Warnings, 1, template)
			require.Contains(t, resp.Warnings[0], "no accessor looks like that", template)
		}
	})
}

func TestRoleOfAnAccount(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.role("ci", map[string]any{"account_id": github, "fields": "oauth_access_token,absent", "ttl": "10m"})
		direct := m.creds(github)
		resp := m.creds("ci")
		require.Equal(t, map[string]any{
			"oauth_access_token":   direct.Data["oauth_access_token"],
			"expires_at":           direct.Data["expires_at"],
			"pipedream_account_id": github, "pipedream_app": "github", "pipedream_account_name": "Octo Cat",
		}, resp.Data)
		require.Equal(t, 10*time.Minute, resp.Secret.TTL)

		static, err := m.read("static-creds/ci")
		require.NoError(t, err)
		require.Equal(t, int64(600), static.Data["ttl"])
		require.NotContains(t, static.Data, "oauth_uid")

		time.Sleep(time.Minute)
		refreshed, err := m.write("refresh/ci", nil)
		require.NoError(t, err)
		require.Equal(t, false, refreshed.Data["changed"])
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount))

		m.role("wrong", map[string]any{"account_id": github, "fields": "acess_token"})
		_, err = m.read("creds/wrong")
		m.refused(err, http.StatusBadRequest, "fields", github)
	})
}

func TestRoleMinTTL(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		a := oauthAccount(github, time.Hour)
		a.OmitNextRefresh, a.RefreshBefore = true, 30*time.Minute
		m.sim.SetAccount(a)
		m.role("eager", map[string]any{"account_id": github, "min_ttl": "30m"})
		m.role("lazy", map[string]any{"account_id": github, "min_ttl": "1s"})
		first := m.token(github)
		time.Sleep(31 * time.Minute)
		require.Equal(t, first, m.token("lazy"))
		require.NotEqual(t, first, m.token("eager"))
	})
}

func TestOnlyRolesCanBeRead(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.role("ci", map[string]any{"account_id": github})
		_, err := m.write("config", map[string]any{"allow_account_ids": false})
		require.NoError(t, err)
		for _, path := range []string{"creds/", "static-creds/"} {
			_, err := m.read(path + github)
			m.refused(err, http.StatusBadRequest, "allow_account_ids")
			_, err = m.read(path + "ci")
			require.NoError(t, err)
		}
	})
}

func TestRoleChangesTakeEffect(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.role("ci", map[string]any{"account_id": github})
		m.creds("ci")
		m.role("ci", map[string]any{"account_id": stripe})
		require.Equal(t, stripe, m.creds("ci").Data["pipedream_account_id"])

		// Another node's write arrives as an invalidation.
		entry, err := logical.StorageEntryJSON("role/ci", &role{AccountID: github})
		require.NoError(t, err)
		require.NoError(t, m.storage.Put(t.Context(), entry))
		m.b.InvalidateKey(t.Context(), "role/ci")
		require.Equal(t, github, m.creds("ci").Data["pipedream_account_id"])

		used := m.storage.used()
		m.creds("ci")
		require.Equal(t, used, m.storage.used(), "a warm read through a role touches no storage")
	})
}

func TestRoleStorageFaults(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.role("ci", map[string]any{"account_id": github})
		m.start()
		m.creds(github)
		m.storage.fail(errStorage, logical.ErrReadOnly, logical.ErrReadOnly, errStorage)
		_, err := m.read("creds/ci")
		require.ErrorIs(t, err, errStorage)
		_, err = m.read("roles/ci")
		require.ErrorIs(t, err, errStorage)
		_, err = m.handle(logical.ListOperation, "roles/", nil)
		require.ErrorIs(t, err, errStorage)
		m.storage.fail(nil, logical.ErrReadOnly, logical.ErrReadOnly, nil)
		_, err = m.write("roles/ci", map[string]any{"ttl": 60})
		require.Equal(t, logical.ErrReadOnly, err)
		_, err = m.handle(logical.DeleteOperation, "roles/ci", nil)
		require.Equal(t, logical.ErrReadOnly, err)
		m.creds("ci")
	})
}

func TestOneRoleForEachUsersOwnAccount(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		for _, user := range []string{"alice", "bob", "alice"} {
			resp, err := m.as(user)
			require.NoError(t, err)
			require.Equal(t, m.sim.Token("apn_"+user), resp.Data["oauth_access_token"])
		}
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindList), "one request for each user, with the credentials in it")
		require.Zero(t, m.sim.Count(pipedreamtest.KindAccount))

		_, err := m.as("carol")
		m.refused(err, http.StatusBadRequest, `"carol"`, `"github"`, "connect")
		_, err = m.as("")
		m.refused(err, http.StatusBadRequest, "entity")
		m.system.knows(&logical.Entity{ID: "e", Aliases: []*logical.Alias{{MountAccessor: "auth_other_1", Name: "alice"}}})
		_, err = m.b.HandleRequest(t.Context(), &logical.Request{
			Operation: logical.ReadOperation, Path: "creds/github", EntityID: "e", Storage: m.storage,
		})
		m.refused(err, http.StatusBadRequest, "alias")
	})
}

// A merge can leave an entity with two aliases of one auth mount.
func TestAnEntityWithTwoAliasesIsRefused(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		m.system.knows(&logical.Entity{ID: "e", Aliases: []*logical.Alias{
			{MountAccessor: accessor, Name: "alice"}, {MountAccessor: accessor, Name: "bob"},
		}})
		_, err := m.b.HandleRequest(t.Context(), &logical.Request{
			Operation: logical.ReadOperation, Path: "creds/github", EntityID: "e", Storage: m.storage,
		})
		m.refused(err, http.StatusBadRequest, "more than one alias")
	})
}

// An external user is looked up under exactly the name they have.
func TestAwkwardUsers(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		users := []string{
			"a b", "a/b", "../alice", "a&external_user_id=bob", "ålice", "ALICE", "alice ", "{{identity.entity.id}}", "}}", "%2e%2e", "\"", "\x00",
			strings.Repeat("x", 250), strings.Repeat("é", 250),
		}
		for i, user := range users {
			m.sim.SetAccount(connectAccount(accountName(i), user))
		}
		for i, user := range users {
			resp, err := m.as(user)
			require.NoError(t, err, user)
			require.Equal(t, accountName(i), resp.Data["pipedream_account_id"], user)
		}
		requests := len(m.sim.Requests())
		_, err := m.as(strings.Repeat("x", 251))
		m.refused(err, http.StatusBadRequest, "250")
		m.system.knows(&logical.Entity{ID: "e", Metadata: map[string]string{"user": ""}})
		m.role("meta", map[string]any{"app": "github", "external_user_id": "{{identity.entity.metadata.user}}"})
		_, err = m.b.HandleRequest(t.Context(), &logical.Request{
			Operation: logical.ReadOperation, Path: "creds/meta", EntityID: "e", Storage: m.storage,
		})
		m.refused(err, http.StatusBadRequest, "empty")
		for _, blank := range []string{" ", "\t\u00a0"} {
			m.system.knows(&logical.Entity{ID: "blank", Metadata: map[string]string{"user": blank}})
			for _, template := range []string{"{{identity.entity.metadata.user}}", "team-{{identity.entity.metadata.user}}"} {
				m.role("meta", map[string]any{"app": "github", "external_user_id": template})
				_, err = m.b.HandleRequest(t.Context(), &logical.Request{
					Operation: logical.ReadOperation, Path: "creds/meta", EntityID: "blank", Storage: m.storage,
				})
				m.refused(err, http.StatusBadRequest, "a directive of external_user_id is empty")
			}
			_, err = m.handle(logical.ListOperation, "accounts/", map[string]any{"external_user_id": blank})
			m.refused(err, http.StatusBadRequest, "external_user_id is blank")
		}
		m.role("meta", map[string]any{"app": "github", "external_user_id": "alice{{identity.entity.metadata.user}}"})
		_, err = m.b.HandleRequest(t.Context(), &logical.Request{
			Operation: logical.ReadOperation, Path: "creds/meta", EntityID: "e", Storage: m.storage,
		})
		m.refused(err, http.StatusBadRequest, "empty")
		require.Len(t, m.sim.Requests(), requests, "nothing is looked up for an empty user")
	})
}

// If Pipedream does not apply a filter strictly, that must not hand out another user's
// account.
func TestAnAnswerWithOthersAccountsIsNotTrusted(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusOK, Body: `{"page_info":{},"data":[
			{"id":"apn_bob","external_id":"bob","healthy":true,"app":{"name_slug":"github"},"credentials":{"oauth_access_token":"pdtok_of_bob"}},
			{"id":"apn_none","healthy":true,"app":{"name_slug":"github"},"credentials":{"oauth_access_token":"pdtok_of_none"}},
			{"id":"apn_slack","external_id":"alice","healthy":true,"app":{"name_slug":"slack"},"credentials":{"oauth_access_token":"pdtok_of_slack"}}]}`})
		_, err := m.as("alice")
		m.refused(err, http.StatusBadRequest, `"alice"`)
		require.NotContains(t, err.Error(), "bob")
	})
}

func TestTheRememberedAccountIsCheckedAgain(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		_, err := m.as("alice")
		require.NoError(t, err)
		// The account is bob's from now on.
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.ExternalUserID = "bob" })
		time.Sleep(59 * time.Minute)
		_, err = m.as("alice")
		m.refused(err, http.StatusBadRequest, `"alice"`)
	})
}

// Of several accounts of a user, the healthy one that was created last is taken. The
// choice must not depend on updated_at, which changes with each refresh of a token.
func TestTheLastCreatedHealthyAccountIsTaken(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		now := time.Now()
		for id, change := range map[string]func(*pipedreamtest.Account){
			"apn_old":  func(a *pipedreamtest.Account) { a.CreatedAt, a.UpdatedAt = now.Add(-2*time.Hour), now },
			"apn_new":  func(a *pipedreamtest.Account) { a.CreatedAt = now.Add(-time.Hour) },
			"apn_sick": func(a *pipedreamtest.Account) { a.CreatedAt, a.Unhealthy = now, true },
			"apn_dead": func(a *pipedreamtest.Account) { a.CreatedAt, a.Dead = now, true },
		} {
			a := connectAccount(id, "dora")
			change(&a)
			m.sim.SetAccount(a)
		}
		m.role("github", eachUsersGithub)
		resp, err := m.as("dora")
		require.NoError(t, err)
		require.Equal(t, "apn_new", resp.Data["pipedream_account_id"])
		require.Empty(t, resp.Warnings)
	})
}

// If no account is healthy, one that is not dead is served with a warning.
func TestAnUnhealthyAccountIsBetterThanNone(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		a := connectAccount("apn_sick", "dora")
		a.Unhealthy = true
		m.sim.SetAccount(a)
		m.role("github", eachUsersGithub)
		resp, err := m.as("dora")
		require.NoError(t, err)
		require.Equal(t, "apn_sick", resp.Data["pipedream_account_id"])
		require.Len(t, resp.Warnings, 1)
		require.Contains(t, resp.Warnings[0], "apn_sick is unhealthy")
	})
}

// sickUser is a mount on which dora has one account, which is unhealthy and was
// read, and a function that has her connect a healthy one.
func sickUser(m *mount) (connect func()) {
	m.Helper()
	a := connectAccount("apn_sick", "dora")
	a.Unhealthy = true
	m.sim.SetAccount(a)
	m.role("github", map[string]any{"app": "github", "external_user_id": eachUsersGithub["external_user_id"], "oauth_app_id": ""})
	require.Equal(m, a.ID, m.accountOf("dora"))
	return func() { m.sim.SetAccount(connectAccount("apn_well", "dora")) }
}

func (m *mount) accountOf(alias string) string {
	m.Helper()
	resp, err := m.as(alias)
	require.NoError(m, err)
	return resp.Data["pipedream_account_id"].(string)
}

// Whoever has an unhealthy account and connects another gets that one, long
// before the token of the unhealthy one ends.
func TestAHealthyAccountTakesThePlaceOfAnUnhealthyOne(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		connect := sickUser(m)
		time.Sleep(10 * time.Minute)
		require.Equal(t, "apn_sick", m.accountOf("dora"))
		connect()
		time.Sleep(5 * time.Minute)
		require.Equal(t, "apn_well", m.accountOf("dora"))
		require.Equal(t, "apn_well", m.accountOf("dora"))
	})
}

func TestALinkEndsTheWaitForAHealthyAccount(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		connect := sickUser(m)
		for range 10 { // a hold-off of minutes
			require.Equal(t, "apn_sick", m.accountOf("dora"))
			time.Sleep(time.Minute)
		}
		m.link("dora", nil)
		require.Equal(t, "apn_sick", m.accountOf("dora"))
		connect()
		time.Sleep(3 * time.Second)
		require.Equal(t, "apn_well", m.accountOf("dora"))
	})
}

func TestRefreshFindsAHealthyAccount(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		connect := sickUser(m)
		require.Equal(t, "apn_sick", m.accountOf("dora"))
		connect()
		time.Sleep(time.Second)
		resp, err := m.handleAs("dora", logical.UpdateOperation, "refresh/github")
		require.NoError(t, err)
		require.Equal(t, true, resp.Data["changed"])
		require.Equal(t, "apn_well", m.accountOf("dora"))
	})
}

// heldUser is like sickUser, after so many searches in vain that the next one is
// minutes away.
func heldUser(m *mount) (connect func()) {
	m.Helper()
	connect = sickUser(m)
	m.sim.Update("apn_sick", func(a *pipedreamtest.Account) { a.TokenLife = 10 * time.Hour })
	time.Sleep(time.Minute)
	_, err := m.write("refresh/apn_sick", nil)
	require.NoError(m, err)
	for range 20 {
		m.accountOf("dora")
		time.Sleep(time.Minute)
	}
	for before := m.sim.Count(pipedreamtest.KindList); m.sim.Count(pipedreamtest.KindList) == before; time.Sleep(time.Second) {
		m.accountOf("dora")
	}
	time.Sleep(cache.RefreshQuiet) // the search brought its token
	return connect
}

// An account that dies is a change, which ends the wait for a better one: whoever
// connected another in time gets it with the next read.
func TestAnAccountThatDiesEndsTheWaitForABetterOne(t *testing.T) {
	dies := map[string]func(*mount){
		"deleted": func(m *mount) { m.sim.DeleteAccount("apn_sick") },
		"gone": func(m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: "apn_sick", Status: http.StatusGone})
		},
		"dead": func(m *mount) { m.sim.Update("apn_sick", func(a *pipedreamtest.Account) { a.Dead = true }) },
	}
	for name, die := range dies {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				connect := heldUser(m)
				connect()
				require.Equal(t, "apn_sick", m.accountOf("dora"), "the wait has begun")
				die(m)
				_, err := m.write("refresh/apn_sick", nil)
				require.Error(t, err)
				require.Equal(t, "apn_well", m.accountOf("dora"))
			})
		})
	}
}

// Whoever connects another account after the death of theirs waits no longer than
// somebody who had none.
func TestAnAccountThatDiesRestartsTheWaitForAnother(t *testing.T) {
	for _, path := range []string{"refresh/apn_sick", "refresh/github"} {
		t.Run(path, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				connect := heldUser(m)
				m.sim.DeleteAccount("apn_sick")
				m.sim.AddFault(pipedreamtest.Fault{Delay: 50 * time.Millisecond})
				_, err := m.handleAs("dora", logical.UpdateOperation, path)
				require.Error(t, err)
				for range 15 {
					_, err := m.as("dora")
					m.refused(err, http.StatusBadRequest, `"dora"`)
					time.Sleep(time.Second)
				}
				connect()
				time.Sleep(16 * time.Second)
				require.Equal(t, "apn_well", m.accountOf("dora"))
			})
		})
	}
}

// An account dies once. It does not matter how often it is read or refreshed after
// that, or that the list still has it.
func TestAnAccountDiesOnce(t *testing.T) {
	for name, die := range map[string]func(*mount){
		"deleted": func(m *mount) { m.sim.DeleteAccount("apn_sick") },
		"still listed": func(m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: "apn_sick", Status: http.StatusNotFound})
		},
	} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				heldUser(m)
				die(m)
				m.sim.ResetRequests()
				for range 10 * 60 {
					_, _ = m.write("refresh/apn_sick", nil)
					_, _ = m.as("dora")
					time.Sleep(time.Second)
				}
				require.LessOrEqual(t, m.searches("dora"), 8+3, "searches in ten minutes")
				require.LessOrEqual(t, m.sim.Count(pipedreamtest.KindList), 2*(8+3), "and whether it is about the account")
			})
		})
	}
}

// However often an unhealthy account is read, looking for a better one costs
// little, takes no reader long, and looks like no guessing of names.
func TestUnhealthyAccountsCostLittle(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		sickUser(m)
		for i := range 20 {
			a := connectAccount(accountName(i), "user-"+strconv.Itoa(i))
			a.Unhealthy = true
			m.sim.SetAccount(a)
			m.accountOf("user-" + strconv.Itoa(i))
		}
		time.Sleep(20 * time.Minute)
		m.sim.ResetRequests()
		for range 600 {
			for i := range 20 {
				m.accountOf("user-" + strconv.Itoa(i))
			}
			time.Sleep(time.Second)
		}
		require.LessOrEqual(t, len(m.sim.Requests()), 20*(10+3), "ten searches of each in the ten minutes, the first ones close together")

		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Delay: time.Hour})
		time.Sleep(5 * time.Minute)
		began := time.Now()
		for range 100 {
			require.Equal(t, "apn_sick", m.accountOf("dora"))
		}
		require.LessOrEqual(t, time.Since(began), cache.Patience)
	})
}

func TestAReconnectedAccountIsFoundAgain(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{"app": "github", "external_user_id": "alice"})
		m.creds("github")
		m.sim.DeleteAccount("apn_alice")
		m.sim.SetAccount(connectAccount("apn_alice2", "alice"))
		time.Sleep(59 * time.Minute)
		m.sim.ResetRequests()

		var readers sync.WaitGroup
		for range 100 {
			readers.Go(func() {
				resp, err := m.read("creds/github")
				if err != nil || resp.Data["pipedream_account_id"] != "apn_alice2" {
					t.Errorf("a reader did not get the new account: %v", err)
				}
			})
		}
		readers.Wait()
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount), "the old one is asked for twice, because it is live")
		require.Equal(t, 1, m.searches("alice"))
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindList), "and whether it is about the account")
	})
}

func TestAUserWithoutAnAccountCannotDrainTheBudget(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{"app": "github", "external_user_id": "eve"})
		for range 600 {
			_, err := m.read("creds/github")
			m.refused(err, http.StatusBadRequest, `"eve"`)
			time.Sleep(100 * time.Millisecond)
		}
		require.LessOrEqual(t, m.sim.Count(pipedreamtest.KindList), 8)

		m.sim.SetAccount(connectAccount("apn_eve", "eve"))
		time.Sleep(backoff.LongestLasting)
		m.creds("github")
	})
}

// A healthy account that cannot be fetched must not be searched for by every reader.
func TestAnAccountThatIsListedButForbidden(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{"app": "github", "external_user_id": "alice"})
		m.creds("github")
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: http.StatusForbidden})
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.NoCredentials = true })
		time.Sleep(59 * time.Minute)
		m.sim.ResetRequests()
		for range 600 {
			_, err := m.read("creds/github")
			require.Error(t, err)
			time.Sleep(100 * time.Millisecond)
		}
		require.LessOrEqual(t, len(m.sim.Requests()), 20+7, "and after each search, whether it is about the account")
	})
}

func TestARestartRemembersUsers(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		before, err := m.as("alice")
		require.NoError(t, err)
		m.start()
		m.sim.ResetRequests()
		after, err := m.as("alice")
		require.NoError(t, err)
		require.Equal(t, before.Data, after.Data)
		require.Empty(t, m.sim.Requests())

		// Another project has other users.
		_, err = m.write("config", map[string]any{"project_id": "proj_other"})
		require.NoError(t, err)
		_, err = m.as("alice")
		m.refused(err, http.StatusBadRequest, "proj_other")
	})
}

// The account of a user is remembered until it is at fault and there is no other.
func TestUsersWhoseAccountsAreGoneAreForgotten(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		_, err := m.as("alice")
		require.NoError(t, err)
		m.start()
		stored := func() []string {
			keys, err := m.cachedKeys()
			require.NoError(t, err)
			return keys
		}
		end := m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusBadGateway})
		for range 2 {
			time.Sleep(2 * time.Hour)
			m.periodic()
		}
		require.Equal(t, []string{githubOfAlice()}, stored(), "her token has ended")
		_, err = m.as("alice")
		m.refused(err, http.StatusBadGateway)
		end()
		time.Sleep(time.Minute)
		m.sim.DeleteAccount("apn_alice")
		_, err = m.as("alice")
		m.refused(err, http.StatusBadRequest, `"alice"`)
		require.Empty(t, stored())
	})
}

// What is remembered in one project or environment says nothing about another, and
// costs nobody an account of theirs there.
func TestUsersOfAnotherProject(t *testing.T) {
	for _, change := range []map[string]any{{"project_id": "proj_other"}, {"environment": "development"}} {
		connectBubble(t, func(t *testing.T, m *mount) {
			m.role("github", eachUsersGithub)
			require.Equal(t, "apn_alice", m.accountOf("alice"))
			there := connectAccount("apn_there", "alice")
			for field, value := range change {
				if field == "project_id" {
					there.Project = value.(string)
				} else {
					there.Environment = value.(string)
				}
			}
			m.sim.SetAccount(there)
			m.sim.ResetRequests()
			_, err := m.write("config", change)
			require.NoError(t, err)
			require.Equal(t, "apn_there", m.accountOf("alice"))
			require.Zero(t, m.sim.Count(pipedreamtest.KindAccount), "nobody asks there for an account from here")
			m.periodic()
			require.ElementsMatch(t, []string{"apn_there", githubOfAlice()}, func() []string {
				keys, err := m.cachedKeys()
				require.NoError(t, err)
				return keys
			}())
		})
	}
}

func TestRoleOfAUserNeedsAProject(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{"app": "github", "external_user_id": "alice"})
		_, err := m.read("creds/github")
		m.refused(err, http.StatusBadRequest, "project_id")
		require.Empty(t, m.sim.Requests())
	})
}

func TestADamagedRoleCanBeOverwritten(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: "role/ci", Value: []byte("{")}))
		_, err := m.read("creds/ci")
		m.refused(err, http.StatusInternalServerError, "write it again")
		m.role("ci", map[string]any{"account_id": github})
		m.creds("ci")
	})
}

func TestRefreshOfAReconnectedAccount(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{"app": "github", "external_user_id": "alice"})
		m.creds("github")
		m.sim.DeleteAccount("apn_alice")
		m.sim.SetAccount(connectAccount("apn_alice2", "alice"))
		time.Sleep(time.Minute)
		resp, err := m.write("refresh/github", nil)
		require.NoError(t, err)
		require.Equal(t, true, resp.Data["changed"])
		require.Equal(t, "apn_alice2", m.creds("github").Data["pipedream_account_id"])
	})
}

// A caller whose metadata is empty where a template uses it is refused. The caller is
// not the user whose id is the rest of the template.
func TestAnEmptyDirectiveFindsNobody(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{"app": "github", "external_user_id": "alice{{identity.entity.metadata.suffix}}"})
		m.system.knows(&logical.Entity{ID: "entity-1", Metadata: map[string]string{"suffix": ""}})
		_, err := m.b.HandleRequest(t.Context(), &logical.Request{
			Operation: logical.ReadOperation, Path: "creds/github", Storage: m.storage, MountPoint: "pipedream/", EntityID: "entity-1",
		})
		m.refused(err, http.StatusBadRequest)
		require.Empty(t, m.sim.Requests())
	})
}
