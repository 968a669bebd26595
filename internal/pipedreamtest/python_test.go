package pipedreamtest

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The forms are those of Pipedream's SDK for Python, where they differ from the one for Node, as its source has them:
// https://github.com/PipedreamHQ/pipedream-sdk-python at ef42d151. The SDK itself is not run: its registry cannot be
// reached everywhere that these tests run.
func TestRequestsOfThePythonSDK(t *testing.T) {
	s, c := startServer(t)
	target := newApp(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	s.SetAccount(alice)
	s.SetOAuthClient("client", "client_secret", time.Hour)
	headers := []string{"x-pd-environment", "production", "X-Fern-Language", "Python", "X-Fern-SDK-Name", "pipedream", "X-Fern-Platform", "linux/6.1"}
	withJSON := append([]string{"Content-Type", mediaJSON}, headers...)
	ask := func(c caller, method, path, body string, header []string) reply {
		t.Helper()
		r := c.do(t.Context(), method, path, body, header...)
		require.NoError(t, r.err)
		require.Less(t, r.status, 300, "%s %s: %s", method, path, r.body)
		return r
	}
	token := ask(c.as(""), http.MethodPost, "/oauth/token", // without a scope
		`{"client_id":"client","client_secret":"client_secret","grant_type":"client_credentials"}`, withJSON)
	w := c.as(member[string](t, token.object(t), "access_token"))
	const at = "/connect/proj_a"

	list := ask(w, http.MethodGet, at+"/accounts?external_user_id=alice&limit=10&app=github&include_credentials=true", "", headers)
	account := member[[]any](t, list.object(t), "data")[0].(map[string]any)
	for _, name := range []string{"name_slug", "name", "img_src", "categories", "featured_weight", "scope_profiles"} { // its model refuses an app without them
		require.NotNil(t, member[map[string]any](t, account, "app")[name], name)
	}
	ask(w, http.MethodGet, at+"/accounts/apn_alice?include_credentials=true", "", headers)
	ask(w, http.MethodGet, at+"/users/alice/accounts?include_credentials=true&app=github", "", headers)
	made := ask(w, http.MethodPost, at+"/tokens", // which cannot name an app or its OAuth client
		`{"allowed_origins":["https://app.example.com"],"error_redirect_uri":"https://app.example.com/no","expires_in":900,"external_user_id":"alice",`+
			`"scope":"connect:*","success_redirect_uri":"https://app.example.com/yes","webhook_uri":"https://app.example.com/hook","allow_progressive_scopes":false}`, withJSON)
	user := c.as(member[string](t, made.object(t), "token"))

	proxy := at + "/proxy/" + url.PathEscape(base64.URLEncoding.EncodeToString([]byte(target.URL+"/me?x=1"))) + "?external_user_id=alice&account_id=apn_alice" // with its padding
	for _, c := range []caller{w, user} {
		ask(c, http.MethodGet, proxy, "", append([]string{"x-pd-proxy-accept", "text/plain"}, headers...))
		r, _ := target.last(t)
		require.Equal(t, "/me?x=1", r.RequestURI)
		require.Equal(t, "text/plain", r.Header.Get("Accept"))
		ask(c, http.MethodPost, proxy, `{"a":1}`, withJSON)
		_, body := target.last(t)
		require.JSONEq(t, `{"a":1}`, body)
	}
	ask(w, http.MethodDelete, at+"/accounts/apn_alice", "", headers)
	ask(w, http.MethodDelete, at+"/users/alice", "", headers)
	require.Empty(t, s.Violations())

	// It does not escape what it puts into a path, so such a user reaches another one.
	w.do(t.Context(), http.MethodGet, at+"/users/a/b/accounts", "", headers...)
	require.NotEmpty(t, s.Violations())
}
