package pipedreamtest

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// TestScopeOfEachOperation sends each operation of Connect with each scope. Only those that include the documented one
// get past the check.
func TestScopeOfEachOperation(t *testing.T) {
	const target = "aHR0cDovLzE5Mi4wLjIuMQ" // http://192.0.2.1, which the proxy refuses later
	operations := map[string][]string{
		"GET /connect/proj_a/accounts":                                                        {"connect:accounts:read"},
		"GET /connect/proj_a/accounts/apn_x":                                                  {"connect:accounts:read"},
		"GET /connect/proj_a/users/alice/accounts":                                            {"connect:accounts:read"},
		"DELETE /connect/proj_a/accounts/apn_x":                                               {"connect:accounts:write"},
		"DELETE /connect/proj_a/users/alice":                                                  {"connect:users:write"},
		"POST /connect/proj_a/tokens":                                                         {"connect:tokens:create"},
		"GET /connect/proj_a/oauth_apps":                                                      nil,
		"PUT /connect/proj_a/proxy/" + target + "?external_user_id=alice&account_id=apn_x":    {"connect:proxy"},
		"DELETE /connect/proj_a/proxy/" + target + "?external_user_id=alice&account_id=apn_x": {"connect:proxy"},
	}
	families := map[string]string{
		"connect:accounts:read": "connect:accounts:*", "connect:accounts:write": "connect:accounts:*",
		"connect:users:write": "connect:users:*", "connect:tokens:create": "connect:tokens:*", "connect:proxy": "connect:proxy",
	}
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		for operation, scopes := range operations {
			allowed := map[string]bool{"": true, "*": true, "connect:*": true}
			for _, scope := range scopes {
				allowed[scope], allowed[families[scope]] = true, true
			}
			for _, scope := range []string{
				"", "*", "connect:*", "connect:accounts:*", "connect:accounts:read", "connect:accounts:write", "connect:apps:*",
				"connect:proxy", "connect:tokens:*", "connect:tokens:create", "connect:users:*", "connect:users:read", "connect:users:write",
			} {
				method, path, _ := strings.Cut(operation, " ")
				r := c.scoped(s, scope).do(t.Context(), method, path, "", "x-pd-environment", "production")
				require.NoError(t, r.err)
				require.Equal(t, !allowed[scope], r.status == http.StatusForbidden, "%s with %q: %d", operation, scope, r.status)
			}
		}
	})
}

func TestScopesThatExist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetOAuthClient("client", "client_secret", 0)
		for scope, status := range map[string]int{
			"connect:apps:*": 200, "connect:proxy": 200, "connect:accounts:read connect:apps:*": 200,
			"connect:apps:read": 400, "apps": 400, "connect": 400,
		} {
			require.Equal(t, status, c.token("client", "client_secret", scope).status, scope)
			require.Equal(t, status, c.workspace(s).connectToken(`{"external_user_id":"alice","scope":"`+scope+`"}`).status, scope)
		}
	})
}

func TestEachMethodIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		w := c.workspace(s)
		for path, method := range map[string]string{
			"/connect/proj_a/accounts":             http.MethodDelete,
			"/connect/proj_a/accounts/apn_x":       http.MethodPut,
			"/connect/proj_a/users/alice":          http.MethodGet,
			"/connect/proj_a/users/alice/accounts": http.MethodDelete,
			"/connect/proj_a/oauth_apps":           http.MethodPost,
			"/connect/proj_a/proxy/aHR0":           http.MethodHead,
			"/accounts/apn_x":                      http.MethodDelete,
		} {
			r := w.do(t.Context(), method, path, "", "x-pd-environment", "production")
			require.Equal(t, http.StatusMethodNotAllowed, r.status, path)
		}
	})
}
