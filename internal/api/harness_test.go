package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/pace"
)

const (
	github = "apn_github"
	stripe = "apn_stripe"
)

// reply is one answer of a scripted Pipedream.
type reply struct {
	status int
	header http.Header
	body   string
}

// says returns a handler that answers 200 with that body.
func says(body string) func(*http.Request) reply {
	return func(*http.Request) reply { return reply{status: http.StatusOK, body: body} }
}

// fails returns a handler that answers with that status and an error in
// Pipedream's form.
func fails(status int) func(*http.Request) reply {
	return func(*http.Request) reply { return reply{status: status, body: `{"error":"of some kind"}`} }
}

// ofAccounts returns a handler that answers so for accounts, and works otherwise.
func ofAccounts(answer func(*http.Request) reply) func(*http.Request) reply {
	return func(req *http.Request) reply {
		if req.URL.Path == "/v1/users/me" {
			return says(`{"data":{"id":"u_1"}}`)(req)
		}
		return answer(req)
	}
}

// script is a Pipedream in this process. A function gives its answers, and it
// records the requests.
type script struct {
	answer func(*http.Request) reply

	mu    sync.Mutex // guards asked
	asked []string
}

func (s *script) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.asked = append(s.asked, req.URL.RequestURI())
	s.mu.Unlock()
	r := s.answer(req)
	if r.header == nil {
		r.header = http.Header{}
	}
	return &http.Response{StatusCode: r.status, Header: r.header, Body: io.NopCloser(strings.NewReader(r.body)), Request: req}, nil
}

// requests returns the path and query of each request, in order.
func (s *script) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// counts is an observer that counts.
type counts struct {
	mu       sync.Mutex // guards the fields below
	sent     int
	answered []string
}

func (c *counts) Sent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent++
}

func (c *counts) Answered(what string, _ time.Duration, _ error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = append(c.answered, what)
}

func (c *counts) requests() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// client is a client of a test's Pipedream, with its budget, hold-offs and
// observer.
type client struct {
	*Client

	budget   *pace.Budget
	holdOffs *backoff.HoldOffs
	counts   *counts
}

// newClient returns a client with an API key and without retries. change may
// change its configuration.
func newClient(t *testing.T, transport http.RoundTripper, change func(*Config)) *client {
	t.Helper()
	base, err := url.Parse("http://pipedream.test/v1")
	require.NoError(t, err)
	config := Config{BaseURL: base, APIKey: "pd_test_key", Timeout: 20 * time.Second, UserAgent: "test"}
	if change != nil {
		change(&config)
	}
	c := &client{budget: pace.NewBudget(0), holdOffs: backoff.NewHoldOffs(), counts: &counts{}}
	c.Client = New(t.Context(), config, transport, c.budget, c.holdOffs, c.counts, hclog.NewNullLogger)
	t.Cleanup(c.Close)
	return c
}

// patient returns a context with the deadline of a piece of work.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// account asks a Pipedream with those answers for the account of GitHub.
func account(t *testing.T, answer func(*http.Request) reply) (*Account, error) {
	t.Helper()
	return newClient(t, &script{answer: answer}, nil).Account(t.Context(), github)
}

// page asks a Pipedream that answers with body for a page.
func page(t *testing.T, body string) (*Page, error) {
	t.Helper()
	return newClient(t, &script{answer: says(body)}, nil).Page(t.Context(), "")
}

// isError asserts the kind of err and its text in log lines, and returns it.
func isError(t *testing.T, err error, kind Kind, text string) Error {
	t.Helper()
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, kind, e.Kind, e.Error())
	require.Equal(t, text, e.Error())
	return *e
}
