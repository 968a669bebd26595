package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
)

// connectionError says in words of our own why there is no answer. The texts of
// net/http can contain parts of what the other side sent, and a proxy's password.
func (c *Client) connectionError(ctx context.Context, err error) error {
	var (
		own     *Error
		refused proxyError
		op      *net.OpError
	)
	detail := reason(err)
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled
	case errors.As(err, &refused) && refused == http.StatusProxyAuthRequired:
		detail = "the proxy wants a login"
	case errors.As(err, &refused):
		detail = fmt.Sprintf("the proxy answered with status %d", int(refused))
	case errors.As(err, &op) && (op.Op == "proxyconnect" || op.Op == "socks connect"):
		detail = "the proxy cannot be used: " + detail
	}
	proxy, bad := c.proxy()
	if bad {
		detail = "the address of the proxy in Vault's environment is not valid"
	}
	place := c.config.BaseURL.Host
	if proxy != "" { // without its user and password
		place += " through the proxy " + proxy
	}
	return &Error{Kind: Unavailable, Detail: detail + " (" + place + ")", NotSent: neverSent(err)}
}

// reason says what is wrong with a connection.
func reason(err error) (detail string) {
	var (
		dns     *net.DNSError
		tlsAny  *tls.CertificateVerificationError
		tlsHead tls.RecordHeaderError
		timeout net.Error
	)
	switch {
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
	return detail
}

// proxyError is the status with which a proxy refuses to connect to Pipedream.
type proxyError int

func (p proxyError) Error() string { return "refused by the proxy" }

// proxy returns the host of the proxy on the way to Pipedream; empty for none. bad is
// set if its address is not valid.
func (c *Client) proxy() (host string, bad bool) {
	if c.proxyFor == nil {
		return "", false
	}
	proxy, err := c.proxyFor(&http.Request{URL: c.config.BaseURL})
	if err != nil || proxy == nil {
		return "", err != nil
	}
	return proxy.Host, false
}

// NoAnswer returns the error for an account about which Pipedream did not answer in
// time.
func (c *Client) NoAnswer(id string) error {
	return WithAccount(c.connectionError(context.Background(), context.DeadlineExceeded), id)
}
