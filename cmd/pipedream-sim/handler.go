package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const redacted = "[redacted]"

// newHandler serves the simulated API, GET /requests and GET /app. If logTo is set, it prints a line for each request of the API
// there.
func newHandler(sim *pipedreamtest.Server, logTo io.Writer) http.Handler {
	var api http.Handler = sim
	if logTo != nil {
		api = &requestLog{sim: sim, out: logTo}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/requests":
			showRequests(w, r, sim)
		case "/app":
			serveApp(w, r, sim)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// serveApp is an app that takes only the current tokens of accounts, and says whose it was given.
func serveApp(w http.ResponseWriter, r *http.Request, sim *pipedreamtest.Server) {
	account := sim.AccountOf(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	if account == nil {
		http.Error(w, "no valid token", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"account": account.Name, "app": account.App.Name})
}

// shownRequests is the answer to GET /requests.
type shownRequests struct {
	Counts        map[pipedreamtest.Kind]int `json:"counts"`
	MostPerMinute int                        `json:"most_per_minute"` // of the requests for accounts
	Violations    []string                   `json:"violations"`
	Requests      []pipedreamtest.Request    `json:"requests"`
}

// showRequests answers GET /requests. The log has no bearer tokens. Secrets that a client puts into a path or query by
// mistake are hidden too.
func showRequests(w http.ResponseWriter, r *http.Request, sim *pipedreamtest.Server) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	log, secrets := sim.Requests(), sim.Secrets()
	shown := shownRequests{Counts: map[pipedreamtest.Kind]int{}, MostPerMinute: pipedreamtest.MostPerMinute(log), Violations: append([]string{}, sim.Violations()...), Requests: log}
	for i := range log {
		entry := &log[i]
		shown.Counts[entry.Kind]++
		for _, text := range []*string{&entry.Path, &entry.RawQuery, &entry.AccountID, &entry.UserAgent, &entry.Body} {
			*text = redact(*text, secrets)
		}
		for j, name := range entry.HeaderNames {
			entry.HeaderNames[j] = redact(name, secrets)
		}
		entry.Header = redactHeader(entry.Header, secrets)
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(shown) // it fails when the client has gone away
}

// redact returns a text, or a mark in its place if it contains a secret, escaped or not and in any case.
func redact(text string, secrets []string) string {
	plain, err := url.QueryUnescape(text)
	if err != nil {
		plain = text
	}
	both := strings.ToLower(text + "\n" + plain)
	for _, secret := range secrets {
		if strings.Contains(both, strings.ToLower(secret)) {
			return redacted
		}
	}
	return text
}

// redactHeader returns a header with marks in place of the names and values that contain a secret.
func redactHeader(header http.Header, secrets []string) http.Header {
	shown := http.Header{}
	for name, values := range header {
		for _, value := range values {
			key := redact(name, secrets)
			shown[key] = append(shown[key], redact(value, secrets))
		}
	}
	return shown
}

// requestLog prints a line for each API request once it is answered.
type requestLog struct {
	sim *pipedreamtest.Server

	mu  sync.Mutex // guards out, so that lines do not mix
	out io.Writer
}

func (l *requestLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answered := &statusRecorder{ResponseWriter: w}
	begin := time.Now()
	defer func() { // deferred, since the API ends some requests with a panic
		path := redact(r.URL.EscapedPath(), l.sim.Secrets())
		l.mu.Lock()
		defer l.mu.Unlock()
		_, _ = fmt.Fprintf(l.out, "%s %s %s %d\n", begin.UTC().Format("2006-01-02T15:04:05.000Z"), r.Method, path, answered.status)
	}()
	l.sim.ServeHTTP(answered, r)
}

// statusRecorder records the status that was sent, or 0 if there was none.
type statusRecorder struct {
	http.ResponseWriter

	status int
}

func (w *statusRecorder) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController, with which the API flushes.
func (w *statusRecorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
