package pipedreamtest

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAConnectTokenReadsTheAccountsOfItsUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		for _, a := range append(neighbours, alice) {
			s.SetAccount(a)
		}
		b := c.bearer(s, "alice", "")
		for _, path := range []string{"/connect/proj_a/accounts", "/connect/proj_a/accounts?external_user_id=alice", "/connect/accounts"} {
			ids, info := listed(t, b.connect(path))
			require.Equal(t, []string{"apn_alice"}, ids, path)
			require.EqualValues(t, 1, info["total_count"], path)
		}
		for _, path := range []string{
			"/connect/proj_a/accounts/apn_alice", "/connect/accounts/apn_alice",
			"/connect/proj_a/users/alice/accounts", "/connect/users/alice/accounts",
		} {
			r := b.connect(path)
			require.Equal(t, http.StatusOK, r.status, path)
			require.Contains(t, r.body, "apn_alice", path)
			require.NotContains(t, r.body, "apn_bob", path)
		}
		require.Empty(t, s.Violations())
	})
}

// TestAConnectTokenOpensNothingElse tries the token of one user on everything of others.
func TestAConnectTokenOpensNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		for _, a := range append(neighbours, alice) {
			s.SetAccount(a)
		}
		b := c.bearer(s, "alice", "")
		to := "/proxy/aHR0cDovLzEyNy4wLjAuMTox?external_user_id=" // http://127.0.0.1:1
		for path, status := range map[string]int{
			"/connect/proj_a/accounts/apn_bob":                     http.StatusNotFound,
			"/connect/accounts/apn_bob":                            http.StatusNotFound,
			"/connect/proj_a/accounts/apn_alice2":                  http.StatusNotFound,
			"/connect/proj_a/accounts/apn_alice3":                  http.StatusNotFound,
			"/connect/proj_a/accounts/apn_work":                    http.StatusNotFound,
			"/connect/proj_a/accounts?external_user_id=bob":        http.StatusForbidden,
			"/connect/proj_a/users/bob/accounts":                   http.StatusForbidden,
			"/connect/users/bob/accounts":                          http.StatusForbidden,
			"/connect/proj_b/accounts":                             http.StatusForbidden,
			"/connect/proj_b/accounts/apn_alice2":                  http.StatusForbidden,
			"/connect/proj_a" + to + "bob&account_id=apn_bob":      http.StatusForbidden,
			"/connect/proj_a" + to + "alice&account_id=apn_bob":    http.StatusBadRequest,
			"/connect/" + to + "alice&account_id=apn_bob":          http.StatusBadRequest,
			"/connect/proj_a" + to + "alice&account_id=apn_work":   http.StatusNotFound,
			"/connect/proj_b" + to + "alice&account_id=apn_alice2": http.StatusForbidden,
			"/accounts":                  http.StatusUnauthorized,
			"/accounts/apn_work":         http.StatusUnauthorized,
			"/users/me":                  http.StatusUnauthorized,
			"/oauth_apps":                http.StatusUnauthorized,
			"/connect/proj_a/oauth_apps": http.StatusForbidden,
		} {
			r := b.connect(path)
			r.failed(t, status)
			for _, a := range neighbours {
				require.NotContains(t, r.body, a.ID)
			}
		}
		b.get("/connect/proj_a/accounts", "x-pd-environment", "development").failed(t, http.StatusForbidden)
		b.get("/connect/proj_a/accounts").failed(t, http.StatusBadRequest)
		b.connectToken(`{"external_user_id":"alice"}`).failed(t, http.StatusForbidden)
		b.delete("/connect/proj_a/accounts/apn_alice").failed(t, http.StatusForbidden)
		b.delete("/connect/proj_a/users/alice").failed(t, http.StatusForbidden)
		still(t, s, "apn_alice", "apn_bob", "apn_alice2", "apn_alice3", "apn_work")
	})
}

