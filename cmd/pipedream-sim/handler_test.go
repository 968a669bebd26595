package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// ask gives a request to a handler.
func ask(t *testing.T, h http.Handler, method, target, bearer string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, nil)
	r.Header.Set("Authorization", "Bearer "+bearer)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestShowRequests(t *testing.T) {
	sim := pipedreamtest.New()
	defer sim.Close()
	sim.SetAccount(pipedreamtest.Account{ID: "apn_x", TokenLife: time.Hour})
	h := newHandler(sim, nil)
	ask(t, h, http.MethodGet, "/v1/accounts/apn_x?include_credentials=1", "pd_test_key")
	ask(t, h, http.MethodGet, "/v1/accounts", "pd_test_key")
	ask(t, h, http.MethodGet, "/v1/users/me?verbose=1", "wrong_key")

	w := ask(t, h, http.MethodGet, "/requests", "")
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	var got struct {
		Counts        map[string]int   `json:"counts"`
		MostPerMinute int              `json:"most_per_minute"`
		Violations    []string         `json:"violations"`
		Requests      []map[string]any `json:"requests"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	require.Equal(t, map[string]int{"account": 1, "list": 1, "me": 1}, got.Counts)
	require.Equal(t, 2, got.MostPerMinute)
	require.Equal(t, []string{"GET /v1/users/me: unknown query parameter verbose"}, got.Violations)
	require.Len(t, got.Requests, 3, "asking for the log is no request")
	require.Equal(t, "/v1/accounts/apn_x", got.Requests[0]["path"])
	require.InDelta(t, 401, got.Requests[2]["status"], 0)
	for _, secret := range append(sim.Secrets(), "wrong_key") {
		require.NotContains(t, w.Body.String(), secret)
	}

	require.Equal(t, http.StatusMethodNotAllowed, ask(t, h, http.MethodPost, "/requests", "").Code)
}

func TestShowRequestsRedacts(t *testing.T) {
	sim := pipedreamtest.New(pipedreamtest.WithAPIKey("pd/test key"))
	defer sim.Close()
	var out bytes.Buffer
	h := newHandler(sim, &out)
	ask(t, h, http.MethodGet, "/v1/accounts?limit=5&api_key=pd%2Ftest+key", "")
	ask(t, h, http.MethodGet, "/v1/accounts/pd%2Ftest%20key", "")
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/oauth/token", strings.NewReader(`{"client_id":"pd/test key"}`))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Api-Key", "pd/test key")
	h.ServeHTTP(httptest.NewRecorder(), r)
	body := ask(t, h, http.MethodGet, "/requests", "").Body.String()
	for _, text := range []string{"pd/test key", "pd%2Ftest"} {
		require.NotContains(t, body, text)
		require.NotContains(t, out.String(), text)
	}
	require.Contains(t, body, redacted)
	require.Contains(t, out.String(), redacted)
}

func TestRedact(t *testing.T) {
	secrets := []string{"s3cret", "a b"}
	for text, want := range map[string]string{
		"":                  "",
		"/v1/accounts":      "/v1/accounts",
		"key=s3cret":        redacted,
		"X-S3cret":          redacted,
		"key=%733cret":      redacted,
		"key=a+b":           redacted,
		"100%/v1/s3cret":    redacted,
		"100%/v1/something": "100%/v1/something",
	} {
		require.Equal(t, want, redact(text, secrets), text)
	}
}

func TestRequestLog(t *testing.T) {
	sim := pipedreamtest.New()
	defer sim.Close()
	var out bytes.Buffer
	h := newHandler(sim, &out)
	ask(t, h, http.MethodGet, "/v1/users/me?x=y", "pd_test_key")
	sim.AddFault(pipedreamtest.Fault{Cut: true, Times: 1})
	require.Panics(t, func() { ask(t, h, http.MethodGet, "/v1/accounts", "pd_test_key") })
	ask(t, h, http.MethodGet, "/requests", "")
	require.Regexp(t, `^\S+Z GET /v1/users/me 200\n\S+Z GET /v1/accounts 0\n$`, out.String())
}

// TestRequestLogFlushes has an answer cut in its middle: its first half arrives only where flushing gets through the recorder.
func TestRequestLogFlushes(t *testing.T) {
	sim := pipedreamtest.New()
	defer sim.Close()
	sim.AddFault(pipedreamtest.Fault{CutBody: true})
	var out bytes.Buffer
	h := newHandler(sim, &out)
	w := httptest.NewRecorder()
	require.Panics(t, func() {
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/accounts", nil))
	})
	require.True(t, w.Flushed)
}

func TestTheAppTakesOnlyCurrentTokens(t *testing.T) {
	sim := pipedreamtest.New()
	defer sim.Close()
	sim.SetAccount(pipedreamtest.Account{ID: "apn_x", Name: "octocat", App: pipedreamtest.App{Slug: "github", Name: "GitHub"}, TokenLife: time.Hour})
	h := newHandler(sim, nil)
	old := sim.Token("apn_x")
	w := ask(t, h, http.MethodGet, "/app", old)
	require.Equal(t, http.StatusOK, w.Code)
	require.JSONEq(t, `{"account":"octocat","app":"GitHub"}`, w.Body.String())
	sim.Rotate("apn_x")
	for _, bearer := range []string{old, "pd_test_key", ""} {
		require.Equal(t, http.StatusUnauthorized, ask(t, h, http.MethodGet, "/app", bearer).Code)
	}
}
