package pipedreamtest

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// shownWith returns an account as alice's project shows it, with credentials.
func shownWith(t *testing.T, s *Server, c caller, id string) map[string]any {
	t.Helper()
	r := c.workspace(s).connect("/connect/proj_a/accounts/" + id + "?include_credentials=true")
	require.Equal(t, http.StatusOK, r.status, r.body)
	return r.object(t)
}

// TestReconnect: the id, the owner and the time of the first connection stay; the credentials are new, and the troubles
// are over.
func TestReconnect(t *testing.T) {
	for name, change := range map[string]func(*Account){
		"healthy":   func(*Account) {},
		"dead":      func(a *Account) { a.Dead, a.Error = true, "invalid_grant" },
		"unhealthy": func(a *Account) { a.Unhealthy, a.Error = true, "timeout" },
		"token of its own": func(a *Account) {
			a.Credentials = map[string]any{"oauth_access_token": "its_own_token", "base_url": "x"}
		},
		"broken":            func(a *Account) { a.RawCredentials = []byte(`"broken"`) },
		"several on a page": func(a *Account) { a.Name = "octocat" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newServer(t)
				a := alice
				a.Name, a.OAuthAppID = "alice", "oa_x"
				change(&a)
				for _, other := range neighbours {
					s.SetAccount(other)
				}
				s.SetAccount(a)
				before := shownWith(t, s, c, "apn_alice")
				old := s.Token("apn_alice")
				time.Sleep(time.Minute)
				link := newLink(t, s, c, "") + "&app=github&accountId=apn_alice"
				require.Contains(t, browse(t, c, link, "").body, "apn_alice")
				id, err := s.Click(link)
				require.NoError(t, err)
				require.Equal(t, "apn_alice", id)

				got := shownWith(t, s, c, "apn_alice")
				for _, name := range []string{"id", "name", "external_id", "created_at"} {
					require.Equal(t, before[name], got[name], name)
				}
				require.Equal(t, before["app"], got["app"])
				require.Equal(t, true, got["healthy"])
				require.Nil(t, got["dead"])
				require.Nil(t, got["error"])
				require.Equal(t, stamp(time.Now()), got["updated_at"])
				credentials := member[map[string]any](t, got, "credentials")
				require.Equal(t, s.Token("apn_alice"), credentials["oauth_access_token"])
				require.NotEqual(t, old, s.Token("apn_alice"))
				require.True(t, s.ExpiresAt("apn_alice").After(time.Now()))
				require.Equal(t, "pduid_apn_alice", credentials["oauth_uid"])
				if url, ok := a.Credentials["base_url"]; ok {
					require.Equal(t, url, credentials["base_url"], "what is no token stays")
				}

				ids, _ := listed(t, c.workspace(s).connect("/connect/proj_a/accounts?external_user_id=alice"))
				require.Equal(t, []string{"apn_alice"}, ids, "there is no second account")
				_, err = s.Click(link)
				require.ErrorIs(t, err, errLinkUsed)
				require.Empty(t, s.Violations())
			})
		})
	}
}

func TestReconnectKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		a := alice
		a.App, a.TokenLife, a.Credentials = stripe.App, 0, map[string]any{"api_key": "sk_old"}
		s.SetAccount(a)
		keys := map[any]bool{"sk_old": true}
		for range 2 {
			_, err := s.Click(newLink(t, s, c, "") + "&app=stripe&accountId=apn_alice")
			require.NoError(t, err)
			keys[member[map[string]any](t, shownWith(t, s, c, "apn_alice"), "credentials")["api_key"]] = true
		}
		require.Len(t, keys, 3)
		require.Empty(t, shownWith(t, s, c, "apn_alice")["authorized_scopes"])
	})
}

func TestReconnectRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		for _, a := range append(neighbours, alice) {
			s.SetAccount(a)
		}
		s.SetAccount(stripe)
		for _, query := range []string{
			"&app=github&accountId=apn_bob",    // another user
			"&app=github&accountId=apn_alice2", // another project
			"&app=github&accountId=apn_alice3", // another environment
			"&app=github&accountId=apn_work",   // the workspace
			"&app=github&accountId=apn_none",
			"&app=stripe&accountId=apn_alice", // another app
			"&app=slack&accountId=apn_alice",
		} {
			_, err := s.Click(newLink(t, s, c, "") + query)
			require.ErrorIs(t, err, errLinkAccount, query)
		}
		s.SetLinkPage(LinkPage{RefuseReconnect: true})
		link := newLink(t, s, c, "") + "&app=github"
		old := s.Token("apn_alice")
		_, err := s.Click(link + "&accountId=apn_alice")
		require.ErrorIs(t, err, errLinkRefused)
		require.Equal(t, old, s.Token("apn_alice"))
		_, err = s.Click(link)
		require.NoError(t, err, "a new account can be connected with the same link")
		require.Empty(t, s.Violations())
	})
}

