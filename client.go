package pipedream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-retryablehttp"
)

const (
	// pageLimit is the most accounts that Pipedream lists in one answer.
	pageLimit = 100
	// maxPages ends a listing whose cursors never do.
	maxPages = 10_000
	// maxAnswer bounds an answer's size in bytes: 100 accounts of 40 kB each.
	maxAnswer = 4 << 20
	// maxRetryAfter bounds what Retry-After may ask for, so that a slip of
	// Pipedream's cannot put a mount out of service for a day.
	maxRetryAfter = 10 * time.Minute

	firstRetryWait   = 500 * time.Millisecond
	longestRetryWait = 5 * time.Second
)

// client speaks Pipedream's API with one configuration. It knows nothing of
// Vault. All its errors are of type *apiError, or the context's own.
type client struct {
	opaque

	config *config
	base   *url.URL
	auth   authorizer
	http   *retryablehttp.Client
	// holdoffs end with the client: a write of config ends them all, and what an
	// old client is still up to starts none.
	holdoffs *holdoffs
	traffic
}

// traffic is what all clients of a mount share. It outlives them: a new
// configuration does not refill the budget.
type traffic struct {
	budget *budget
	stats  *stats
	logger func() hclog.Logger
}

// newTransport returns the HTTP transport for a configuration; caCert is PEM
// and empty for the system's roots.
func newTransport(caCert string) (*http.Transport, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 16
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	// A connection that died silently is noticed by a ping, not by a reader's timeout.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second}
	if caCert != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(caCert)) {
			return nil, errors.New("no certificate in it")
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return transport, nil
}

// newClient returns a client that sends over transport as config says. What it
// does on nobody's behalf ends with ctx.
func newClient(ctx context.Context, config *config, transport http.RoundTripper, t traffic) (*client, error) {
	base, err := parseBaseURL(config.BaseURL)
	if err != nil {
		return nil, err
	}
	c := &client{config: config, base: base, traffic: t, holdoffs: newHoldoffs(), auth: apiKey(config.APIKey)}
	if config.ClientID != "" {
		c.auth = newOAuthClient(ctx, config.RequestTimeout, c.guardedToken)
	}
	c.http = &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport: &meter{next: transport, client: c},
			// Redirects are never followed: the API has none, and the key must
			// not go where one points.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		RetryMax:     config.MaxRetries,
		RetryWaitMin: firstRetryWait,
		RetryWaitMax: longestRetryWait,
		CheckRetry:   c.checkRetry,
		Backoff:      c.backoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	return c, nil
}

// close ends the connections that are idle; those in use end with their request.
func (c *client) close() { c.http.HTTPClient.CloseIdleConnections() }

// checkRetry retries network errors, 429 and 5xx, unless the wait before it
// would outlast the caller's deadline.
func (c *client) checkRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	var own *apiError
	if errors.As(err, &own) {
		return false, err
	}
	retry, err := retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	if deadline, ok := ctx.Deadline(); ok && retry {
		retry = time.Until(deadline) > c.backoff(firstRetryWait, longestRetryWait, 0, resp)
	}
	return retry, err
}

// backoff waits for as long as the answer asks, and for the mount's hold-off
// to end: a retry is a request like any other.
func (c *client) backoff(least, most time.Duration, attempt int, resp *http.Response) time.Duration {
	wait := min(most, least<<min(attempt, 10))
	if resp != nil {
		wait = max(wait, retryAfter(resp.Header))
	}
	return max(wait, time.Until(c.holdoffs.mountUntil()))
}

// retryAfter reads the header of that name: seconds or a date, 0 where there is none.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	wait := time.Duration(0)
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = time.Until(at)
	}
	return min(max(0, wait), maxRetryAfter)
}

// accountsPath is where accounts are: in the Connect project, or in the workspace.
func (c *client) accountsPath(more ...string) []string {
	path := []string{"accounts"}
	if c.config.ProjectID != "" {
		path = []string{"connect", url.PathEscape(c.config.ProjectID), "accounts"}
	}
	return append(path, more...)
}

// getAccount fetches one account.
func (c *client) getAccount(ctx context.Context, id string, withCredentials bool) (*account, error) {
	query := url.Values{}
	if withCredentials {
		query.Set("include_credentials", "1")
	}
	var a *account
	err := c.get(ctx, id, query, c.accountsPath(url.PathEscape(id)), func(body []byte) (err error) {
		a, err = decodeAccount(body)
		return err
	})
	return a, err
}

// listFilter narrows a list of accounts; its zero value does not.
type listFilter struct {
	app             string // slug or id
	externalUser    string // in a Connect project
	withCredentials bool
}

