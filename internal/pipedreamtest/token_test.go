package pipedreamtest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTokenIsReplacedWhenDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		begin := time.Now()
		s.SetAccount(github)
		first := s.Token("apn_github")
		got := c.get("/accounts/apn_github").data(t)
		require.Equal(t, stamp(begin), got["last_refreshed_at"])
		require.Equal(t, stamp(begin.Add(55*time.Minute)), got["next_refresh_at"])
		require.Equal(t, stamp(begin.Add(time.Hour)), got["expires_at"])
		require.True(t, begin.Add(time.Hour).Equal(s.ExpiresAt("apn_github")))

		time.Sleep(55*time.Minute - time.Millisecond)
		require.Equal(t, first, s.Token("apn_github"))
		time.Sleep(time.Millisecond)
		second := s.Token("apn_github")
		require.NotEqual(t, first, second)

		// It was issued when it was due, however late the test looks.
		time.Sleep(10 * time.Minute)
		got = c.get("/accounts/apn_github?include_credentials=1").data(t)
		require.Equal(t, stamp(begin.Add(55*time.Minute)), got["last_refreshed_at"])
		require.Equal(t, stamp(begin.Add(115*time.Minute)), got["expires_at"])
		require.Equal(t, second, member[map[string]any](t, got, "credentials")["oauth_access_token"])
	})
}

func TestTokenCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		a := github
		a.TokenLife, a.RefreshBefore = 2*time.Millisecond, time.Millisecond
		s.SetAccount(a)
		first := s.Token(a.ID)
		time.Sleep(50 * 365 * 24 * time.Hour) // 1.6e12 lives: no loop gets through them
		require.NotEqual(t, first, s.Token(a.ID))
		require.Equal(t, 2*time.Millisecond, time.Until(s.ExpiresAt(a.ID)))
	})
}

func TestRefreshBefore(t *testing.T) {
	for name, tt := range map[string]struct{ life, before, period time.Duration }{
		"a twelfth":               {time.Hour, 0, 55 * time.Minute},
		"as documented once":      {time.Hour, 46*time.Minute + 30*time.Second, 13*time.Minute + 30*time.Second},
		"at the end":              {time.Hour, time.Nanosecond, time.Hour},
		"late":                    {time.Hour, -time.Minute, 61 * time.Minute},
		"more than the life":      {time.Hour, 2 * time.Hour, time.Millisecond},
		"finer than the API":      {10 * time.Microsecond, 0, time.Millisecond},
		"in the last 30 seconds":  {10 * time.Minute, 30 * time.Second, 9*time.Minute + 30*time.Second},
		"a twelfth of 20 seconds": {20 * time.Second, 0, 18334 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New()
				s.SetAccount(Account{ID: "apn_x", TokenLife: tt.life, RefreshBefore: tt.before})
				first := s.Token("apn_x")
				time.Sleep(tt.period - time.Microsecond)
				require.Equal(t, first, s.Token("apn_x"))
				time.Sleep(time.Microsecond)
				require.NotEqual(t, first, s.Token("apn_x"))
			})
		})
	}
}

func TestNoRefreshHandsOutTheExpiredToken(t *testing.T) {
	for name, stop := range map[string]func(*Account){
		"no refresh": func(a *Account) { a.NoRefresh = true },
		"dead":       func(a *Account) { a.Dead = true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newServer(t)
				s.SetAccount(github)
				time.Sleep(100 * time.Minute) // in its second token
				token, expires := s.Token("apn_github"), s.ExpiresAt("apn_github")
				s.Update("apn_github", stop)
				time.Sleep(24 * time.Hour)
				got := c.get("/accounts/apn_github?include_credentials=1").data(t)
				require.Equal(t, stamp(expires), got["expires_at"])
				require.Equal(t, token, member[map[string]any](t, got, "credentials")["oauth_access_token"])

				s.Update("apn_github", func(a *Account) { a.NoRefresh, a.Dead = false, false })
				require.NotEqual(t, token, s.Token("apn_github"))
				require.Equal(t, time.Hour, time.Until(s.ExpiresAt("apn_github")))
			})
		})
	}
}

func TestTokensAreUnique(t *testing.T) {
	seen := map[string]bool{}
	unique := func(token string) {
		require.False(t, seen[token], token)
		seen[token] = true
	}
	for range 2 {
		s := New()
		for range 2 {
			s.SetAccount(github)
			for range 3 {
				unique(s.Token("apn_github"))
				s.Rotate("apn_github")
			}
			s.DeleteAccount("apn_github")
		}
	}
	require.Len(t, seen, 12)
}
