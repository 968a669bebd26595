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

	// maxRequestBody is far longer than any request of this API, except to a proxy. The rest of a longer body is ignored.
	maxRequestBody = 64 << 10
)

// Server is the simulated API, below the path /v1, and the page that connects accounts, at /_static/connect.html. It is
// an [http.Handler], and all its methods are safe for concurrent use. Some faults end a request by panicking with
// [http.ErrAbortHandler], so it must be run by an [http.Server], as [Server.Start] and [Server.Transport] do.
type Server struct {
	seed [16]byte // makes the tokens of this server unique

	done      chan struct{} // closed by Close: hung and slow requests end
	closeOnce sync.Once
	accepting sync.WaitGroup // the goroutines that accept connections
	working   sync.WaitGroup // connections and the handlers of requests

	// mu guards everything below. It is never held while waiting for a client, the clock or another goroutine.
	mu sync.Mutex

	closed    bool
	serving   []service
	transport *http.Transport

	limits limits

	oldConnectForms    bool
	notFoundAs200      bool
	noCursorAtEnd      bool
	allowConnectScopes bool
	pageCap            int // most accounts on a page, whatever a request asks for; 0 for maxPage
	filtersAfterPaging bool
	noTotals           bool
	connectCredentials bool // Connect tokens get credentials
	errorObjects       bool
	times              TimeForm
	forms              forms
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
	oauthApps     map[string]*oauthApp     // by id
	linkPage      LinkPage
	onConnect     func(*Account)

	faults     []*activeFault
	log        []*Request
	violations []string
	anyCursor  bool // clients may have cursors that this server did not make
}

// Option configures a [Server] in [New].
type Option func(*Server)

// WithAPIKey sets the accepted user API key. The default is "pd_test_key".
func WithAPIKey(key string) Option { return func(s *Server) { s.apiKey = key } }

// WithOldConnectForms makes Connect answer in the older of its two documented forms: {"data":{account}} for one
// account, and {"data":{"accounts":[…]}} for a list.
func WithOldConnectForms() Option { return func(s *Server) { s.oldConnectForms = true } }

// WithNotFoundAs200 makes the answer for an unknown account a 200 with the error in its body, as has been seen, instead
// of a 404.
func WithNotFoundAs200() Option { return func(s *Server) { s.notFoundAs200 = true } }

// WithNoCursorAtEnd makes the end_cursor of a list's last page an empty string. Without it the last page has the cursor
// of its last account, as documented, and is followed by an empty page.
func WithNoCursorAtEnd() Option { return func(s *Server) { s.noCursorAtEnd = true } }

// WithPageCap caps the limit of lists: a page has no more than n accounts, whatever a request asks for.
func WithPageCap(n int) Option { return func(s *Server) { s.pageCap = n } }

// WithFiltersAfterPaging makes lists apply their filters to each page of the whole list. So a page can be short, or
// empty, though more accounts follow, and total_count is that of the whole list.
func WithFiltersAfterPaging() Option { return func(s *Server) { s.filtersAfterPaging = true } }

// WithoutTotals leaves total_count out of lists.
func WithoutTotals() Option { return func(s *Server) { s.noTotals = true } }

// WithConnectScopesOnWorkspace lets access tokens that only have Connect scopes read the accounts of the workspace.
// Without it they are refused with 403.
func WithConnectScopesOnWorkspace() Option { return func(s *Server) { s.allowConnectScopes = true } }

// WithErrorObjects makes the error of each failed request an object, {"error":{"base":["…"]}}, as it has been seen of some
// of them. The 429 of a rate limit stays as it is documented.
func WithErrorObjects() Option { return func(s *Server) { s.errorObjects = true } }

// WithOrgID makes lists of workspace accounts require this org_id if the request has a user API key.
func WithOrgID(id string) Option { return func(s *Server) { s.orgID = id } }

// New returns a server without accounts. A test in a synctest bubble must call it inside the bubble.
func New(opts ...Option) *Server {
	s := &Server{
		done:   make(chan struct{}),
		apiKey: defaultAPIKey,
		limits: limits{
			workspace:      workspaceAllowance,
			connect:        connectAllowance,
			connectToken:   tokenAllowance,
			proxy:          proxyAllowance,
			retryAfter:     true,
			headers:        true,
			projectWindows: map[string]*window{},
			proxyWindows:   map[string]*window{},
			userWindows:    map[connectUser]*window{},
		},
		workspace:     map[string]workspaceToken{},
		secrets:       map[string]struct{}{},
		accounts:      map[string]*account{},
		places:        map[string]int{},
		connectTokens: map[string]*connectToken{},
		oauthApps:     map[string]*oauthApp{},
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

	// The whole body is read first, because net/http notices that the client has gone away only after it has seen the
	// end of the request. A body that cannot be read is refused as invalid JSON.
	longest := int64(maxRequestBody)
	if routeOf(r.Method, r.URL).kind == KindProxy {
		longest = maxProxyBody + 1
	}
	body, _ := io.ReadAll(io.LimitReader(r.Body, longest))
	_, _ = io.Copy(io.Discard, r.Body)

	switch {
	case r.URL.Path == linkPath:
		s.serveLink(w, r, body)
	case isPreflight(r):
		servePreflight(w, r)
	default:
		s.arrive(w, r, body).serve()
	}
}

// enter registers a request unless the server is closed. Close waits for registered requests.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.working.Add(1)
	return true
}
