package pipedreamtest

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestAllowedOrigins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(alice)
		with, without := c.bearer(s, "alice", `,"allowed_origins":["https://app.example.com","http://localhost:3000/"]`), c.bearer(s, "alice", "")
		from := func(c caller, origin string) reply {
			return c.get("/connect/proj_a/accounts", "x-pd-environment", "production", "Origin", origin)
		}
		for _, origin := range []string{"https://app.example.com", "http://localhost:3000"} {
			r := from(with, origin)
			require.Equal(t, http.StatusOK, r.status)
			require.Equal(t, origin, r.header.Get("Access-Control-Allow-Origin"))
			require.Equal(t, "Origin", r.header.Get("Vary"))
			from(without, origin).failed(t, http.StatusForbidden)
		}
		for _, origin := range []string{"https://evil.example.com", "http://app.example.com", "https://app.example.com.evil.example.com", "null"} {
			r := from(with, origin)
			r.failed(t, http.StatusForbidden)
			require.Empty(t, r.header.Get("Access-Control-Allow-Origin"))
		}
		r := with.connect("/connect/proj_a/accounts")
		require.Equal(t, http.StatusOK, r.status, "a request that no web page sent")
		require.Empty(t, r.header.Get("Access-Control-Allow-Origin"))
	})
}

func TestPreflight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		r := c.as("").do(t.Context(), http.MethodOptions, "/connect/accounts", "",
			"Origin", "https://app.example.com", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization")
		require.Equal(t, http.StatusNoContent, r.status)
		require.Equal(t, "https://app.example.com", r.header.Get("Access-Control-Allow-Origin"))
		require.Equal(t, "authorization", r.header.Get("Access-Control-Allow-Headers"))
		require.Contains(t, r.header.Get("Access-Control-Allow-Methods"), "DELETE")
		require.Zero(t, s.Count(""), "it is no request of the API")
	})
}
