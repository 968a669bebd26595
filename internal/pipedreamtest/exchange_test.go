package pipedreamtest

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestMe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newServer(t)
		r := c.get("/users/me")
		require.Equal(t, "application/json; charset=utf-8", r.header.Get("Content-Type"))
		got := r.data(t)
		require.NotEmpty(t, got["id"])
		require.NotEmpty(t, got["username"])
	})
}

func TestMethods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetOAuthClient("client", "client_secret", 0)
		for _, path := range []string{"/users/me", "/accounts", "/accounts/apn_x"} {
			c.do(t.Context(), http.MethodPost, path, "").failed(t, http.StatusMethodNotAllowed)
			c.do(t.Context(), http.MethodDelete, path, "").failed(t, http.StatusMethodNotAllowed)
		}
		c.do(t.Context(), http.MethodPut, "/oauth/token",
			`{"grant_type":"client_credentials","client_id":"client","client_secret":"client_secret"}`,
			"Content-Type", "application/json").failed(t, http.StatusMethodNotAllowed)
	})
}

func TestEnvironmentHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(alice)
		w := c.workspace(s)
		for _, path := range []string{"/connect/proj_a/accounts", "/connect/proj_a/accounts/apn_alice"} {
			w.get(path).failed(t, http.StatusBadRequest)
			w.get(path, "x-pd-environment", "staging").failed(t, http.StatusBadRequest)
			require.Equal(t, http.StatusOK, w.get(path, "x-pd-environment", "production").status)
		}
		require.Equal(t, http.StatusOK, w.get("/accounts").status) // REST paths need none
	})
}

func TestIncludeCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(stripe)
		for query, want := range map[string]bool{
			"":                           false,
			"?include_credentials=1":     true,
			"?include_credentials=true":  true,
			"?include_credentials=0":     false,
			"?include_credentials=false": false,
			"?include_credentials=":      false,
			"?include_credentials=yes":   false,
		} {
			require.Equal(t, want, c.get("/accounts/apn_stripe" + query).data(t)["credentials"] != nil, query)
		}
	})
}
