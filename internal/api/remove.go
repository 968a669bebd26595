package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
)

// The scopes that are needed to remove accounts and external users. An access token
// with one of them alone can neither read accounts nor make links.
const (
	ScopeOfAccounts = "connect:accounts:write"
	ScopeOfUsers    = "connect:users:write"
)

// ErrNoPath says that a request for an external user cannot be sent, because a proxy
// could take the id in its path for another one.
var ErrNoPath = errors.New("an id with a part . or .. cannot be sent in a path")

// RemoveAccount disconnects an account of the Connect project. Its credentials are gone
// for good. found is not set if there was no such account. The client must have
// [Config].Removes set. After an error for which [MayBeDone] is true, the account may be
// gone or not; after any other, nothing was changed.
func (c *Client) RemoveAccount(ctx context.Context, id string) (found bool, err error) {
	return c.remove(ctx, "accounts", id)
}

// RemoveUser is like [Client.RemoveAccount], for an external user and everything that
// Pipedream has of them. It fails with [ErrNoPath] for ids that no path can have.
func (c *Client) RemoveUser(ctx context.Context, user string) (found bool, err error) {
	isDots := func(part string) bool { return part == "." || part == ".." }
	if slices.ContainsFunc(strings.FieldsFunc(user, func(r rune) bool { return r == '/' || r == '\\' }), isDots) {
		return false, ErrNoPath
	}
	return c.remove(ctx, "users", user)
}

func (c *Client) remove(ctx context.Context, kind, name string) (found bool, err error) {
	if err := c.holdOffs.CheckAll(); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	if _, err := c.auth.bearer(ctx); err != nil { // before anything can have been done
		if errors.Is(err, context.DeadlineExceeded) {
			err = ofRemoval(c.connectionError(ctx, err))
		}
		return false, err
	}
	err = c.do(ctx, request{
		what: ForRemoval, method: http.MethodDelete, path: []string{"connect", url.PathEscape(c.config.ProjectID), kind, url.PathEscape(name)},
		decode: decodeRemoved,
	})
	var e *Error
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &e) && e.Kind == NotFound:
		return false, nil
	case e != nil && isUndecided(e):
		undecided := *e
		undecided.Undecided = true
		return false, &undecided
	default:
		return false, err
	}
}

// decodeRemoved reads the answer to a removal that says it succeeded. It has no body to
// rely on, but what is not JSON did not come from Pipedream.
func decodeRemoved(body []byte) error {
	var answer any
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return nil
	case json.Unmarshal(body, &answer) != nil:
		return errNotJSON
	}
	if object, ok := answer.(map[string]any); ok && object["error"] != nil {
		return errorInstead(body)
	}
	return nil
}

// isUndecided reports whether what was asked for may have been done in spite of e. Only
// an answer that refuses it says that it was not, or that nothing was sent.
func isUndecided(e *Error) bool {
	switch e.Kind {
	case Unavailable:
		refused := e.Status >= 300 && e.Status < 500 && e.Status != http.StatusRequestTimeout
		return !e.NotSent && !refused
	case BadAnswer, TooLarge:
		return true
	default:
		return false
	}
}

// MayBeDone reports whether a removal that failed with err may have been done in spite
// of that. That is so for errors of other packages, too.
func MayBeDone(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return err != nil && !errors.Is(err, ErrNoPath)
	}
	return e.Undecided
}

// ofRemoval returns err as an error about the removal of an account or a user.
func ofRemoval(err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	about := *e
	about.Removal = true
	return &about
}

// neverSent reports whether a connection failed before a request could go out over it.
func neverSent(err error) bool {
	var (
		dns     *net.DNSError
		tlsAny  *tls.CertificateVerificationError
		tlsHead tls.RecordHeaderError
		proxy   proxyError
		op      *net.OpError
	)
	return errors.As(err, &dns) || errors.As(err, &tlsAny) || errors.As(err, &tlsHead) || errors.As(err, &proxy) ||
		errors.Is(err, http.ErrSchemeMismatch) || errors.Is(err, syscall.ECONNREFUSED) ||
		errors.As(err, &op) && slices.Contains([]string{"dial", "proxyconnect", "socks connect"}, op.Op)
}
