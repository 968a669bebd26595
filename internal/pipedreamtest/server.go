package pipedreamtest

import (
	"crypto/rand"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	defaultAPIKey = "pd_test_key"
	defaultLimit  = 100

	// maxRequestBody is far above any request of this API; the rest of a longer one is not looked at.
	maxRequestBody = 64 << 10
)

// Server is the simulated API, below the path /v1. It is an [http.Handler], and all of its methods are safe for concurrent
// use. Some faults end a request by panicking with [http.ErrAbortHandler], so it has to be run by an [http.Server]; [Server.Start]
// and [Server.Transport] do that.
type Server struct {
	seed [16]byte // makes the tokens of this server unlike those of any other

	done      chan struct{} // closed by Close: hung and slow requests end
	closeOnce sync.Once
	accepting sync.WaitGroup // the goroutines that accept connections
	working   sync.WaitGroup // connections and the handlers of requests

	// mu guards everything below. It is never held while waiting for a client, for the clock or for another goroutine.
	mu sync.Mutex

	closed    bool
	serving   []service
	transport *http.Transport

	limit           int
	retryAfter      bool
	oldConnectForms bool
	notFoundAs200   bool
	window          window

	apiKey        string
	clientID      string
	clientSecret  string
	workspaceLife time.Duration
	workspace     map[string]workspaceToken // by token
	secrets       map[string]struct{}

	accounts map[string]*account // by id
	serial   int                 // the last number given to an account or a workspace token

	faults []*activeFault
	log    []*Request
}

// Option changes how [New] sets a [Server] up.
type Option func(*Server)

// WithAPIKey sets the user API key that is accepted; "pd_test_key" without it.
func WithAPIKey(key string) Option { return func(s *Server) { s.apiKey = key } }

// WithLimit sets how many */accounts/* requests are answered within any minute; 100 without it, 0 for no limit.
func WithLimit(perMinute int) Option { return func(s *Server) { s.limit = perMinute } }

// WithRetryAfter sets whether a 429 by the rate limit carries a Retry-After header. Pipedream does not document one, so it
// does not without this option.
func WithRetryAfter(on bool) Option { return func(s *Server) { s.retryAfter = on } }

// WithOldConnectForms makes Connect answer in the older of its two documented forms: {"data":{account}} for one account, and
// {"data":{"accounts":[…]}} for a list.
func WithOldConnectForms() Option { return func(s *Server) { s.oldConnectForms = true } }

// WithNotFoundAs200 makes the answer for an unknown account a 200 with the error in its body, as has been seen, instead of a 404.
func WithNotFoundAs200() Option { return func(s *Server) { s.notFoundAs200 = true } }

// New returns a server without accounts. For a test inside a synctest bubble it must be called there.
func New(opts ...Option) *Server {
	s := &Server{
		done:      make(chan struct{}),
		apiKey:    defaultAPIKey,
		limit:     defaultLimit,
		workspace: map[string]workspaceToken{},
		secrets:   map[string]struct{}{},
		accounts:  map[string]*account{},
	}
	_, _ = rand.Read(s.seed[:]) // never fails: crypto/rand ends the program instead
	for _, opt := range opts {
		opt(s)
	}
	s.keepSecret(s.apiKey)
	return s
}

// SetLimit changes the rate limit; 0 lifts it. Requests of the last minute count towards the new one.
func (s *Server) SetLimit(perMinute int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = perMinute
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		panic(http.ErrAbortHandler)
	}
	defer s.working.Done()

	// All of the body is read before anything else, because net/http tells a handler that the client has gone away only
	// after it saw the request's end. What cannot be read is no JSON, and is refused as such.
	body, _ := io.ReadAll(io.LimitReader(r.Body, maxRequestBody))
	_, _ = io.Copy(io.Discard, r.Body)

	s.arrive(w, r, body).serve()
}

// enter counts a request in, unless the server is closed: Close waits for those that were counted.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.working.Add(1)
	return true
}