// page is one page of a list of accounts.
type page struct {
	accounts []*account
	next     string // cursor of the next page; empty after the last
	total    int    // accounts on all pages; 0 if unknown
}

// listPage fetches the page of the list that begins after a cursor.
func (c *client) listPage(ctx context.Context, filter listFilter, after string) (*page, error) {
	query := url.Values{"limit": {strconv.Itoa(pageLimit)}}
	for name, value := range map[string]string{"app": filter.app, "external_user_id": filter.externalUser, "after": after} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if filter.withCredentials {
		query.Set("include_credentials", "1")
	}
	var p *page
	err := c.get(ctx, "", query, c.accountsPath(), func(body []byte) (err error) {
		if p, err = decodePage(body); err == nil && p.next != "" && p.next == after {
			err = errEndlessList
		}
		return err
	})
	return p, err
}

// listAccounts fetches every page of the accounts that there are, and hands
// them to each page by page.
func (c *client) listAccounts(ctx context.Context, filter listFilter, each func([]*account)) error {
	after := ""
	for range maxPages {
		p, err := c.listPage(ctx, filter, after)
		if err != nil {
			return err
		}
		each(p.accounts)
		if p.next == "" {
			return nil
		}
		after = p.next
	}
	return &apiError{kind: failUnavailable, detail: errEndlessList.Error()}
}

// verify checks that Pipedream accepts what it is asked with.
func (c *client) verify(ctx context.Context) error {
	if c.config.ClientID == "" && c.config.ProjectID == "" {
		return c.get(ctx, "", nil, []string{"users", "me"}, nil)
	}
	if c.config.ProjectID == "" {
		_, err := c.auth.bearer(ctx)
		return err
	}
	// Only the project's own path tells whether the project may be read.
	return c.get(ctx, "", url.Values{"limit": {"1"}}, c.accountsPath(), nil)
}

func (c *client) guardedToken(ctx context.Context) (token *accessToken, err error) {
	err = guard(c.logger(), func() (err error) {
		token, err = c.requestToken(ctx)
		return err
	})
	return token, err
}

// requestToken fetches an access token for the OAuth client.
func (c *client) requestToken(ctx context.Context) (*accessToken, error) {
	fields := map[string]string{
		"grant_type":    "client_credentials",
		"client_id":     c.config.ClientID,
		"client_secret": string(c.config.ClientSecret),
	}
	if c.config.Scope != "" {
		fields["scope"] = c.config.Scope
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	asked := time.Now()
	var token *accessToken
	err = c.send(ctx, request{method: http.MethodPost, path: []string{"oauth", "token"}, body: body, decode: func(body []byte) (err error) {
		token, err = decodeToken(body, asked)
		return err
	}})
	c.settle(err)
	return token, err
}

// get sends an authorized request and has decode read the body of a 2xx
// answer; nil reads nothing. Where what it was authorized with is refused and
// can be had anew, it is sent once more.
func (c *client) get(ctx context.Context, id string, query url.Values, path []string, decode func([]byte) error) error {
	for retried := false; ; retried = true {
		bearer, err := c.auth.bearer(ctx)
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) { // while others fetch the token
				err = c.connectionError(ctx, id, err)
			}
			return withAccount(err, id)
		}
		err = c.send(ctx, request{method: http.MethodGet, path: path, query: query, account: id, bearer: bearer, decode: decode})
		if isRefusal(err) && !retried && c.auth.refused(bearer) {
			continue
		}
		c.settle(err)
		return err
	}
}

// request is one request to Pipedream.
type request struct {
	opaque

	method  string
	path    []string
	query   url.Values
	body    []byte // JSON
	account string // that it is about; empty for none
	bearer  secret
	decode  func([]byte) error // reads the body of a 2xx answer; nil for none
}

func (c *client) newRequest(ctx context.Context, r request) (*retryablehttp.Request, error) {
	target := c.base.JoinPath(r.path...)
	target.RawQuery = r.query.Encode()
	req, err := retryablehttp.NewRequestWithContext(ctx, r.method, target.String(), r.body)
	if err != nil {
		return nil, &apiError{kind: failUnavailable, account: r.account, detail: "no request can be made for base_url"}
	}
	if r.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+string(r.bearer))
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.config.ProjectID != "" {
		req.Header.Set("x-pd-environment", c.config.Environment)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "vault-plugin-secrets-pipedream/"+version)
	return req, nil
}