// TestReconnectWithAClient: the link's OAuth client replaces that of the account. A link without one changes nothing.
func TestReconnectWithAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		bare := alice
		bare.NoCredentials = true
		s.SetAccount(bare)
		reconnect := func(query string) map[string]any {
			_, err := s.Click(newLink(t, s, c, "") + "&app=github&accountId=apn_alice" + query)
			require.NoError(t, err)
			return shownWith(t, s, c, "apn_alice")
		}
		require.NotContains(t, reconnect(""), "credentials")
		got := reconnect("&oauthAppId=oa_x")
		require.Contains(t, got, "credentials")
		require.Equal(t, "oa_x", member[map[string]any](t, got, "app")["id"])
		require.Contains(t, reconnect(""), "credentials")

		s.SetLinkPage(LinkPage{IgnoreClient: true})
		got = reconnect("&oauthAppId=oa_x")
		require.NotContains(t, got, "credentials")
		require.Equal(t, "app_OrZhaO", member[map[string]any](t, got, "app")["id"])
	})
}

func TestAnotherIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		a := alice
		a.Name = "alice at home"
		s.SetAccount(a)
		s.SetLinkPage(LinkPage{Identity: "mallory"})
		for _, query := range []string{"&accountId=apn_alice", ""} {
			id, err := s.Click(newLink(t, s, c, "") + "&app=github&oauthAppId=oa_x" + query)
			require.NoError(t, err)
			got := shownWith(t, s, c, id)
			require.Equal(t, "mallory", got["name"])
			require.Equal(t, "pduid_mallory", member[map[string]any](t, got, "credentials")["oauth_uid"])
			require.Equal(t, "alice", got["external_id"], "it remains hers")
		}
	})
}

func TestAPageThatIgnoresTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		s.SetLinkPage(LinkPage{IgnoreClient: true})
		id, err := s.Click(newLink(t, s, c, `,"app_id":"github","oauth_app_id":"oa_x"`) + "&app=github&oauthAppId=oa_x")
		require.NoError(t, err)
		got := shownWith(t, s, c, id)
		require.NotContains(t, got, "credentials")
		require.Equal(t, "app_OrZhaO", member[map[string]any](t, got, "app")["id"])
	})
}

func TestScopeProfiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(stripe)
		limited := alice
		limited.Scopes = []string{"read"}
		s.SetAccount(limited)
		require.Equal(t, []any{"read"}, shownWith(t, s, c, "apn_alice")["authorized_scopes"])
		for query, want := range map[string][]any{
			"":                              {"read", "write"},
			"&oauthScopeProfile=read_only":  {"read"},
			"&oauthScopeProfile=read_write": {"read", "write"},
			"&oauthScopeProfile=admin":      {"read", "write", "admin"},
		} {
			for _, account := range []string{"", "&accountId=apn_alice"} {
				id, err := s.Click(newLink(t, s, c, "") + "&app=github" + account + query)
				require.NoError(t, err)
				require.Equal(t, want, shownWith(t, s, c, id)["authorized_scopes"], query)
			}
		}
		for _, query := range []string{"&app=github&oauthScopeProfile=everything", "&app=stripe&oauthScopeProfile=read_only"} {
			_, err := s.Click(newLink(t, s, c, "") + query)
			require.ErrorIs(t, err, errLinkProfile, query)
		}
	})
}

// TestLinksOfDevelopment are for those who are signed in to pipedream.com.
func TestLinksOfDevelopment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		r := c.workspace(s).do(t.Context(), http.MethodPost, connectTokens, `{"external_user_id":"alice"}`, "Content-Type", mediaJSON, "x-pd-environment", "development")
		link := member[string](t, r.object(t), "connect_link_url") + "&app=github"
		_, err := s.Click(link)
		require.ErrorIs(t, err, errLinkSignIn)
		s.SetLinkPage(LinkPage{SignedIn: true})
		id, err := s.Click(link)
		require.NoError(t, err)
		got := c.workspace(s).get("/connect/proj_a/accounts/"+id, "x-pd-environment", "development")
		require.Equal(t, http.StatusOK, got.status)
	})
}
