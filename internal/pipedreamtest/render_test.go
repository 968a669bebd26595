package pipedreamtest

import (
	"encoding/json"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOAuthAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		a := github
		a.Credentials = map[string]any{"base_url": "https://github.example.com"}
		s.SetAccount(a)
		got := c.get("/accounts/apn_github?include_credentials=1").data(t)
		credentials := member[map[string]any](t, got, "credentials")
		require.Regexp(t, `^pdtok_apn_github_1_[0-9a-f]{16}$`, credentials["oauth_access_token"])
		require.Regexp(t, `^pdrefresh_apn_github_[0-9a-f]{16}$`, credentials["oauth_refresh_token"])
		require.NotEmpty(t, credentials["oauth_client_id"])
		require.NotEmpty(t, credentials["oauth_uid"])
		require.Equal(t, "https://github.example.com", credentials["base_url"])
		require.Len(t, credentials, 5)

		require.Equal(t, "apn_github", got["id"])
		require.Equal(t, "octocat", got["name"])
		require.Equal(t, true, got["healthy"])
		require.Contains(t, got, "dead")
		require.Nil(t, got["dead"], "it is true for an account that is dead, and null for any other")
		require.Nil(t, got["error"])
		require.Contains(t, got, "beta_health")
		app := member[map[string]any](t, got, "app")
		require.Equal(t, "app_OrZhaO", app["id"])
		require.Equal(t, "github", app["name_slug"])
		require.Equal(t, "GitHub", app["name"])
		require.Equal(t, "oauth", app["auth_type"])
		require.Contains(t, app, "beta_connect_tier")
	})
}

func TestStaticAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(stripe)
		got := c.get("/accounts/apn_stripe?include_credentials=1").data(t)
		require.Equal(t, map[string]any{"api_key": "sk_live_0123456789"}, got["credentials"])
		for _, name := range []string{"name", "expires_at", "next_refresh_at", "last_refreshed_at"} {
			require.Contains(t, got, name)
			require.Nil(t, got[name], name)
		}
	})
}

func TestAbsentFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(Account{ID: "apn_x", TokenLife: time.Hour, OmitNextRefresh: true, OmitOwner: true, NoCredentials: true})
		got := c.get("/accounts/apn_x?include_credentials=1").data(t)
		require.NotContains(t, got, "external_id")
		require.NotContains(t, got, "app")
		require.NotContains(t, got, "next_refresh_at")
		require.NotContains(t, got, "credentials")
		require.NotNil(t, got["expires_at"])
	})
}

func TestUpdatedAtMovesWithTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		a := github
		a.CreatedAt = time.Now().Add(-time.Hour)
		s.SetAccount(a)
		begin := time.Now()
		for range 3 {
			got := c.get("/accounts/apn_github").data(t)
			require.Equal(t, stamp(begin), got["updated_at"])
			require.Equal(t, got["last_refreshed_at"], got["updated_at"])
			require.Equal(t, stamp(a.CreatedAt), got["created_at"])
			time.Sleep(55 * time.Minute)
			begin = begin.Add(55 * time.Minute)
		}
		s.Update("apn_github", func(a *Account) { a.UpdatedAt = time.Now().Add(time.Minute) })
		require.Equal(t, stamp(begin.Add(time.Minute)), c.get("/accounts/apn_github").data(t)["updated_at"], "or with its owner")
	})
}

func TestHideExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		a := github
		a.HideExpiry = true
		s.SetAccount(a)
		got := c.get("/accounts/apn_github").data(t)
		require.Contains(t, got, "expires_at")
		require.Nil(t, got["expires_at"])
		require.Equal(t, stamp(time.Now().Add(55*time.Minute)), got["next_refresh_at"])
	})
}

func TestOverrideAndOmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		a := github
		a.Override = map[string]any{"dead": 1, "app": "github", "error": nil, "name": json.RawMessage(`"\u001b[2J"`)}
		a.Omit = []string{"healthy", "created_at"}
		s.SetAccount(a)
		a.Override["dead"], a.Omit[0] = "changed", "changed" // the server has copies
		list := member[[]any](t, c.get("/accounts").object(t), "data")
		for _, got := range []any{c.get("/accounts/apn_github").data(t), list[0]} {
			got, ok := got.(map[string]any)
			require.True(t, ok)
			require.Equal(t, "github", got["app"])
			require.InDelta(t, 1, got["dead"], 0)
			require.Equal(t, "\x1b[2J", got["name"])
			require.NotContains(t, got, "healthy")
			require.NotContains(t, got, "created_at")
			require.Contains(t, got, "error")
		}
		require.Panics(t, func() { s.SetAccount(Account{ID: "apn_x", Override: map[string]any{"no": make(chan int)}}) })
	})
}

func TestDeadAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		a := github
		a.Dead, a.Error = true, "invalid_grant"
		s.SetAccount(a)
		got := c.get("/accounts/apn_github?include_credentials=1").data(t)
		require.Equal(t, true, got["dead"])
		require.Equal(t, false, got["healthy"])
		require.Equal(t, "invalid_grant", got["error"])
		require.NotEmpty(t, got["credentials"], "what is left of them")
	})
}

func TestCredentialsAreVerbatim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(Account{ID: "apn_x", Credentials: map[string]any{
			"big":  json.Number("1152921504606846976"),
			"list": json.RawMessage(`[1, 2.50]`),
			"text": "<&>",
			"none": nil,
		}})
		require.Contains(t, c.get("/accounts/apn_x?include_credentials=1").body,
			`"credentials":{"big":1152921504606846976,"list":[1, 2.50],"none":null,"text":"<&>"}`)

		s.Update("apn_x", func(a *Account) { a.RawCredentials, a.TokenLife = json.RawMessage(`{ "only" : this`), time.Hour })
		require.Contains(t, c.get("/accounts/apn_x?include_credentials=1").body, `"credentials":{ "only" : this,`)
	})
}

func TestCredentialsNamedByTheTestWin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		a := github
		a.Credentials = map[string]any{"oauth_uid": nil}
		s.SetAccount(a)
		got := c.get("/accounts/apn_github?include_credentials=1").credentials(t)
		require.Nil(t, got["oauth_uid"])
		require.Equal(t, s.Token("apn_github"), got["oauth_access_token"])
	})
}

func TestConnectAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(alice)
		w := c.workspace(s)
		got := w.connect("/connect/proj_a/accounts/apn_alice?include_credentials=true").object(t)
		require.Equal(t, "apn_alice", got["id"], "the account is bare")
		require.Equal(t, "alice", got["external_id"])
		require.Equal(t, s.Token("apn_alice"), member[map[string]any](t, got, "credentials")["oauth_access_token"])
	})
}

func TestOldConnectAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithOldConnectForms())
		s.SetAccount(alice)
		require.Equal(t, "apn_alice", c.workspace(s).connect("/connect/proj_a/accounts/apn_alice").data(t)["id"])
	})
}

func TestAccountsAreFoundWhereTheyBelong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		s.SetAccount(alice)
		s.SetAccount(Account{ID: "apn_dev", Project: "proj_a", Environment: "development"})
		w := c.workspace(s)
		at := func(path, environment string) int { return w.get(path, "x-pd-environment", environment).status }

		require.Equal(t, http.StatusOK, at("/accounts/apn_github", ""))
		require.Equal(t, http.StatusNotFound, at("/accounts/apn_alice", ""))
		require.Equal(t, http.StatusOK, at("/connect/proj_a/accounts/apn_alice", "production"))
		require.Equal(t, http.StatusNotFound, at("/connect/proj_a/accounts/apn_alice", "development"))
		require.Equal(t, http.StatusOK, at("/connect/proj_a/accounts/apn_dev", "development"))
		require.Equal(t, http.StatusNotFound, at("/connect/proj_a/accounts/apn_dev", "production"))
		require.Equal(t, http.StatusNotFound, at("/connect/proj_b/accounts/apn_alice", "production"))
		require.Equal(t, http.StatusNotFound, at("/connect/proj_a/accounts/apn_github", "production"))
	})
}
