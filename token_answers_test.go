package pipedream

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// What a user had is dropped with one call, also what was under way.
func TestForgottenTokens(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		alices := m.value("creds/alices")
		m.role("bobs", map[string]any{"credential_type": "connect_token", "scope": "connect:proxy", "external_user_id": "bob"})
		bobs := m.value("creds/bobs")
		c, err := m.b.connections.get(t.Context(), m.storage)
		require.NoError(t, err)
		c.forgetTokens("alice")
		require.NotEqual(t, alices, m.value("creds/alices"))
		require.Equal(t, bobs, m.value("creds/bobs"))

		time.Sleep(10 * time.Second)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindConnectToken, Times: 1, Delay: 3 * time.Second, Performed: true})
		m.sim.ResetRequests()
		c.forgetTokens("alice")
		var read sync.WaitGroup
		read.Go(func() { alices = m.value("creds/alices") })
		time.Sleep(time.Second)
		c.forgetTokens("alice")
		read.Wait()
		require.Len(t, m.tokenRequests(), 2, "the one under way is of no use")
		require.Equal(t, alices, m.value("creds/alices"))
	})
}

// The life that was asked for counts, whatever time an answer tells. A shorter one
// counts, too.
func TestTheEndOfAToken(t *testing.T) {
	for end, life := range map[string]time.Duration{
		`"1999-01-01T00:00:00Z"`: 15 * time.Minute, // with a clock that is wrong
		`"2999-01-01T00:00:00Z"`: 15 * time.Minute,
		`null`:                   15 * time.Minute,
		`"soon"`:                 15 * time.Minute,
		`"2000-01-01T00:05:00Z"`: 5 * time.Minute, // fake time begins at midnight
	} {
		tokenBubble(t, func(t *testing.T, m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{
				Kind: pipedreamtest.KindConnectToken, Status: http.StatusOK, Body: `{"token":"ctok_0123456789abcdef","expires_at":` + end + `}`,
			})
			resp, err := m.read("creds/alices")
			require.NoError(t, err, end)
			require.Equal(t, life, resp.Secret.TTL, end)
		})
	}
}

// An answer without a token is none.
func TestAnAnswerWithoutAToken(t *testing.T) {
	for _, body := range []string{
		`{}`, `[]`, `null`, `"ctok_1"`, `{"token":""}`, `{"token":null}`, `{"token":1}`, `{"token":"two words"}`, `{"token":"a\nb"}`, `<html>`, ``,
		`{"token":"` + strings.Repeat("x", 5000) + `"}`,
	} {
		tokenBubble(t, func(_ *testing.T, m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindConnectToken, Status: http.StatusOK, Body: body, Empty: body == ""})
			_, err := m.read("creds/alices")
			m.refused(err, http.StatusBadGateway, "no Connect token could be made: Pipedream is not available: its answer could not be understood")
		})
	}
}

// A Connect token of one user opens nothing of another's through any route, however
// much it may do.
func TestAConnectTokenOpensOneUserOnly(t *testing.T) {
	const everything = "connect:proxy,connect:accounts:read,connect:accounts:write,connect:tokens:create,connect:users:write,connect:apps:*"
	tokenBubble(t, func(t *testing.T, m *mount) {
		m.config(map[string]any{"allowed_token_scopes": everything})
		m.role("alices", map[string]any{"scope": strings.ReplaceAll(everything, ",", " ")})
		bearer := m.value("creds/alices")
		send := func(method, path, environment string) (int, string) {
			req, err := http.NewRequestWithContext(t.Context(), method, testBaseURL+path, strings.NewReader(`{"external_user_id":"bob"}`))
			require.NoError(t, err)
			req.Header.Set("Authorization", "Bearer "+bearer)
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("x-pd-environment", environment)
			resp, err := m.sim.Transport().RoundTrip(req)
			require.NoError(t, err)
			defer func() { require.NoError(t, resp.Body.Close()) }()
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			return resp.StatusCode, string(body)
		}
		const target = "/proxy/aHR0cDovLzEyNy4wLjAuMTo5Lw==" // http://127.0.0.1:9/
		for _, environment := range []string{"production", "development", ""} {
			for _, project := range []string{"/connect/" + testProject, "/connect/proj_other", "/connect", "/connect/", ""} {
				for _, route := range []string{
					"/accounts", "/accounts?external_user_id=bob", "/accounts?external_user_id=bob&include_credentials=true", "/accounts?app=github&limit=100",
					"/accounts?external_user_id=", "/accounts?external_user_id=alice&external_user_id=bob", "/accounts?external_user_id=BOB",
					"/accounts/apn_bob", "/accounts/apn_bob?include_credentials=true", "/accounts/apn_bob?external_user_id=alice", "/accounts/apn_bob?external_user_id=bob",
					"/users/bob", "/users/bob/accounts", "/users/bob/accounts?external_user_id=alice", "/users/me", "/oauth_apps", "/tokens", "/oauth/token",
					target + "?external_user_id=bob&account_id=apn_bob", target + "?external_user_id=alice&account_id=apn_bob",
					target + "?external_user_id=bob&account_id=apn_alice", target + "?account_id=apn_bob", target + "?external_user_id=bob",
				} {
					for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
						status, body := send(method, project+route, environment)
						require.NotContains(t, body, "apn_bob", "%s %s%s (%d)", method, project, route, status)
						require.NotContains(t, body, m.sim.Token("apn_bob"))
						require.NotContains(t, body, "ctok_", "another token, by %s %s%s", method, project, route)
					}
				}
			}
		}
		require.NotEmpty(t, m.sim.Token("apn_bob"), "bob's account is still there")
		m.offTheMap = true // these requests are not the engine's
	})
}
