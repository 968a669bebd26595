package pipedreamtest

import (
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// app is an app on loopback that records what reaches it.
type app struct {
	*httptest.Server

	mu       sync.Mutex // guards the fields below
	requests []*http.Request
	bodies   []string
}

// newApp returns an app that answers with this handler after it has recorded the request.
func newApp(t *testing.T, answer http.HandlerFunc) *app {
	t.Helper()
	a := &app{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		a.requests, a.bodies = append(a.requests, r), append(a.bodies, string(body))
		a.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(a.Close)
	return a
}

// last returns the last request and its body.
func (a *app) last(t *testing.T) (*http.Request, string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	require.NotEmpty(t, a.requests)
	return a.requests[len(a.requests)-1], a.bodies[len(a.bodies)-1]
}

// startServer returns a server on loopback, and a caller of it. The proxy needs a real network.
func startServer(t *testing.T) (*Server, caller) {
	t.Helper()
	s := New()
	t.Cleanup(s.Close)
	base, err := s.Start()
	require.NoError(t, err)
	return s, caller{t: t, http: &http.Client{}, base: base, auth: defaultAPIKey}
}

// proxyPath is a path through the proxy to a URL as alice.
func proxyPath(target, account string) string {
	return "/connect/proj_a/proxy/" + base64.URLEncoding.EncodeToString([]byte(target)) + "?external_user_id=alice&account_id=" + account
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"ok":true}`) }

func TestProxy(t *testing.T) {
	s, c := startServer(t)
	s.SetAccount(alice)
	target := newApp(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("X-App", "yes")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	})
	const query = "/v1/items?q=a%20b&c=é~?>"
	for _, who := range []caller{c.scoped(s, "connect:proxy"), c.bearer(s, "alice", `,"scope":"connect:proxy"`)} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			body := ""
			if method != http.MethodGet {
				body = `{"name":"x"}`
			}
			r := who.do(t.Context(), method, proxyPath(target.URL+query, "apn_alice"), body,
				"x-pd-environment", "production", "Content-Type", mediaJSON, "X-Other", "stays here",
				"x-pd-proxy-x-custom", "goes on", "x-pd-proxy-accept", "text/plain", "x-pd-proxy-authorization", "Bearer of_the_caller",
				"x-pd-proxy-host", "evil.example.com", "x-pd-proxy-connection", "close", "Cookie", "stays=here")
			require.NoError(t, r.err)
			require.Equal(t, http.StatusTeapot, r.status, "the answer is that of the app")
			require.Equal(t, "short and stout", r.body)
			require.Equal(t, "yes", r.header.Get("X-App"))
			require.Equal(t, "text/plain", r.header.Get("Content-Type"))

			got, gotBody := target.last(t)
			require.Equal(t, method, got.Method)
			require.Equal(t, query, got.RequestURI)
			require.Equal(t, body, gotBody)
			require.Equal(t, "Bearer "+s.Token("apn_alice"), got.Header.Get("Authorization"))
			require.Equal(t, "goes on", got.Header.Get("X-Custom"))
			require.Equal(t, "text/plain", got.Header.Get("Accept"))
			require.Equal(t, strings.TrimPrefix(target.URL, "http://"), got.Host)
			for _, name := range []string{"X-Other", "Cookie", "X-Pd-Environment", "X-Pd-Proxy-X-Custom"} {
				require.NotContains(t, got.Header, name)
			}
		}
	}
	require.Empty(t, s.Violations())
	require.Equal(t, 10, s.Count(KindProxy))
	for _, entry := range s.Requests() {
		require.NotContains(t, entry.Body, "name", "what is forwarded is not logged")
		require.NotContains(t, entry.Header.Get("X-Pd-Proxy-Authorization"), "of_the_caller")
	}
}

// TestEncodedTargets: the documentation has the alphabet for URLs, and the SDK escapes the other one.
func TestEncodedTargets(t *testing.T) {
	s, c := startServer(t)
	s.SetAccount(alice)
	target := newApp(t, ok)
	const query = "/?a>b?c~~ÿÿ" // has both special digits in some position
	w := c.workspace(s)
	for _, padding := range []string{"", "x", "xx"} {
		want := query + padding
		for name, encoded := range map[string]string{
			"for URLs":          base64.URLEncoding.EncodeToString([]byte(target.URL + want)),
			"without padding":   base64.RawURLEncoding.EncodeToString([]byte(target.URL + want)),
			"of the SDK":        url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(target.URL + want))),
			"for URLs, escaped": url.QueryEscape(base64.URLEncoding.EncodeToString([]byte(target.URL + want))),
		} {
			r := w.connect("/connect/proj_a/proxy/" + encoded + "?external_user_id=alice&account_id=apn_alice")
			require.Equal(t, http.StatusOK, r.status, "%s: %s", name, r.body)
			got, _ := target.last(t)
			u, err := url.ParseRequestURI(want)
			require.NoError(t, err)
			require.Equal(t, u.Query(), got.URL.Query(), name)
		}
	}
}

// TestProxyUsesTheCurrentCredential over a change of the token, for accounts that come without credentials, and for
// keys. An app without authentication gets none.
func TestProxyUsesTheCurrentCredential(t *testing.T) {
	s, c := startServer(t)
	target := newApp(t, ok)
	bare := alice
	bare.NoCredentials = true
	keys := Account{ID: "apn_keys", App: stripe.App, Project: "proj_a", ExternalUserID: "alice", Credentials: map[string]any{"api_key": "sk_current", "account": "acct"}}
	other := keys
	other.ID, other.Credentials = "apn_other", map[string]any{"base": 1, "token": "tk_current"}
	open := keys
	open.ID, open.Credentials = "apn_open", nil
	for _, a := range []Account{bare, keys, other, open} {
		s.SetAccount(a)
	}
	b := c.bearer(s, "alice", "")
	authorization := func(id string) string {
		require.Equal(t, http.StatusOK, b.connect(proxyPath(target.URL, id)).status)
		got, _ := target.last(t)
		return got.Header.Get("Authorization")
	}
	old := s.Token("apn_alice")
	require.Equal(t, "Bearer "+old, authorization("apn_alice"))
	s.Rotate("apn_alice")
	require.NotEqual(t, old, s.Token("apn_alice"))
	require.Equal(t, "Bearer "+s.Token("apn_alice"), authorization("apn_alice"))
	require.Equal(t, "Bearer sk_current", authorization("apn_keys"))
	require.Equal(t, "Bearer tk_current", authorization("apn_other"))
	require.Empty(t, authorization("apn_open"))
	require.Contains(t, s.Secrets(), "sk_current")

	s.DeleteAccount("apn_keys")
	b.connect(proxyPath(target.URL, "apn_keys")).failed(t, http.StatusNotFound)
}

// TestProxyAfterARefresh: the app, which runs outside of the bubble, sees the token that is current by the bubble's clock.
func TestProxyAfterARefresh(t *testing.T) {
	target := newApp(t, ok)
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(alice)
		b := c.bearer(s, "alice", "")
		seen := map[string]bool{}
		for range 3 {
			require.Equal(t, http.StatusOK, b.connect(proxyPath(target.URL, "apn_alice")).status)
			got, _ := target.last(t)
			require.Equal(t, "Bearer "+s.Token("apn_alice"), got.Header.Get("Authorization"))
			seen[got.Header.Get("Authorization")] = true
			time.Sleep(time.Hour)
		}
		require.Len(t, seen, 3)
	})
}

func TestProxyRefusals(t *testing.T) {
	s, c := startServer(t)
	for _, a := range append(neighbours, alice) {
		s.SetAccount(a)
	}
	target := newApp(t, ok)
	w := c.workspace(s)
	encode := func(target string) string { return base64.URLEncoding.EncodeToString([]byte(target)) }
	good := encode(target.URL)
	for path, status := range map[string]int{
		good:                             http.StatusBadRequest,
		good + "?external_user_id=alice": http.StatusBadRequest,
		good + "?account_id=apn_alice":   http.StatusBadRequest,
		good + "?external_user_id=alice&account_id=apn_bob":    http.StatusBadRequest,
		good + "?external_user_id=alice&account_id=apn_none":   http.StatusNotFound,
		good + "?external_user_id=alice&account_id=apn_alice2": http.StatusNotFound,
		good + "?external_user_id=alice&account_id=apn_alice3": http.StatusNotFound,
		good + "?external_user_id=&account_id=apn_work":        http.StatusBadRequest,
	} {
		r := w.connect("/connect/proj_a/proxy/" + path)
		require.Equal(t, status, r.status, "%s: %s", path, r.body)
	}
	r := w.connect(proxyPath(target.URL, "apn_bob"))
	require.JSONEq(t, `{"error":{"account":["account and user mismatch"]}}`, r.body)
	c.scoped(s, "connect:accounts:*").connect(proxyPath(target.URL, "apn_alice")).failed(t, http.StatusForbidden)
	c.connect(proxyPath(target.URL, "apn_alice")).failed(t, http.StatusUnauthorized)

	// It forwards to this machine alone, whatever the URL looks like.
	for _, to := range []string{
		"http://192.0.2.1/", "http://example.com/", "http://127.0.0.1.example.com/", "http://127.0.0.1@192.0.2.1/", "http://[::ffff:192.0.2.1]/",
		"http://0.0.0.0/", "http://localhost.example.com/", "ftp://127.0.0.1/", "file:///etc/passwd", "//127.0.0.1/", "127.0.0.1", "http://",
	} {
		w.connect(proxyPath(to, "apn_alice")).failed(t, http.StatusBadRequest)
	}
	w.connect("/connect/proj_a/proxy/%25%25?external_user_id=alice&account_id=apn_alice").failed(t, http.StatusBadRequest)
	require.Empty(t, target.requests)

	target.Close()
	w.connect(proxyPath(target.URL, "apn_alice")).failed(t, http.StatusBadGateway)
}

func TestProxyFollowsNoRedirect(t *testing.T) {
	s, c := startServer(t)
	s.SetAccount(alice)
	target := newApp(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
	})
	w := c.workspace(s)
	w.http = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r := w.connect(proxyPath(target.URL, "apn_alice"))
	require.Equal(t, http.StatusFound, r.status)
	require.Equal(t, "http://192.0.2.1/", r.header.Get("Location"))
}

func TestProxyForwardsLargeBodies(t *testing.T) {
	s, c := startServer(t)
	s.SetAccount(alice)
	large := strings.Repeat("a", 1<<20)
	target := newApp(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, large) })
	w := c.workspace(s)
	r := w.do(t.Context(), http.MethodPost, proxyPath(target.URL, "apn_alice"), large, "x-pd-environment", "production", "Content-Type", "text/plain")
	require.Equal(t, large, r.body)
	got, body := target.last(t)
	require.Equal(t, large, body)
	require.Equal(t, "text/plain", got.Header.Get("Content-Type"))

	tooLarge := strings.Repeat("a", maxProxyBody+1)
	w.do(t.Context(), http.MethodPost, proxyPath(target.URL, "apn_alice"), tooLarge, "x-pd-environment", "production").failed(t, http.StatusRequestEntityTooLarge)
}

// TestCloseEndsARequestOfTheProxy that waits for an app.
func TestCloseEndsARequestOfTheProxy(t *testing.T) {
	s, c := startServer(t)
	s.SetAccount(alice)
	arrived, release := make(chan struct{}), make(chan struct{})
	target := newApp(t, func(http.ResponseWriter, *http.Request) { close(arrived); <-release })
	defer close(release)
	w := c.workspace(s)
	done := make(chan reply)
	go func() { done <- w.connect(proxyPath(target.URL, "apn_alice")) }()
	<-arrived
	s.Close()
	<-done
}

func TestProxyLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		w := c.workspace(s)
		const path = "/connect/proj_a/proxy/bm8" // no URL: 400
		for range 1000 {
			w.connect(path).failed(t, http.StatusBadRequest)
		}
		r := w.connect(path)
		r.failed(t, http.StatusTooManyRequests)
		require.JSONEq(t, `{"error":"Throttled"}`, r.body)
		require.Equal(t, "300", r.header.Get("Retry-After"))
		require.Equal(t, "1000", r.header.Get("X-RateLimit-Limit"))
		w.connect("/connect/proj_b/proxy/bm8").failed(t, http.StatusBadRequest)
		require.Equal(t, http.StatusOK, w.connect("/connect/proj_a/accounts").status)
		require.Equal(t, 1, MostPerMinute(s.Requests()), "it does not count as a request for accounts")
		c.bearer(s, "alice", "").connect("/connect//proxy/bm8").failed(t, http.StatusTooManyRequests)
		time.Sleep(5 * time.Minute)
		w = c.workspace(s)
		w.connect(path).failed(t, http.StatusBadRequest)
	})
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithProxyLimit(1, time.Minute), WithOAuthTokenLimit(2))
		w := c.workspace(s)
		w.connect("/connect/proj_a/proxy/bm8").failed(t, http.StatusBadRequest)
		w.connect("/connect/proj_a/proxy/bm8").failed(t, http.StatusTooManyRequests)
		require.Equal(t, http.StatusOK, c.token("client", "client_secret", "").status)
		r := c.token("client", "client_secret", "")
		r.failed(t, http.StatusTooManyRequests)
		require.Equal(t, "60", r.header.Get("Retry-After"))
	})
}
