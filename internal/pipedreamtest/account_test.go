package pipedreamtest

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSetAccountReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		old := s.Token("apn_github")
		replaced := github
		replaced.Name = "hubot"
		s.SetAccount(replaced)
		require.NotEqual(t, old, s.Token("apn_github"))
		require.Equal(t, "hubot", c.get("/accounts/apn_github").data(t)["name"])
	})
}

func TestSetAccountKeepsACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		a := Account{ID: "apn_x", Credentials: map[string]any{"key": "value"}}
		s.SetAccount(a)
		a.Credentials["key"] = "changed"
		require.Equal(t, "value", c.get("/accounts/apn_x?include_credentials=1").credentials(t)["key"])
	})
}

func TestSetAccountTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(stripe)
		got := c.get("/accounts/apn_stripe").data(t)
		require.Equal(t, stamp(time.Now()), got["created_at"])
		require.Equal(t, stamp(time.Now()), got["updated_at"])

		a := stripe
		a.CreatedAt = time.Date(2024, 2, 11, 5, 18, 46, 0, time.UTC)
		s.SetAccount(a)
		require.Equal(t, "2024-02-11T05:18:46.000Z", c.get("/accounts/apn_stripe").data(t)["updated_at"])
		s.Update(a.ID, func(a *Account) { a.UpdatedAt = a.CreatedAt.Add(time.Minute) })
		got = c.get("/accounts/apn_stripe").data(t)
		require.Equal(t, "2024-02-11T05:18:46.000Z", got["created_at"])
		require.Equal(t, "2024-02-11T05:19:46.000Z", got["updated_at"])
	})
}

func TestDeleteAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		old := s.Token("apn_github")
		s.DeleteAccount("apn_github")
		s.DeleteAccount("apn_github")
		c.get("/accounts/apn_github").failed(t, http.StatusNotFound)

		s.SetAccount(github)
		require.NotEqual(t, old, s.Token("apn_github"))
	})
}

func TestUpdateKeepsTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		token, expires := s.Token("apn_github"), s.ExpiresAt("apn_github")
		time.Sleep(time.Minute)
		s.Update("apn_github", func(a *Account) {
			a.ID = "apn_other"
			a.Name = "hubot"
			a.Unhealthy, a.Error = true, "the app is down"
		})
		require.Equal(t, token, s.Token("apn_github"))
		require.Equal(t, expires, s.ExpiresAt("apn_github"))
		got := c.get("/accounts/apn_github").data(t)
		require.Equal(t, "apn_github", got["id"])
		require.Equal(t, "hubot", got["name"])
		require.Equal(t, false, got["healthy"])
		require.Nil(t, got["dead"])
		require.Equal(t, "the app is down", got["error"])
	})
}

func TestUpdateMakesTheTokenDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		s.SetAccount(github)
		token := s.Token("apn_github")
		time.Sleep(30 * time.Minute)
		s.Update("apn_github", func(a *Account) { a.TokenLife = 20 * time.Minute })
		require.NotEqual(t, token, s.Token("apn_github"))
		require.Equal(t, 20*time.Minute, time.Until(s.ExpiresAt("apn_github")))
	})
}

func TestUpdateToOAuthAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		s.SetAccount(stripe)
		require.Empty(t, s.Token("apn_stripe"))
		time.Sleep(time.Hour)
		s.Update("apn_stripe", func(a *Account) { a.TokenLife = time.Hour })
		require.Equal(t, time.Hour, time.Until(s.ExpiresAt("apn_stripe")))
		s.Update("apn_stripe", func(a *Account) { a.TokenLife = 0 })
		require.Empty(t, s.Token("apn_stripe"))
		require.Zero(t, s.ExpiresAt("apn_stripe"))
	})
}

func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		old := c.get("/accounts/apn_github?include_credentials=1").credentials(t)
		time.Sleep(10 * time.Minute)
		s.Rotate("apn_github")
		got := c.get("/accounts/apn_github?include_credentials=1").credentials(t)
		require.NotEqual(t, old["oauth_access_token"], got["oauth_access_token"])
		require.Equal(t, s.Token("apn_github"), got["oauth_access_token"])
		require.Equal(t, old["oauth_refresh_token"], got["oauth_refresh_token"])
		require.Equal(t, time.Hour, time.Until(s.ExpiresAt("apn_github")))
	})
}

func TestTokenSendsNoRequest(t *testing.T) {
	s := New()
	s.SetAccount(github)
	require.True(t, strings.HasPrefix(s.Token("apn_github"), "pdtok_apn_github_1_"))
	require.Empty(t, s.Token("apn_none"))
	require.Zero(t, s.ExpiresAt("apn_none"))
	require.Zero(t, s.Count(""))
}

func TestImpossibleAccountsPanic(t *testing.T) {
	s := New()
	s.SetAccount(stripe)
	require.Panics(t, func() { s.Update("apn_none", func(*Account) {}) })
	require.Panics(t, func() { s.Rotate("apn_none") })
	require.Panics(t, func() { s.Rotate("apn_stripe") })
	require.Panics(t, func() { s.SetAccount(Account{ID: "apn_x", Credentials: map[string]any{"no": make(chan int)}}) })
	require.Panics(t, func() { s.Update("apn_stripe", func(a *Account) { a.Credentials["no"] = func() {} }) })
}
