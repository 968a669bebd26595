package pipedreamtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// still checks that these accounts, and no others, are there.
func still(t *testing.T, s *Server, ids ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var there []string
	for id := range s.accounts {
		there = append(there, id)
	}
	require.ElementsMatch(t, ids, there)
}

func TestDisconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		for _, a := range append(neighbours, alice) {
			s.SetAccount(a)
		}
		w := c.workspace(s)
		token := s.Token("apn_alice")
		r := w.delete("/connect/proj_a/accounts/apn_alice")
		require.Equal(t, http.StatusNoContent, r.status)
		require.Empty(t, r.body)
		require.Empty(t, r.header.Get("Content-Type"))
		require.Equal(t, 1, s.Count(KindDelete))
		require.Equal(t, "apn_alice", s.Requests()[1].AccountID)

		w.connect("/connect/proj_a/accounts/apn_alice").failed(t, http.StatusNotFound)
		w.delete("/connect/proj_a/accounts/apn_alice").failed(t, http.StatusNotFound)
		require.NotContains(t, w.connect("/connect/proj_a/accounts?include_credentials=true").body, token)
		still(t, s, "apn_bob", "apn_alice2", "apn_alice3", "apn_work")
		require.Empty(t, s.Violations())

		// What is elsewhere cannot be named.
		for _, id := range []string{"apn_alice2", "apn_alice3", "apn_work", "apn_none"} {
			w.delete("/connect/proj_a/accounts/"+id).failed(t, http.StatusNotFound)
		}
		w.do(t.Context(), http.MethodDelete, "/connect/proj_a/accounts/apn_bob", "").failed(t, http.StatusBadRequest)
		c.delete("/connect/proj_a/accounts/apn_bob").failed(t, http.StatusUnauthorized) // a user API key
		still(t, s, "apn_bob", "apn_alice2", "apn_alice3", "apn_work")
	})
}

func TestRemoveUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		second := alice
		second.ID, second.App = "apn_alice4", stripe.App
		for _, a := range append(neighbours, alice, second) {
			s.SetAccount(a)
		}
		tokenOf := func(user string) caller { return c.bearer(s, user, "") }
		alices, bobs := tokenOf("alice"), tokenOf("bob")
		w := c.workspace(s)
		elsewhere := w.do(t.Context(), http.MethodPost, "/connect/proj_b/tokens", `{"external_user_id":"alice"}`, "Content-Type", mediaJSON, "x-pd-environment", "production")
		r := w.delete("/connect/proj_a/users/alice")
		require.Equal(t, http.StatusNoContent, r.status)
		require.Empty(t, r.body)
		still(t, s, "apn_bob", "apn_alice2", "apn_alice3", "apn_work")
		alices.connect("/connect/proj_a/accounts").failed(t, http.StatusUnauthorized)
		require.Equal(t, http.StatusOK, bobs.connect("/connect/proj_a/accounts").status)
		require.Equal(t, http.StatusOK, c.as(member[string](t, elsewhere.object(t), "token")).connect("/connect/proj_b/accounts").status)

		w.delete("/connect/proj_a/users/alice").failed(t, http.StatusNotFound)
		w.delete("/connect/proj_c/users/bob").failed(t, http.StatusNotFound)
		w.delete("/connect/proj_a/users/"+strings.Repeat("a", 251)).failed(t, http.StatusBadRequest)
		still(t, s, "apn_bob", "apn_alice2", "apn_alice3", "apn_work")

		// Whoever has a token alone is a user too.
		odd := "acme:1/../é %2F"
		raw, err := json.Marshal(odd)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, w.connectToken(`{"external_user_id":`+string(raw)+`}`).status)
		require.Equal(t, http.StatusNoContent, w.delete("/connect/proj_a/users/"+url.PathEscape(odd)).status)
		w.delete("/connect/proj_a/users/"+url.PathEscape(odd)).failed(t, http.StatusNotFound)
	})
}

// TestAnIDIsNotUsedAgain: a new account gets another id and other credentials than the one that was disconnected.
func TestAnIDIsNotUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		click := func() string {
			id, err := s.Click(newLink(t, s, c, "") + "&app=github&oauthAppId=oa_x")
			require.NoError(t, err)
			return id
		}
		first := click()
		require.Equal(t, http.StatusNoContent, c.workspace(s).delete("/connect/proj_a/accounts/"+first).status)
		require.NotEqual(t, first, click())
		_, err := s.Click(newLink(t, s, c, "") + "&app=github&accountId=" + first)
		require.ErrorIs(t, err, errLinkAccount, "what was disconnected cannot be reconnected")
	})
}

func TestDeletesCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithConnectLimit(3, limitSpan))
		s.SetAccount(alice)
		w := c.workspace(s)
		w.delete("/connect/proj_a/accounts/apn_none").failed(t, http.StatusNotFound)
		w.delete("/connect/proj_a/users/nobody").failed(t, http.StatusNotFound)
		require.Equal(t, http.StatusOK, w.connect("/connect/proj_a/users/alice/accounts").status)
		r := w.delete("/connect/proj_a/accounts/apn_alice")
		r.failed(t, http.StatusTooManyRequests)
		require.JSONEq(t, `{"error":"Throttled"}`, r.body)
		still(t, s, "apn_alice")
		require.Equal(t, 4, MostPerMinute(s.Requests()))
	})
}

// TestFaultsOfDeletes: a fault alone keeps the request from being carried out. With Performed, it is carried out, and
// the client does not learn of it.
func TestFaultsOfDeletes(t *testing.T) {
	for name, fault := range map[string]Fault{
		"a gateway":        {Status: http.StatusBadGateway},
		"a cut connection": {Cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newServer(t)
				s.SetAccount(alice)
				w := c.workspace(s)
				fault.Kind, fault.Times = KindDelete, 1
				s.AddFault(fault)
				r := w.delete("/connect/proj_a/accounts/apn_alice")
				require.True(t, r.err != nil || r.status == http.StatusBadGateway)
				still(t, s, "apn_alice")

				fault.Performed = true
				s.AddFault(fault)
				r = w.delete("/connect/proj_a/accounts/apn_alice")
				require.True(t, r.err != nil || r.status == http.StatusBadGateway)
				still(t, s)
			})
		})
	}
}

func TestUserAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		second := alice
		second.ID, second.App, second.OAuthAppID = "apn_alice4", stripe.App, "oa_x"
		for _, a := range append(neighbours, alice, second) {
			s.SetAccount(a)
		}
		w := c.workspace(s)
		ids := func(path string) (ids []string) {
			r := w.connect(path)
			require.Equal(t, http.StatusOK, r.status, r.body)
			var list []map[string]any
			require.NoError(t, json.Unmarshal([]byte(r.body), &list), "a bare list")
			for _, a := range list {
				ids = append(ids, member[string](t, a, "id"))
			}
			return ids
		}
		require.Equal(t, []string{"apn_alice", "apn_alice4"}, ids("/connect/proj_a/users/alice/accounts"))
		require.Equal(t, []string{"apn_alice4"}, ids("/connect/proj_a/users/alice/accounts?app=stripe"))
		require.Empty(t, ids("/connect/proj_a/users/nobody/accounts"))
		require.NotContains(t, w.connect("/connect/proj_a/users/alice/accounts").body, s.Token("apn_alice"))
		require.Contains(t, w.connect("/connect/proj_a/users/alice/accounts?include_credentials=true").body, s.Token("apn_alice"))
		require.Empty(t, s.Violations())
		w.connect("/connect/proj_a/users/"+strings.Repeat("a", 251)+"/accounts").failed(t, http.StatusBadRequest)
		require.Equal(t, []string{"GET /v1/connect/{project}/users/{user}/accounts: the user has more than 250 characters"}, s.Violations())
	})
}

func TestTooManyUserAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		w := c.workspace(s)
		for i := range 101 {
			if i == 100 {
				require.Equal(t, http.StatusOK, w.connect("/connect/proj_a/users/alice/accounts").status)
			}
			a := alice
			a.ID = fmt.Sprintf("apn_%03d", i)
			s.SetAccount(a)
		}
		w.connect("/connect/proj_a/users/alice/accounts").failed(t, http.StatusRequestEntityTooLarge)
	})
}

func TestDevelopmentHasRoomForTenUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		create := func(environment string, n int) int {
			body := fmt.Sprintf(`{"external_user_id":"user-%d"}`, n)
			return c.workspace(s).do(t.Context(), http.MethodPost, connectTokens, body, "Content-Type", mediaJSON, "x-pd-environment", environment).status
		}
		s.SetAccount(neighbours[2]) // alice is the first
		for n := range 9 {
			require.Equal(t, http.StatusOK, create("development", n))
		}
		require.Equal(t, http.StatusBadRequest, create("development", 9))
		require.Equal(t, http.StatusOK, create("development", 3), "who is there already can get more tokens")
		require.Equal(t, http.StatusOK, create("production", 9))

		w := c.workspace(s)
		require.Equal(t, http.StatusNoContent, w.do(t.Context(), http.MethodDelete, "/connect/proj_a/users/user-3", "", "x-pd-environment", "development").status)
		require.Equal(t, http.StatusOK, create("development", 9))
	})
}
