package pipedreamtest

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		require.Equal(t, http.StatusOK, c.as("pd_test_key").get("/users/me").status)
		for range 100 {
			require.Equal(t, http.StatusOK, c.get("/accounts").status)
		}
		c.get("/accounts").failed(t, http.StatusTooManyRequests)
		require.Equal(t, http.StatusOK, c.workspace(s).connect("/connect/proj_a/accounts").status, "Connect has a limit of its own")
	})
}

func TestOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newServer(t, WithAPIKey("another_key"), WithLimit(0))
		c.get("/users/me").failed(t, http.StatusUnauthorized)
		c = c.as("another_key")
		require.Equal(t, http.StatusOK, c.get("/users/me").status)
		for range 200 {
			require.Equal(t, http.StatusOK, c.get("/accounts").status)
		}
	})
}

func TestNotFoundAs200(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newServer(t, WithNotFoundAs200())
		r := c.get("/accounts/apn_none")
		require.Equal(t, http.StatusOK, r.status)
		require.JSONEq(t, `{"error":"record not found"}`, r.body)
	})
}

func TestServeHTTPWithoutServer(t *testing.T) {
	s := New()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/users/me", nil)
	r.Header.Set("Authorization", "Bearer pd_test_key")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code)

	s.Close()
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { s.ServeHTTP(httptest.NewRecorder(), r) })
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		var wg sync.WaitGroup
		for _, f := range []func(){
			func() { c.get("/accounts/apn_github?include_credentials=1") },
			func() { c.get("/accounts?include_credentials=1") },
			func() { c.token("client", "client_secret", "") },
			func() { s.SetAccount(github) },
			func() { s.Update("apn_github", func(a *Account) { a.Unhealthy = true }) },
			func() { s.Rotate("apn_github") },
			func() { s.Token("apn_github") },
			func() { s.ExpiresAt("apn_github") },
			func() { s.DeleteAccount("apn_other") },
			func() { s.SetAPIKey("pd_test_key") },
			func() { s.SetLimit(100) },
			func() { s.SetOAuthClient("client", "client_secret", 0) },
			func() { s.RevokeAccessTokens() },
			func() { s.AddFault(Fault{Status: 500, Times: 1})() },
			func() { s.Requests() },
			func() { s.ResetRequests() },
			func() { s.Count("") },
			func() { s.Secrets() },
			func() { s.Violations() },
			func() { _, _ = s.Click(linkPath) },
			func() { s.Transport() },
		} {
			wg.Go(func() {
				for range 20 {
					f()
				}
			})
		}
		wg.Wait()
	})
}