// send sends a request, with retries.
func (c *client) send(ctx context.Context, r request) error {
	req, err := c.newRequest(ctx, r)
	if err != nil {
		return err
	}
	var body []byte
	req.SetResponseHandler(func(resp *http.Response) error {
		body, err = readBody(resp)
		return err
	})
	resp, err := c.http.Do(req)
	if resp != nil {
		defer func() { _ = resp.Body.Close() }()
	}
	if err != nil {
		return c.fail(c.connectionError(ctx, r.account, err))
	}
	if err := statusError(resp, r); err != nil {
		return c.fail(err)
	}
	if r.decode == nil {
		return nil
	}
	switch err := r.decode(body); {
	case err == nil:
		return nil
	case errors.Is(err, errRecordNotFound):
		return c.fail(&apiError{kind: failUnknownAccount, account: r.account})
	default:
		return &apiError{kind: failUnavailable, account: r.account, detail: err.Error()}
	}
}

func readBody(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, &apiError{kind: failUnavailable, detail: fmt.Sprintf("its answer is larger than %d MiB", maxAnswer>>20)}
	}
	return body, nil
}

// statusError is the error that an answer's status means; nil for a 2xx.
func statusError(resp *http.Response, r request) error {
	id := r.account
	switch status := resp.StatusCode; {
	case status >= 200 && status < 300:
		return nil
	case r.bearer == "" && (status == http.StatusBadRequest || status == http.StatusForbidden):
		// RFC 6749, section 5.2: how a token endpoint refuses a client or its scope.
		return &apiError{kind: failKeyRefused, account: id}
	case status == http.StatusUnauthorized:
		return &apiError{kind: failKeyRefused, account: id}
	case status == http.StatusForbidden:
		return &apiError{kind: failForbidden, account: id}
	case status == http.StatusNotFound:
		return &apiError{kind: failUnknownAccount, account: id}
	case status == http.StatusTooManyRequests:
		return &apiError{kind: failThrottled, account: id, retryAfter: retryAfter(resp.Header)}
	case status >= 300 && status < 400:
		return &apiError{kind: failUnavailable, account: id, detail: "it answered with a redirect, which is never followed; check base_url"}
	default:
		return &apiError{kind: failUnavailable, account: id, detail: fmt.Sprintf("it answered with status %d", status)}
	}
}

// connectionError says in our own words why there is no answer: the texts of
// net/http can hold pieces of what the other side sent.
func (c *client) connectionError(ctx context.Context, id string, err error) error {
	var (
		own     *apiError
		dns     *net.DNSError
		tlsAny  *tls.CertificateVerificationError
		tlsHead tls.RecordHeaderError
		timeout net.Error
		detail  string
	)
	switch {
	case errors.As(err, &own):
		return &apiError{kind: own.kind, account: id, detail: own.detail, retryAfter: own.retryAfter}
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		detail = "it did not answer in time"
	case errors.As(err, &dns):
		detail = "its host name cannot be resolved"
	case errors.As(err, &tlsAny):
		detail = "its TLS certificate is not trusted; check base_url and ca_cert"
	case errors.As(err, &tlsHead), errors.Is(err, http.ErrSchemeMismatch):
		detail = "it does not speak TLS; check base_url"
	case errors.Is(err, syscall.ECONNREFUSED):
		detail = "the connection was refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		detail = "the connection timed out"
	default:
		detail = "the connection failed"
	}
	return &apiError{kind: failUnavailable, account: id, detail: detail + " (" + c.base.Host + ")"}
}

// fail completes an error with how and where accounts are asked for.
func (c *client) fail(err error) error {
	if api := (*apiError)(nil); errors.As(err, &api) {
		api.oauth = c.config.ClientID != ""
		api.project, api.environment = c.config.ProjectID, c.config.Environment
	}
	return err
}

// settle writes the outcome of a request to the mount's hold-off and counters.
func (c *client) settle(err error) {
	c.stats.outcome(err)
	switch {
	case err == nil:
		c.holdoffs.succeededMount()
	case isRefusal(err):
		c.holdoffs.failedMount(err, 0)
	}
}

// meter is the innermost round tripper: every attempt, retries included,
// takes a slot of the budget, and every 429 holds the mount off at once.
type meter struct {
	next   http.RoundTripper
	client *client
}

// CloseIdleConnections lets http.Client reach the transport's method.
func (m *meter) CloseIdleConnections() {
	if closer, ok := m.next.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	release, err := m.client.budget.acquire(req.Context(), reserveOf(req.Context()))
	if err != nil {
		return nil, err
	}
	defer release()
	m.client.stats.requests.Add(1)
	resp, err := m.next.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		wait := retryAfter(resp.Header)
		m.client.holdoffs.failedMount(&apiError{kind: failThrottled, retryAfter: wait}, wait)
	}
	return resp, err
}

type reserveKey struct{}

// withReserve marks requests that must leave n slots of the budget alone.
func withReserve(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, reserveKey{}, n)
}

func reserveOf(ctx context.Context) int {
	n, _ := ctx.Value(reserveKey{}).(int)
	return n
}
