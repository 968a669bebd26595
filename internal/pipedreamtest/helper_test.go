package pipedreamtest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// github is an OAuth account whose tokens live for an hour and are refreshed five minutes before their end.
var github = Account{
	ID:        "apn_github",
	Name:      "octocat",
	App:       App{ID: "app_OrZhaO", Slug: "github", Name: "GitHub", AuthType: "oauth"},
	TokenLife: time.Hour,
}

// stripe is an account with a key that never expires.
var stripe = Account{
	ID:          "apn_stripe",
	App:         App{ID: "app_OkrhR1", Slug: "stripe", Name: "Stripe", AuthType: "keys"},
	Credentials: map[string]any{"api_key": "sk_live_0123456789"},
}

// alice is an account of a Connect project.
var alice = Account{
	ID:             "apn_alice",
	App:            github.App,
	Project:        "proj_a",
	ExternalUserID: "alice",
	TokenLife:      time.Hour,
}

// neighbours are accounts that differ from [alice] in one thing: the user, the project, or the environment.
var neighbours = []Account{
	{ID: "apn_bob", App: github.App, Project: "proj_a", ExternalUserID: "bob", TokenLife: time.Hour},
	{ID: "apn_alice2", App: github.App, Project: "proj_b", ExternalUserID: "alice", TokenLife: time.Hour},
	{ID: "apn_alice3", App: github.App, Project: "proj_a", Environment: "development", ExternalUserID: "alice", TokenLife: time.Hour},
	{ID: "apn_work", App: github.App, TokenLife: time.Hour},
}

// caller sends requests to a server.
type caller struct {
	t    *testing.T
	http *http.Client
	base string
	auth string // the bearer
}

// reply is what a caller received.
type reply struct {
	status int
	header http.Header
	body   string
	err    error // of the request, or of reading the body
}

// newServer returns a server for a test inside a synctest bubble, and a caller.
func newServer(t *testing.T, opts ...Option) (*Server, caller) {
	t.Helper()
	s := New(opts...)
	t.Cleanup(s.Close)
	return s, callerOf(t, s)
}

func callerOf(t *testing.T, s *Server) caller {
	t.Helper()
	h := &http.Client{
		Transport:     s.Transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return caller{t: t, http: h, base: "https://api.pipedream.com/v1", auth: defaultAPIKey}
}

// as returns a caller with another bearer token.
func (c caller) as(auth string) caller {
	c.auth = auth
	return c
}

// do sends a request; header holds names and values in turn.
func (c caller) do(ctx context.Context, method, path, body string, header ...string) (r reply) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	require.NoError(c.t, err)
	if c.auth != "" {
		req.Header.Set("Authorization", "Bearer "+c.auth)
	}
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	res, err := c.http.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(raw), err}
}

func (c caller) get(path string, header ...string) reply {
	c.t.Helper()
	return c.do(c.t.Context(), http.MethodGet, path, "", header...)
}

// connect is get for a Connect path, in production.
func (c caller) connect(path string) reply {
	c.t.Helper()
	return c.get(path, "x-pd-environment", "production")
}

// delete sends a DELETE to a Connect path, in production.
func (c caller) delete(path string) reply {
	c.t.Helper()
	return c.do(c.t.Context(), http.MethodDelete, path, "", "x-pd-environment", "production")
}

// bearer makes a Connect token for a user with these other members of the request, which begin with a comma, and returns
// a caller that has it.
func (c caller) bearer(s *Server, user, more string) caller {
	c.t.Helper()
	r := c.workspace(s).connectToken(`{"external_user_id":"` + user + `"` + more + `}`)
	require.Equal(c.t, http.StatusOK, r.status, r.body)
	return c.as(member[string](c.t, r.object(c.t), "token"))
}

// token requests a workspace access token.
func (c caller) token(id, secret, scope string) reply {
	c.t.Helper()
	body, err := json.Marshal(map[string]string{
		"grant_type": "client_credentials", "client_id": id, "client_secret": secret, "scope": scope,
	})
	require.NoError(c.t, err)
	return c.as("").do(c.t.Context(), http.MethodPost, "/oauth/token", string(body), "Content-Type", "application/json")
}

// form requests a workspace access token with a form.
func (c caller) form(form url.Values) reply {
	c.t.Helper()
	return c.as("").do(c.t.Context(), http.MethodPost, "/oauth/token", form.Encode(), "Content-Type", mediaForm)
}

// connectToken requests a Connect token for proj_a in production.
func (c caller) connectToken(body string) reply {
	c.t.Helper()
	return c.do(c.t.Context(), http.MethodPost, connectTokens, body, "Content-Type", mediaJSON, "x-pd-environment", "production")
}

// scoped sets an OAuth client and returns a caller with a token of that client for these scopes.
func (c caller) scoped(s *Server, scope string) caller {
	c.t.Helper()
	s.SetOAuthClient("client", "client_secret", time.Hour)
	return c.as(member[string](c.t, c.token("client", "client_secret", scope).object(c.t), "access_token"))
}

// workspace sets an OAuth client and returns a caller with a token of that client.
func (c caller) workspace(s *Server) caller {
	c.t.Helper()
	return c.scoped(s, "")
}

// object returns the answer's JSON object.
func (r reply) object(t *testing.T) map[string]any {
	t.Helper()
	require.NoError(t, r.err)
	var m map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.body), &m), r.body)
	return m
}

// data returns the object under "data" of a 200 answer.
func (r reply) data(t *testing.T) map[string]any {
	t.Helper()
	require.NoError(t, r.err)
	require.Equal(t, http.StatusOK, r.status, r.body)
	return member[map[string]any](t, r.object(t), "data")
}

// credentials returns the credentials of one account in a REST answer.
func (r reply) credentials(t *testing.T) map[string]any {
	t.Helper()
	return member[map[string]any](t, r.data(t), "credentials")
}

// member returns a member of a JSON object, which must be of that type.
func member[T any](t *testing.T, object map[string]any, name string) T {
	t.Helper()
	v, ok := object[name].(T)
	require.True(t, ok, "%s is %#v", name, object[name])
	return v
}

// failed checks that the answer is an error with that status.
func (r reply) failed(t *testing.T, status int) {
	t.Helper()
	require.NoError(t, r.err)
	require.Equal(t, status, r.status, r.body)
	require.NotEmpty(t, r.object(t)["error"])
}
