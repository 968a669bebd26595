package sdk

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// browserOf returns the SDK's client for browsers with a Connect token for alice that has this scope. It knows neither
// the project nor the workspace's client.
func browserOf(t *testing.T, client *Client, name, scope string) *Client {
	t.Helper()
	token := Decode[map[string]any](t, client.Call(t, "tokens.create", map[string]any{"externalUserId": "alice", "scope": scope}))["token"]
	text, ok := token.(string)
	require.True(t, ok)
	return client.program.Client(name, Options{BaseURL: client.options.BaseURL, Environment: "production", ExternalUserID: "alice", ConnectToken: text})
}

// refusedWith checks that a call failed with this status.
func refusedWith(t *testing.T, status int, r Result) {
	t.Helper()
	require.NotNil(t, r.Error)
	require.Equal(t, status, r.Error.Status, r.Error.Message)
}

// twoUsers adds two accounts of alice and one of bob. They come without credentials.
func twoUsers(sim *pipedreamtest.Server) {
	bare := func(user string) func(*pipedreamtest.Account) {
		return func(a *pipedreamtest.Account) { a.TokenLife, a.NoCredentials, a.ExternalUserID = time.Hour, true, user }
	}
	sim.SetAccount(account("apn_alice", github, bare("alice")))
	sim.SetAccount(account("apn_alice2", github, bare("alice")))
	sim.SetAccount(account("apn_bob", github, bare("bob")))
}

func TestDisconnecting(t *testing.T) {
	sim, client := setUp(t)
	twoUsers(sim)
	require.Nil(t, client.Call(t, "accounts.delete", "apn_alice").Error)
	refusedWith(t, http.StatusNotFound, client.Call(t, "accounts.retrieve", "apn_alice"))
	refusedWith(t, http.StatusNotFound, client.Call(t, "accounts.delete", "apn_alice"))
	require.Equal(t, []string{"apn_alice2"}, ids(t, client.Call(t, "accounts.listByExternalUser", "alice")))

	require.Nil(t, client.Call(t, "users.deleteExternalUser", "alice").Error)
	refusedWith(t, http.StatusNotFound, client.Call(t, "users.deleteExternalUser", "alice"))
	require.Equal(t, []string{"apn_bob"}, ids(t, client.Iterate(t, "accounts.list", map[string]any{})))
}

// TestOddUserIDs: the SDK escapes each of them, and the simulator reads what it meant.
func TestOddUserIDs(t *testing.T) {
	sim, client := setUp(t)
	for _, user := range []string{"acme:1", "a/b", "a b", "é%2F", "..", "a?b#c", "accounts"} {
		sim.SetAccount(account("apn_odd", github, func(a *pipedreamtest.Account) { a.ExternalUserID = user }))
		got := client.Call(t, "accounts.listByExternalUser", user)
		if user == ".." {
			require.NotNil(t, got.Error, "the SDK cannot send it")
			continue
		}
		require.Equal(t, []string{"apn_odd"}, ids(t, got), user)
		require.Nil(t, client.Call(t, "users.deleteExternalUser", user).Error, user)
		refusedWith(t, http.StatusNotFound, client.Call(t, "accounts.retrieve", "apn_odd"))
	}
}

func TestOAuthApps(t *testing.T) {
	sim, client := setUp(t)
	sim.SetAccount(account("apn_own", github, func(a *pipedreamtest.Account) { a.TokenLife, a.OAuthAppID = time.Hour, "oa_aPXiQd" }))
	apps := Decode[[]map[string]any](t, client.Iterate(t, "oauthApps.list", map[string]any{"app": "github"}))
	require.Len(t, apps, 1)
	require.Equal(t, "oa_aPXiQd", apps[0]["id"])
	require.Equal(t, "github", apps[0]["nameSlug"])
	require.NotEmpty(t, apps[0]["clientId"])
	require.IsType(t, map[string]any{}, apps[0]["createdAt"])
}

// echo is an app that tells what reached it.
func echo(t *testing.T) *httptest.Server {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"method": r.Method, "query": r.URL.RawQuery, "authorization": r.Header.Get("Authorization"),
			"custom": r.Header.Get("X-Custom"), "body": string(body),
		})
	}))
	t.Cleanup(app.Close)
	return app
}

