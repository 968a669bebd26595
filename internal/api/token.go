package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"vault-plugin-secrets-pipedream/internal/redact"
)

// Product is what a client makes, in place of reading accounts.
type Product string

// The products, as errors name them.
const (
	ConnectLink  Product = "Connect link"
	ConnectToken Product = "Connect token"
	AccessToken  Product = "access token"
)

// ofUser reports whether Pipedream limits the product for each external user, so that
// a 429 holds no other user off.
func (p Product) ofUser() bool { return p == ConnectLink || p == ConnectToken }

// ScopeOfTokens is the only scope that is needed to make Connect links and Connect
// tokens. An access token with this scope alone cannot read accounts.
const ScopeOfTokens = "connect:tokens:create"

// TokenRequest says what a Connect token is good for: requests about one external user,
// within a scope.
type TokenRequest struct {
	ExternalUser   string
	Scope          string // names with spaces between them
	Life           time.Duration
	AllowedOrigins []string // from which a browser may use it; nil for none
}

// Token is a token for Pipedream's own API.
type Token struct {
	redact.Opaque

	Value redact.Secret
	// Life is how long it lives at most from when it was asked for.
	Life time.Duration
	// ExpiresAt is when it ends, by Pipedream's clock; zero if the answer does not tell.
	ExpiresAt time.Time
}

// connectTokenRequest is the body of a request for a Connect token. A Connect link has
// one, too.
type connectTokenRequest struct {
	ExternalUserID     string   `json:"external_user_id"`
	AppID              string   `json:"app_id,omitempty"`
	OAuthAppID         string   `json:"oauth_app_id,omitempty"`
	ExpiresIn          int64    `json:"expires_in"`
	Scope              string   `json:"scope"`
	SuccessRedirectURI string   `json:"success_redirect_uri,omitempty"`
	ErrorRedirectURI   string   `json:"error_redirect_uri,omitempty"`
	AllowedOrigins     []string `json:"allowed_origins,omitempty"`
}

// ConnectToken makes a Connect token. [Config].Makes must be [ConnectToken]. The token
// cannot be revoked.
func (c *Client) ConnectToken(ctx context.Context, r TokenRequest) (token *Token, err error) {
	err = c.makeToken(ctx, ForConnectToken, connectTokenRequest{
		ExternalUserID: r.ExternalUser, ExpiresIn: int64(r.Life.Seconds()), Scope: r.Scope, AllowedOrigins: r.AllowedOrigins,
	}, func(body []byte) (err error) {
		token, err = decodeConnectToken(body, r.Life)
		return err
	})
	return token, err
}

// makeToken asks for a Connect token.
func (c *Client) makeToken(ctx context.Context, what string, r connectTokenRequest, decode func([]byte) error) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	return c.ofProduct(c.do(ctx, request{
		what: what, method: http.MethodPost, path: []string{"connect", url.PathEscape(c.config.ProjectID), "tokens"}, body: body, decode: decode,
	}))
}

var errNoConnectToken = errors.New("it has no token")

// decodeConnectToken reads the answer to a request for a Connect token with that life.
func decodeConnectToken(body []byte, life time.Duration) (*Token, error) {
	var answer struct {
		Token     json.RawMessage `json:"token"`
		ExpiresAt json.RawMessage `json:"expires_at"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return nil, errNotJSON
	}
	t := &Token{Value: redact.Secret(text(answer.Token)), Life: life, ExpiresAt: moment(answer.ExpiresAt)}
	if CheckSecret(t.Value) != nil {
		return nil, errNoConnectToken
	}
	return t, nil
}

// AccessToken makes an access token with a scope. [Config].Makes must be [AccessToken].
// The token is good for every user of every project of the client's workspace, within
// its scope.
func (c *Client) AccessToken(ctx context.Context, scope string) (*Token, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	began := time.Now()
	token, err := c.requestToken(ctx, scope)
	c.observer.Answered(ForAccessToken, time.Since(began), err)
	var e *Error
	if errors.As(err, &e) {
		refused := *e
		refused.Scope = scope // and not that of the client's own tokens
		err = &refused
	}
	if err != nil {
		return nil, err
	}
	c.holdOffs.SucceededAll()
	return &Token{Value: token.token, Life: token.life}, nil
}

// ofProduct returns err as an error about what the client makes.
func (c *Client) ofProduct(err error) error {
	var e *Error
	if c.config.Makes == "" || !errors.As(err, &e) {
		return err
	}
	about := *e
	about.Product = c.config.Makes
	return &about
}
