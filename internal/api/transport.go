package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/redact"
)

const (
	firstRetryWait   = 500 * time.Millisecond
	longestRetryWait = 5 * time.Second
)

// NewTransport returns the HTTP transport for a configuration. The PEM in caCert
// replaces the system's roots, unless it is empty. NewTransport fails if caCert
// has no certificate.
func NewTransport(caCert string) (*http.Transport, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 16
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	// A ping finds a connection that died silently before a reader's timeout does.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second}
	// Without this, the error for a refusal of a proxy has nothing but its text.
	transport.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return proxyError(resp.StatusCode)
		}
		return nil
	}
	if caCert != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(caCert)) {
			return nil, errors.New("has no PEM certificate")
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return transport, nil
}

// checkRetry retries network errors, 429 and 5xx, unless the wait before the retry
// would outlast the caller's deadline.
func (c *Client) checkRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	var own *Error
	if errors.As(err, &own) {
		return false, err
	}
	retry, err := retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	if deadline, ok := ctx.Deadline(); ok && retry {
		retry = time.Until(deadline) > c.backoff(firstRetryWait, longestRetryWait, 0, resp)
	}
	return retry, err
}

// backoff returns how long to wait before a retry: at least as long as the answer
// asks for, and until the hold-off of everything ends. A retry is a request like
// any other.
func (c *Client) backoff(least, most time.Duration, attempt int, resp *http.Response) time.Duration {
	wait := min(most, least<<min(attempt, 10))
	if resp != nil {
		wait = max(wait, c.retryAfter(resp))
	}
	return max(wait, time.Until(c.holdOffs.AllUntil()))
}

// request is one request to Pipedream.
type request struct {
	redact.Opaque

	what    string
	method  string
	path    []string
	query   url.Values
	body    []byte // JSON
	account string // id of the account that it is about; empty for none
	bearer  redact.Secret
	decode  func([]byte) error // reads the body of a 2xx answer; nil to ignore it
}

func (c *Client) newRequest(ctx context.Context, r request) (*retryablehttp.Request, error) {
	target := c.config.BaseURL.JoinPath(r.path...)
	target.RawQuery = r.query.Encode()
	req, err := retryablehttp.NewRequestWithContext(ctx, r.method, target.String(), r.body)
	if err != nil {
		return nil, &Error{Kind: Unavailable, Account: r.account, Detail: "no request can be made for base_url"}
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
	req.Header.Set("User-Agent", c.config.UserAgent)
	return req, nil
}

// send sends a request, with retries.
func (c *Client) send(ctx context.Context, r request) error {
	err := c.exchange(ctx, r)
	if c.config.Removes {
		return ofRemoval(err)
	}
	return c.ofProduct(err)
}

func (c *Client) exchange(ctx context.Context, r request) error {
	req, err := c.newRequest(ctx, r)
	if err != nil {
		return err
	}
	var raw []byte
	req.SetResponseHandler(func(resp *http.Response) error {
		raw, err = readBody(resp, r.maxAnswer())
		return err
	})
	resp, err := c.http.Do(req)
	if resp != nil {
		defer func() { _ = resp.Body.Close() }()
	}
	if err != nil {
		return WithAccount(c.connectionError(ctx, err), r.account)
	}
	if e := statusError(resp, raw, r, c.retryAfter(resp)); e != nil {
		return c.facts(e)
	}
	if r.decode == nil {
		return nil
	}
	err = c.decodeError(r, r.decode(raw))
	if b, ok := resp.Body.(*body); ok && err == nil { // it is Pipedream's own
		c.readClock(resp, b.sent, b.received)
	}
	return err
}

// decodeError returns the error for a body that could not be decoded because of
// err.
func (c *Client) decodeError(r request, err error) error {
	var large tooLargeError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNotFound):
		return c.facts(&Error{Kind: NotFound, Account: r.account})
	case errors.As(err, &large):
		return &Error{Kind: TooLarge, Account: r.account, Detail: err.Error()}
	default:
		return &Error{Kind: BadAnswer, Account: r.account, Detail: err.Error()}
	}
}

// maxAnswer returns how many bytes the answer may have.
func (r request) maxAnswer() int64 {
	if r.account != "" {
		return MaxAccountAnswer
	}
	return MaxAnswer
}

func readBody(resp *http.Response, most int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > most {
		return nil, &Error{Kind: TooLarge, Detail: fmt.Sprintf("it has more than %d MiB", most>>20)}
	}
	return body, nil
}