// TestPathsWithoutAProject are for Connect tokens alone.
func TestPathsWithoutAProject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(alice)
		w := c.workspace(s)
		for _, path := range []string{"/connect/accounts", "/connect/accounts/apn_alice", "/connect/users/alice/accounts", "/connect//proxy/aHR0"} {
			w.connect(path).failed(t, http.StatusNotFound)
			c.connect(path).failed(t, http.StatusNotFound)
			require.Equal(t, KindOther, s.Requests()[len(s.Requests())-1].Kind)
		}
	})
}

func TestConnectTokenCredentials(t *testing.T) {
	for name, tt := range map[string]struct {
		options []Option
		want    bool
	}{
		"by default":          {nil, false},
		"where it gives them": {[]Option{WithConnectTokenCredentials()}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newServer(t, tt.options...)
				s.SetAccount(alice)
				b := c.bearer(s, "alice", "")
				for _, path := range []string{"/connect/proj_a/accounts", "/connect/proj_a/accounts/apn_alice", "/connect/proj_a/users/alice/accounts"} {
					r := b.connect(path + "?include_credentials=true")
					require.Equal(t, http.StatusOK, r.status)
					require.Equal(t, tt.want, strings.Contains(r.body, s.Token("apn_alice")), path)
				}
				log := s.Requests()
				require.True(t, log[len(log)-1].WithCredentials, "it asked for them")
			})
		})
	}
}

func TestConnectTokenScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(alice)
		const proxy = "/connect/proj_a/proxy/bm8?external_user_id=alice&account_id=apn_alice" // no URL: 400
		for scope, want := range map[string][2]int{
			"connect:*":              {200, 400},
			"connect:accounts:*":     {200, 403},
			"connect:accounts:read":  {200, 403},
			"connect:accounts:write": {403, 403},
			"connect:proxy":          {403, 400},
			"connect:apps:* connect:accounts:read connect:proxy": {200, 400},
		} {
			b := c.bearer(s, "alice", `,"scope":"`+scope+`"`)
			require.Equal(t, want[0], b.connect("/connect/proj_a/accounts").status, scope)
			require.Equal(t, want[1], b.connect(proxy).status, scope)
		}
		c.workspace(s).connectToken(`{"external_user_id":"alice","scope":"*"}`).failed(t, http.StatusBadRequest)
	})
}

func TestConnectTokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(alice)
		status := func(c caller) int { return c.connect("/connect/proj_a/accounts/apn_alice").status }
		short, long := c.bearer(s, "alice", `,"expires_in":60`), c.bearer(s, "alice", "")
		for range 3 {
			require.Equal(t, http.StatusOK, status(short), "it works for any number of requests")
		}
		time.Sleep(time.Minute - time.Millisecond)
		require.Equal(t, http.StatusOK, status(short))
		time.Sleep(time.Millisecond)
		require.Equal(t, http.StatusUnauthorized, status(short))
		require.Equal(t, http.StatusUnauthorized, status(c.as("ctok_"+strings.Repeat("0", 32))))
		time.Sleep(4*time.Hour - time.Minute - time.Millisecond)
		require.Equal(t, http.StatusOK, status(long))
		time.Sleep(time.Millisecond)
		require.Equal(t, http.StatusUnauthorized, status(long))
	})
}

// TestAConnectTokenEndsWithTheAccountThatItConnects as the SDK's client for browsers expects.
func TestAConnectTokenEndsWithTheAccountThatItConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		link := newLink(t, s, c, "")
		_, token, _ := strings.Cut(link, "token=")
		token, _, _ = strings.Cut(token, "&")
		require.Equal(t, http.StatusOK, c.as(token).connect("/connect/proj_a/accounts").status)
		_, err := s.Click(link + "&app=github")
		require.NoError(t, err)
		c.as(token).connect("/connect/proj_a/accounts").failed(t, http.StatusUnauthorized)
	})
}
