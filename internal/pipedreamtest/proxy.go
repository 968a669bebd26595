package pipedreamtest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
)

const (
	// proxyPrefix begins the names of headers that are for the app.
	proxyPrefix = "x-pd-proxy-"

	// maxProxyBody is how long a body may be that the proxy forwards, in either direction.
	maxProxyBody = 16 << 20
)

// These headers belong to a connection or are the proxy's own business.
var notForwarded = []string{"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

var (
	errTarget       = errors.New("the URL cannot be read")
	errTargetRemote = errors.New("the simulated proxy forwards to loopback addresses only")
)

// answerProxy sends the request to an app with the account's current credential, and answers with the app's answer. It
// holds no lock while it waits for the app.
func (s *Server) answerProxy(x *exchange, environment string) *answer {
	if len(x.body) > maxProxyBody {
		return failure(http.StatusRequestEntityTooLarge, "the body is too long")
	}
	target, err := proxyTarget(x.url64)
	if err != nil {
		return failure(http.StatusBadRequest, err.Error())
	}
	authorization, refusal := s.proxyCredential(x, environment)
	if refusal != nil {
		return refusal
	}
	a, err := x.forward(target, authorization)
	if err != nil {
		return failure(http.StatusBadGateway, "the app does not answer")
	}
	return a
}

// proxyTarget decodes the URL that a request is for. It is in base64, with either of the two alphabets: the
// documentation has the one for URLs, and the SDK escapes the other.
func proxyTarget(url64 string) (*url.URL, error) {
	text := strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(url64), "=")
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, errTarget
	}
	u, err := url.Parse(string(raw))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errTarget
	}
	address, err := netip.ParseAddr(u.Hostname())
	if u.Hostname() != "localhost" && (err != nil || !address.Unmap().IsLoopback()) {
		return nil, errTargetRemote
	}
	u.User, u.Fragment = nil, ""
	return u, nil
}

// proxyCredential returns the header with the account's credential, or why the request is refused. Accounts that come
// without credentials have one here.
func (s *Server) proxyCredential(x *exchange, environment string) (authorization string, refusal *answer) {
	q := x.r.URL.Query()
	user, id := q.Get("external_user_id"), q.Get("account_id")
	if user == "" || id == "" {
		return "", failure(http.StatusBadRequest, "external_user_id and account_id are required")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[id]
	switch {
	case a == nil || !a.in(x.project, environment):
		return "", s.notFound()
	case a.ExternalUserID != user:
		return "", failureObject(http.StatusBadRequest, "account", "account and user mismatch")
	}
	a.advance(wallClock())
	credentials := s.renderCredentials(a)
	s.keepCredentials(credentials)
	if secret := mainSecret(credentials); secret != "" {
		return "Bearer " + secret, nil
	}
	return "", nil
}

// mainSecret returns the credential that opens the app: the OAuth token, or the key, or else the first text by name.
func mainSecret(credentials json.RawMessage) string {
	var fields map[string]any
	_ = json.Unmarshal(credentials, &fields) // a test can have made it something else, which opens nothing
	names := slices.Sorted(maps.Keys(fields))
	for _, name := range append([]string{"oauth_access_token", "api_key"}, names...) {
		if secret, ok := fields[name].(string); ok {
			return secret
		}
	}
	return ""
}

// loopbackOnly dials no other machine, whatever a name resolves to.
var loopbackOnly = net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
	if to, err := netip.ParseAddrPort(address); err != nil || !to.Addr().Unmap().IsLoopback() {
		return errTargetRemote
	}
	return nil
}}

// forward sends the request to the app. It follows no redirects.
func (x *exchange) forward(target *url.URL, authorization string) (*answer, error) {
	ctx, cancel := context.WithCancel(x.r.Context())
	defer cancel()
	go func() {
		select {
		case <-x.s.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	req, err := http.NewRequestWithContext(ctx, x.r.Method, target.String(), bytes.NewReader(x.body))
	if err != nil {
		return nil, err
	}
	req.Header = x.forwardedHeader()
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	transport := &http.Transport{DialContext: loopbackOnly.DialContext, DisableKeepAlives: true, DisableCompression: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxProxyBody+1))
	if err == nil && len(body) > maxProxyBody {
		err = errors.New("the answer is too long")
	}
	if err != nil {
		return nil, err
	}
	header := res.Header.Clone()
	for _, name := range notForwarded {
		header.Del(name)
	}
	header["Content-Type"] = res.Header.Values("Content-Type") // none if the app says nothing
	return &answer{status: res.StatusCode, header: header, body: body}, nil
}

// forwardedHeader returns the header for the app: what begins with proxyPrefix, and the type of the body.
func (x *exchange) forwardedHeader() http.Header {
	header := http.Header{"User-Agent": {"pipedream-sim"}}
	if len(x.body) > 0 {
		header.Set("Content-Type", cmp.Or(x.r.Header.Get("Content-Type"), mediaJSON))
	}
	for name, values := range x.r.Header {
		bare, ok := strings.CutPrefix(name, http.CanonicalHeaderKey(proxyPrefix))
		bare = http.CanonicalHeaderKey(bare)
		if ok && bare != "" && !slices.Contains(notForwarded, bare) {
			header[bare] = values
		}
	}
	return header
}
