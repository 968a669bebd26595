package acceptance

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// watcher is a proxy in front of Vault that records the credentials that programs are given.
type watcher struct {
	proxy *httputil.ReverseProxy

	mu      sync.Mutex
	answers map[string][]answer // by path, with that of the mount
}

// answer is a credential that the engine handed out.
type answer struct {
	asked     time.Time // when the request reached the proxy, so before the engine saw it
	took      time.Duration
	token     string
	leased    bool
	readAgain time.Duration // the lease, or the ttl of a credential without one
	expiresAt time.Time     // rounded down to the second
}

// watch puts a watcher in front of the mount's server. Programs that are started afterwards use it in place of the server.
func (m *mount) watch(t *testing.T) {
	t.Helper()
	target, err := url.Parse(m.vault.addr)
	require.NoError(t, err)
	w := &watcher{answers: map[string][]answer{}}
	w.proxy = &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorLog: log.New(io.Discard, "", 0), // programs that end cancel their requests
	}
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	watched := *m.vault
	watched.addr = server.URL
	m.vault, m.watcher = &watched, w
}

func (w *watcher) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	asked := time.Now()
	recorder := &bodyRecorder{ResponseWriter: rw, status: http.StatusOK}
	w.proxy.ServeHTTP(recorder, r)
	if recorder.status == http.StatusOK {
		w.record(strings.TrimPrefix(r.URL.Path, "/v1/"), asked, recorder.body.Bytes())
	}
}

// record keeps what an answer says of a credential, and ignores all other answers.
func (w *watcher) record(path string, asked time.Time, body []byte) {
	var secret struct {
		LeaseID       string `json:"lease_id"`
		LeaseDuration int    `json:"lease_duration"`
		Data          struct {
			Token     string    `json:"oauth_access_token"`
			ExpiresAt time.Time `json:"expires_at"`
			TTL       int       `json:"ttl"`
		} `json:"data"`
	}
	if json.Unmarshal(body, &secret) != nil || secret.Data.Token == "" {
		return
	}
	a := answer{asked: asked, took: time.Since(asked), token: secret.Data.Token, leased: secret.LeaseID != "", expiresAt: secret.Data.ExpiresAt}
	seconds := secret.Data.TTL
	if a.leased {
		seconds = secret.LeaseDuration
	}
	a.readAgain = time.Duration(seconds) * time.Second
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answers[path] = append(w.answers[path], a)
}

// answersFor returns the answers to reads of a path so far, in order.
func (w *watcher) answersFor(path string) []answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.answers[path])
}

// leavesTimeToReadAgain asserts that the token lives for as long as the reader may hold it: until the lease ends, or until
// templates read a credential without a lease again, which is a second after its ttl.
func (a answer) leavesTimeToReadAgain(t *testing.T, path string, ends map[string]time.Time) {
	t.Helper()
	end, known := ends[a.token]
	if !known {
		end = a.expiresAt.Add(time.Second)
	}
	readAgain := a.asked.Add(a.readAgain)
	if !a.leased {
		readAgain = readAgain.Add(time.Second)
	}
	// Vault subtracts from the lease how long it took to store it, which on a loaded machine can be all of a short one.
	if a.took < time.Second {
		assert.Positive(t, a.readAgain, path)
	}
	assert.False(t, readAgain.After(end), "%s: the token ended %s before it was to be read again", path, readAgain.Sub(end))
}

// bodyRecorder keeps a copy of what is written to a client.
type bodyRecorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *bodyRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *bodyRecorder) Write(p []byte) (int, error) {
	return io.MultiWriter(&r.body, r.ResponseWriter).Write(p)
}
