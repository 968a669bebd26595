package pipedreamtest

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWhoMayAskWhat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		s.SetAccount(alice)
		key, workspace, wrong, nobody := c, c.workspace(s), c.as("wrong_key"), c.as("")
		for path, may := range map[string][]caller{
			"/users/me":                          {key},
			"/accounts":                          {key, workspace},
			"/accounts/apn_github":               {key, workspace},
			"/connect/proj_a/accounts":           {workspace},
			"/connect/proj_a/accounts/apn_alice": {workspace},
		} {
			for _, who := range []caller{key, workspace, wrong, nobody} {
				r := who.connect(path)
				log := s.Requests()
				last := log[len(log)-1]
				allowed := false
				for _, m := range may {
					allowed = allowed || m.auth == who.auth
				}
				require.Equal(t, allowed, last.Authorized)
				if allowed {
					require.Equal(t, http.StatusOK, r.status, path)
					continue
				}
				r.failed(t, http.StatusUnauthorized)
				if who.auth != "" {
					require.NotContains(t, r.body, who.auth)
				}
			}
		}
	})
}

func TestOtherSchemesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newServer(t)
		for _, authorization := range []string{"", "Bearer", "Bearer ", "Basic cGRfdGVzdF9rZXk6", "Bearer  pd_test_key"} {
			c.as("").get("/users/me", "Authorization", authorization).failed(t, http.StatusUnauthorized)
		}
	})
}

func TestSetAPIKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAPIKey("pd_next_key")
		c.get("/users/me").failed(t, http.StatusUnauthorized)
		require.Equal(t, http.StatusOK, c.as("pd_next_key").get("/users/me").status)
		s.SetAPIKey("")
		c.as("").get("/users/me").failed(t, http.StatusUnauthorized)
	})
}

func TestOAuthToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetOAuthClient("client", "client_secret", 10*time.Minute)
		r := c.token("client", "client_secret", "")
		require.Equal(t, http.StatusOK, r.status)
		got := r.object(t)
		require.Equal(t, "Bearer", got["token_type"])
		require.EqualValues(t, 600, got["expires_in"])
		require.EqualValues(t, time.Now().Unix(), got["created_at"])
		require.True(t, s.Requests()[0].Authorized)

		w := c.as(member[string](t, got, "access_token"))
		again := c.token("client", "client_secret", "").object(t)["access_token"]
		require.NotEqual(t, w.auth, again)

		time.Sleep(10*time.Minute - time.Millisecond)
		require.Equal(t, http.StatusOK, w.get("/accounts").status)
		time.Sleep(time.Millisecond)
		w.get("/accounts").failed(t, http.StatusUnauthorized)
	})
}

func TestOAuthTokenDefaultLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetOAuthClient("client", "client_secret", 0)
		require.EqualValues(t, 3600, c.token("client", "client_secret", "").object(t)["expires_in"])
	})
}

func TestOAuthTokenRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		c.token("", "", "").failed(t, http.StatusUnauthorized) // no client is set up yet
		s.SetOAuthClient("client", "client_secret", 0)
		c.token("client", "wrong_secret", "").failed(t, http.StatusUnauthorized)
		c.token("other", "client_secret", "").failed(t, http.StatusUnauthorized)
		require.NotContains(t, c.token("client", "wrong_secret", "").body, "wrong_secret")

		const good = `{"grant_type":"client_credentials","client_id":"client","client_secret":"client_secret"}`
		post := func(body, contentType string) reply {
			return c.do(t.Context(), http.MethodPost, "/oauth/token", body, "Content-Type", contentType)
		}
		require.Equal(t, http.StatusOK, post(good, "application/json; charset=utf-8").status)
		post(good, mediaForm).failed(t, http.StatusBadRequest)
		post(good, "text/plain").failed(t, http.StatusBadRequest)
		post("%zz", mediaForm).failed(t, http.StatusBadRequest)
		post(strings.Replace(good, "}", `,"scope":"nonsense"}`, 1), "application/json").failed(t, http.StatusBadRequest)
		post("{", "application/json").failed(t, http.StatusBadRequest)
		post("", "application/json").failed(t, http.StatusBadRequest)
		post(strings.Replace(good, "client_credentials", "password", 1), "application/json").failed(t, http.StatusBadRequest)
		// A body that is too long is cut, so it is not valid JSON.
		post(strings.Repeat(" ", maxRequestBody)+good, "application/json").failed(t, http.StatusBadRequest)
	})
}

func TestScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetOAuthClient("client", "client_secret", 0)
		for scope, status := range map[string]int{
			"":                      http.StatusOK,
			"*":                     http.StatusOK,
			"connect:accounts:read": http.StatusOK,
			"connect:accounts:*":    http.StatusOK,
			"connect:actions:* connect:accounts:read": http.StatusOK,
			"connect:accounts:write":                  http.StatusForbidden,
		} {
			w := c.as(member[string](t, c.token("client", "client_secret", scope).object(t), "access_token"))
			require.Equal(t, status, w.connect("/connect/proj_a/accounts").status, scope)
			log := s.Requests()
			require.Equal(t, status == http.StatusOK, log[len(log)-1].Authorized)
		}
	})
}

func TestOAuthTokenByForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetOAuthClient("client", "client_secret", 0)
		form := url.Values{
			"grant_type": {"client_credentials"}, "client_id": {"client"}, "client_secret": {"client_secret"},
			"scope": {"connect:accounts:write"}, "project_id": {"proj_a"}, "environment": {"production"},
		}
		r := c.form(form)
		require.Equal(t, http.StatusOK, r.status, r.body)
		w := c.as(member[string](t, r.object(t), "access_token"))
		w.connect("/connect/proj_a/accounts").failed(t, http.StatusForbidden) // it only has the scope that was requested
		form.Set("client_secret", "wrong_secret")
		c.form(form).failed(t, http.StatusUnauthorized)
		require.Empty(t, s.Violations())
	})
}

func TestScopesOnTheWorkspace(t *testing.T) {
	for name, tt := range map[string]struct {
		options []Option
		want    map[string]int
	}{
		"by default": {nil, map[string]int{
			"": 200, "*": 200, "connect:accounts:read *": 200, "connect:*": 403, "connect:accounts:read": 403, "connect:tokens:create": 403,
		}},
		"where it is allowed": {[]Option{WithConnectScopesOnWorkspace()}, map[string]int{
			"": 200, "*": 200, "connect:*": 200, "connect:accounts:read": 200, "connect:tokens:create": 403,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newServer(t, tt.options...)
				s.SetAccount(github)
				for scope, status := range tt.want {
					w := c.scoped(s, scope)
					require.Equal(t, status, w.get("/accounts").status, scope)
					require.Equal(t, status, w.get("/accounts/apn_github").status, scope)
				}
			})
		})
	}
}

func TestOrgID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithOrgID("o_own"))
		s.SetAccount(github)
		w := c.workspace(s)
		c.get("/accounts").failed(t, http.StatusBadRequest)
		c.get("/accounts?org_id=o_other").failed(t, http.StatusForbidden)
		require.Equal(t, http.StatusOK, c.get("/accounts?org_id=o_own").status)
		require.Equal(t, http.StatusOK, c.get("/accounts/apn_github").status, "a single account needs no org_id")
		require.Equal(t, http.StatusOK, c.get("/users/me").status)
		require.Equal(t, http.StatusOK, w.get("/accounts").status, "an OAuth client belongs to one workspace")
	})
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		require.Equal(t, http.StatusOK, c.get("/accounts?org_id=o_any").status)
		require.Empty(t, s.Violations())
	})
}

func TestRevokeAccessTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		w := c.workspace(s)
		require.Equal(t, http.StatusOK, w.get("/accounts").status)
		s.RevokeAccessTokens()
		w.get("/accounts").failed(t, http.StatusUnauthorized)
		w = c.workspace(s)
		require.Equal(t, http.StatusOK, w.get("/accounts").status)
		s.SetOAuthClient("client", "next_secret", 0)
		require.Equal(t, http.StatusOK, w.get("/accounts").status)
	})
}
