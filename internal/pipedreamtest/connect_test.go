package pipedreamtest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const connectTokens = "/connect/proj_a/tokens"

func TestConnectToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		r := c.scoped(s, "connect:tokens:create").connectToken(`{"external_user_id":"alice"}`)
		require.Equal(t, http.StatusOK, r.status, r.body)
		got := r.object(t)
		require.Len(t, got, 3)
		token := member[string](t, got, "token")
		require.Regexp(t, `^ctok_[0-9a-f]{32}$`, token)
		require.Equal(t, stamp(time.Now().Add(4*time.Hour)), got["expires_at"])
		require.Equal(t, "http://api.pipedream.com/_static/connect.html?token="+token+"&connectLink=true", got["connect_link_url"])
		require.Contains(t, s.Secrets(), token)
		require.Empty(t, s.Violations())
		require.Equal(t, 1, s.Count(KindConnectToken))

		log := s.Requests()
		require.True(t, log[len(log)-1].Authorized)
		require.Zero(t, MostPerMinute(log), "it does not count as a request for accounts")
	})
}

func TestConnectTokenWithEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		r := c.workspace(s).connectToken(`{
			"external_user_id": "alice", "app_id": "github", "oauth_app_id": "oa_aPXiQd", "expires_in": 900,
			"scope": "connect:accounts:read connect:accounts:write connect:apps:*",
			"success_redirect_uri": "https://example.com/done", "error_redirect_uri": "https://example.com/failed",
			"webhook_uri": "https://example.com/hook", "allowed_origins": ["https://example.com"], "allow_progressive_scopes": true
		}`)
		require.Equal(t, http.StatusOK, r.status, r.body)
		require.Equal(t, stamp(time.Now().Add(15*time.Minute)), r.object(t)["expires_at"])
		require.Empty(t, s.Violations())
	})
}

func TestConnectTokensAreUnique(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		w := c.workspace(s)
		seen := map[string]bool{}
		for range 10 {
			seen[member[string](t, w.connectToken(`{"external_user_id":"alice"}`).object(t), "token")] = true
		}
		require.Len(t, seen, 10)
	})
}

func TestWhoMayCreateConnectTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		const body = `{"external_user_id":"alice"}`
		for scope, status := range map[string]int{
			"": 200, "*": 200, "connect:*": 200, "connect:tokens:create": 200, "connect:tokens:*": 200,
			"connect:accounts:read": 403, "connect:accounts:write": 403,
		} {
			require.Equal(t, status, c.scoped(s, scope).connectToken(body).status, scope)
		}
		c.connectToken(body).failed(t, http.StatusUnauthorized) // a user API key
		c.as("").connectToken(body).failed(t, http.StatusUnauthorized)
		c.workspace(s).get(connectTokens, "x-pd-environment", "production").failed(t, http.StatusMethodNotAllowed)

		// A scope that creates tokens does not read accounts.
		c.scoped(s, "connect:tokens:create").connect("/connect/proj_a/accounts").failed(t, http.StatusForbidden)
	})
}

func TestConnectTokenRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		w := c.workspace(s)
		for _, body := range []string{
			``, `[]`, `{`, `{}`,
			`{"external_user_id":""}`,
			`{"external_user_id":7}`,
			`{"external_user_id":"` + strings.Repeat("a", 251) + `"}`,
			`{"external_user_id":"alice","expires_in":0}`,
			`{"external_user_id":"alice","expires_in":14401}`,
			`{"external_user_id":"alice","expires_in":"900"}`,
			`{"external_user_id":"alice","expires_in":0.5}`,
			`{"external_user_id":"alice","scope":"everything"}`,
			`{"external_user_id":"alice","oauth_app_id":"app_OrZhaO"}`,
			`{"external_user_id":"alice","success_redirect_uri":"/done"}`,
			`{"external_user_id":"alice","error_redirect_uri":"https:"}`,
			`{"external_user_id":"alice","allowed_origins":"https://example.com"}`,
		} {
			w.connectToken(body).failed(t, http.StatusBadRequest)
		}
		const good = `{"external_user_id":"alice"}`
		w.do(t.Context(), http.MethodPost, connectTokens, good, "x-pd-environment", "production").failed(t, http.StatusBadRequest)
		w.do(t.Context(), http.MethodPost, connectTokens, good, "Content-Type", mediaJSON).failed(t, http.StatusBadRequest)
		w.do(t.Context(), http.MethodPost, connectTokens, good, "Content-Type", mediaJSON, "x-pd-environment", "staging").failed(t, http.StatusBadRequest)

		longest, err := json.Marshal(map[string]any{"external_user_id": strings.Repeat("é", 250), "expires_in": 14400})
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, w.connectToken(string(longest)).status)
	})
}

func TestConnectTokenLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		w := c.workspace(s)
		create := func(user string) reply { return w.connectToken(`{"external_user_id":"` + user + `"}`) }
		for range 100 {
			require.Equal(t, http.StatusOK, create("alice").status)
		}
		r := create("alice")
		r.failed(t, http.StatusTooManyRequests)
		require.JSONEq(t, `{"error":"Throttled"}`, r.body)
		require.Equal(t, "60", r.header.Get("Retry-After"))
		require.Equal(t, http.StatusOK, create("bob").status, "each user has a separate limit")
		require.Equal(t, http.StatusOK, w.connect("/connect/proj_a/accounts").status)
		time.Sleep(time.Minute)
		require.Equal(t, http.StatusOK, create("alice").status)
	})
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithTokenLimit(1), WithLimit(1))
		w := c.workspace(s)
		w.connectToken(`{"external_user_id":"alice","expires_in":0}`).failed(t, http.StatusBadRequest)
		require.Equal(t, http.StatusOK, w.connectToken(`{"external_user_id":"alice"}`).status)
		w.connectToken(`{"external_user_id":"alice"}`).failed(t, http.StatusTooManyRequests)
		require.Equal(t, http.StatusOK, w.connect("/connect/proj_a/accounts").status)
	})
}

func TestFaultOfConnectTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		w := c.workspace(s)
		s.AddFault(Fault{Kind: KindConnectToken, Status: 503, Times: 1})
		w.connectToken(`{"external_user_id":"alice"}`).failed(t, http.StatusServiceUnavailable)
		require.Equal(t, http.StatusOK, w.connectToken(`{"external_user_id":"alice"}`).status)
	})
}
