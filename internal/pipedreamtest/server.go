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

	// maxRequestBody is far above any request of this API; the rest of a longer one is not looked at.
	maxRequestBody = 64 << 10
)

// Server is the simulated API, below the path /v1, and the page that connects accounts, at /_static/connect.html. It is an [http.Handler], and all of its methods are safe for concurrent
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

	limits limits

	oldConnectForms    bool
	notFoundAs200      bool
	noCursorAtEnd      bool
	allowConnectScopes bool
	times              TimeForm
	orgID              string // that lists need with a user API key; none where empty

	apiKey        string
	clientID      string
	clientSecret  string
	workspaceLife time.Duration
	workspace     map[string]workspaceToken // by token
	secrets       map[string]struct{}

	accounts map[string]*account // by id
	places   map[string]int      // in lists, by id, of all accounts that ever were: a cursor outlives its account
	serial   int                 // the last number given to an account or a token

	connectTokens map[string]*connectToken // by token
	onConnect     func(*Account)

	faults     []*activeFault
	log        []*Request
	violations []string
	anyCursor  bool // clients may have cursors that are not of this server's making
}

// Option changes how [New] sets a [Server] up.
type Option func(*Server)

// WithAPIKey sets the user API key that is accepted; "pd_test_key" without it.
func WithAPIKey(key string) Option { return func(s *Server) { s.apiKey = key } }

// WithOldConnectForms makes Connect answer in the older of its two documented forms: {"data":{account}} for one account, and
// {"data":{"accounts":[…]}} for a list.
func WithOldConnectForms() Option { return func(s *Server) { s.oldConnectForms = true } }

// WithNotFoundAs200 makes the answer for an unknown account a 200 with the error in its body, as has been seen, instead of a 404.
func WithNotFoundAs200() Option { return func(s *Server) { s.notFoundAs200 = true } }

// WithNoCursorAtEnd makes the end_cursor of a list's last page an empty string. Without it that page has the cursor of its last
// account, as documented, and the page behind that is empty.
func WithNoCursorAtEnd() Option { return func(s *Server) { s.noCursorAtEnd = true } }

// WithConnectScopesOnWorkspace lets the access tokens of an OAuth client read the accounts of the workspace where all of their
// scopes are of Connect. Without it that is refused, with 403.
func WithConnectScopesOnWorkspace() Option { return func(s *Server) { s.allowConnectScopes = true } }

// WithOrgID makes a list of the workspace's accounts, asked for with a user API key, need this org_id.
func WithOrgID(id string) Option { return func(s *Server) { s.orgID = id } }

// New returns a server without accounts. For a test inside a synctest bubble it must be called there.
func New(opts ...Option) *Server {
	s := &Server{
		done:   make(chan struct{}),
		apiKey: defaultAPIKey,
		limits: limits{
			workspace:      workspaceAllowance,
			connect:        connectAllowance,
			connectToken:   tokenAllowance,
			retryAfter:     true,
			headers:        true,
			projectWindows: map[string]*window{},
			userWindows:    map[connectUser]*window{},
		},
		workspace:     map[string]workspaceToken{},
		secrets:       map[string]struct{}{},
		accounts:      map[string]*account{},
		places:        map[string]int{},
		connectTokens: map[string]*connectToken{},
	}
	_, _ = rand.Read(s.seed[:]) // never fails: crypto/rand ends the program instead
	for _, opt := range opts {
		opt(s)
	}
	s.keepSecret(s.apiKey)
	return s
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

	if r.URL.Path == linkPath {
		s.serveLink(w, r, body)
		return
	}
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