// statusError returns the error for an answer's status; nil for a 2xx. wait is what a 429
// asks for.
func statusError(resp *http.Response, body []byte, r request, wait time.Duration) *Error {
	e := &Error{Account: r.account, Status: resp.StatusCode}
	ofToken := r.bearer == ""
	_, ours := inForm(body)
	if ofToken {
		ours = refusesClient(body)
	}
	switch status := resp.StatusCode; {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusTooManyRequests: // whoever says so
		e.Kind, e.Wait = Throttled, wait
	case status >= 300 && status < 400:
		e.Kind, e.Detail = Unavailable, "it answered with a redirect, which is never followed; check base_url"
	case status < 500 && !ours:
		e.Kind, e.Detail = Unavailable, fmt.Sprintf("it answered with status %d, in a form that is not Pipedream's", status)
	case status == http.StatusUnauthorized, ofToken && (status == http.StatusBadRequest || status == http.StatusForbidden):
		e.Kind = KeyRefused
	case ofToken: // it says nothing about an account
		e.Kind, e.Detail = Unavailable, fmt.Sprintf("it answered with status %d", status)
	case status == http.StatusForbidden:
		e.Kind = Forbidden
	case status == http.StatusNotFound, status == http.StatusGone:
		e.Kind = NotFound
	case status == http.StatusPaymentRequired:
		e.Kind = PaymentRequired
	case status == http.StatusBadRequest, status == http.StatusUnprocessableEntity:
		e.Kind = Rejected
	default:
		e.Kind, e.Detail = Unavailable, fmt.Sprintf("it answered with status %d", status)
	}
	return e
}

// meter is the innermost round tripper. Every attempt, retries included, takes a
// slot of the budget. Every 429 holds everything off at once, unless the limit is
// that of one external user.
type meter struct {
	next   http.RoundTripper
	client *Client
}

// CloseIdleConnections lets http.Client reach the method of the transport.
func (m *meter) CloseIdleConnections() {
	if closer, ok := m.next.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

func (m *meter) RoundTrip(req *http.Request) (*http.Response, error) {
	release, err := m.client.budget.Acquire(req.Context())
	if err != nil {
		return nil, budgetError(err)
	}
	defer release()
	m.client.observer.Sent()
	ctx, cancel := context.WithCancelCause(req.Context())
	attempts := &attempts{client: m.client, fail: cancel}
	defer attempts.release()
	sent := time.Now()
	resp, err := m.next.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: attempts.gotConn})))
	var refused *pace.NoBudgetError
	if err != nil && errors.As(context.Cause(ctx), &refused) {
		err = budgetError(refused)
	}
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		// No request asks for this. Its body is the bare connection, and a read of it
		// would not end with the context.
		_ = resp.Body.Close()
		cancel(nil)
		return nil, &Error{Kind: Unavailable, Status: resp.StatusCode, Detail: fmt.Sprintf("it answered with status %d", resp.StatusCode)}
	}
	ofUser := m.client.config.Makes.ofUser() && req.Header.Get("Authorization") != "" // not of the client's own access token
	if resp.StatusCode == http.StatusTooManyRequests && !ofUser {
		wait := m.client.retryAfter(resp)
		m.client.holdOffs.FailedAll(backoff.Failure{Err: &Error{Kind: Throttled, Status: resp.StatusCode, Wait: wait}, Least: wait})
	}
	resp.Body = &body{ReadCloser: resp.Body, done: func() { cancel(nil) }, sent: sent, received: time.Now()}
	return resp, nil
}

// budgetError returns the client's error for a request that the budget refused.
func budgetError(err error) error {
	var refused *pace.NoBudgetError
	if errors.As(err, &refused) {
		return &Error{Kind: NoBudget, Wait: refused.Wait}
	}
	return err
}

// attempts counts the requests that can have reached the server in one round trip.
// When a reused connection turns out to be dead, net/http repeats a GET by itself
// on another one. That is a request like any other.
type attempts struct {
	client *Client
	fail   context.CancelCauseFunc

	mu       sync.Mutex // guards the fields below
	count    int
	releases []func()
}

func (a *attempts) gotConn(info httptrace.GotConnInfo) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count++; a.count == 1 {
		return // the meter took the slot for it
	}
	release, ok := a.client.budget.TryAcquire()
	if !ok {
		a.fail(&pace.NoBudgetError{Wait: a.client.budget.NextFree()})
		// The request may go out before net/http looks at its context, so the
		// connection is closed. One of HTTP/2 is shared with other requests and stays.
		if secure, ok := info.Conn.(*tls.Conn); !ok || secure.ConnectionState().NegotiatedProtocol != "h2" {
			_ = info.Conn.Close() // nothing was sent over it yet
		}
		return
	}
	a.client.observer.Sent()
	a.releases = append(a.releases, release)
}

func (a *attempts) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, release := range a.releases {
		release()
	}
}

// body is a response body that ends the context of its request when it is closed.
type body struct {
	io.ReadCloser

	done           func()
	sent, received time.Time // of the request and the head of its answer
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.done()
	return err
}