// TestProxy calls an app with each method, with a token of the workspace and with a Connect token. Nobody has the
// account's credentials.
func TestProxy(t *testing.T) {
	sim, client := setUp(t)
	twoUsers(sim)
	app := echo(t)
	for name, who := range map[string]*Client{"workspace": client, "browser": browserOf(t, client, "proxy", "connect:proxy")} {
		for _, method := range []string{"get", "post", "put", "patch", "delete"} {
			t.Run(name+" "+method, func(t *testing.T) {
				request := map[string]any{
					"url": app.URL + "/items", "params": map[string]any{"q": "a b~?>ÿ"}, "headers": map[string]any{"X-Custom": "yes"},
					"externalUserId": "alice", "accountId": "apn_alice",
				}
				body := ""
				if method != "get" && method != "delete" {
					request["body"], body = map[string]any{"name": "x"}, `{"name":"x"}`
				}
				got := Decode[map[string]any](t, who.Call(t, "proxy."+method, request))
				require.Equal(t, map[string]any{
					"method": strings.ToUpper(method), "query": "q=a%20b~%3F%3E%C3%BF", "authorization": "Bearer " + sim.Token("apn_alice"),
					"custom": "yes", "body": body,
				}, got)
				sim.Rotate("apn_alice")
			})
		}
		request := map[string]any{"url": app.URL, "externalUserId": "alice", "accountId": "apn_bob"}
		r := who.Call(t, "proxy.get", request, once())
		refusedWith(t, http.StatusBadRequest, r)
		require.Equal(t, map[string]any{"error": map[string]any{"account": []any{"account and user mismatch"}}}, r.Error.Body)
		request["accountId"] = "apn_none"
		refusedWith(t, http.StatusNotFound, who.Call(t, "proxy.get", request, once()))
	}
}

func TestProxyLimit(t *testing.T) {
	sim, client := setUp(t, pipedreamtest.WithProxyLimit(1, time.Hour))
	twoUsers(sim)
	request := map[string]any{"url": echo(t).URL, "externalUserId": "alice", "accountId": "apn_alice"}
	require.Nil(t, client.Call(t, "proxy.get", request, once()).Error)
	r := client.Call(t, "proxy.get", request, once())
	refusedWith(t, http.StatusTooManyRequests, r)
	require.Equal(t, []string{"PipedreamError", "TooManyRequestsError"}, r.Error.Classes)
	require.Equal(t, map[string]any{"error": "Throttled"}, r.Error.Body)
}

// TestConnectTokenAsBearer: the client for browsers reads its user's accounts, without credentials, and nothing else.
func TestConnectTokenAsBearer(t *testing.T) {
	sim, client := setUp(t)
	twoUsers(sim)
	sim.SetAccount(account("apn_own", github, func(a *pipedreamtest.Account) { a.TokenLife, a.OAuthAppID = time.Hour, "oa_aPXiQd" }))
	alice := browserOf(t, client, "browser", "connect:*")
	mine := []string{"apn_alice", "apn_alice2", "apn_own"}
	require.Equal(t, mine, ids(t, alice.Iterate(t, "accounts.list", map[string]any{})))
	require.Equal(t, mine, ids(t, alice.Call(t, "accounts.listByExternalUser", "alice")))
	got := Decode[map[string]any](t, alice.Call(t, "accounts.retrieve", "apn_own", with(true)))
	require.Equal(t, "apn_own", got["id"])
	require.NotContains(t, got, "credentials")

	refusedWith(t, http.StatusNotFound, alice.Call(t, "accounts.retrieve", "apn_bob", once()))
	for method, args := range map[string][]any{
		"accounts.list":               {map[string]any{"externalUserId": "bob"}, once()},
		"accounts.listByExternalUser": {"bob", map[string]any{}, once()},
		"accounts.delete":             {"apn_own", once()},
		"users.deleteExternalUser":    {"alice", once()},
		"oauthApps.list":              {map[string]any{}, once()},
	} {
		refusedWith(t, http.StatusForbidden, alice.Call(t, method, args...))
	}
	reader := browserOf(t, client, "reader", "connect:accounts:read")
	refusedWith(t, http.StatusForbidden, reader.Call(t, "proxy.get", map[string]any{"url": echo(t).URL, "externalUserId": "alice", "accountId": "apn_own"}, once()))
}
