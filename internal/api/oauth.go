package api

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sync/singleflight"

	"vault-plugin-secrets-pipedream/internal/redact"
)

// tokenMargin is how long before its end an access token goes out of use.
const tokenMargin = time.Minute

// MaxSecret bounds a key, an id or a token in characters.
const MaxSecret = 4096

// authorizer provides the bearer of requests to Pipedream.
type authorizer interface {
	bearer(ctx context.Context) (redact.Secret, error)
	// refused notes that Pipedream refused a bearer. It reports whether another one
	// can be had.
	refused(bearer redact.Secret) bool
}

// apiKey is a user's API key.
type apiKey struct {
	redact.Opaque

	key redact.Secret
}

func (k apiKey) bearer(context.Context) (redact.Secret, error) { return k.key, nil }
func (k apiKey) refused(redact.Secret) bool                    { return false }

// accessToken is a workspace's access token.
type accessToken struct {
	redact.Opaque

	token redact.Secret
	until time.Time // when it goes out of use
	life  time.Duration
}

// oauthClient is a workspace's OAuth client. All requests share its access token.
type oauthClient struct {
	redact.Opaque

	ctx     context.Context // of fetches, which go on when those who wait for them give up
	timeout time.Duration
	request func(context.Context) (*accessToken, error)
	fetches singleflight.Group

	mu      sync.Mutex // guards current; not held while a token is fetched
	current *accessToken
}

func newOAuthClient(ctx context.Context, timeout time.Duration, request func(context.Context) (*accessToken, error)) *oauthClient {
	return &oauthClient{ctx: ctx, timeout: timeout, request: request}
}

func (o *oauthClient) bearer(ctx context.Context) (redact.Secret, error) {
	if t := o.usable(); t != nil {
		return t.token, nil
	}
	fetched := o.fetches.DoChan("", func() (any, error) {
		if t := o.usable(); t != nil { // from a fetch that ended since
			return t.token, nil
		}
		ctx, cancel := context.WithTimeout(o.ctx, o.timeout)
		defer cancel()
		t, err := o.request(ctx)
		if err != nil {
			return redact.Secret(""), err
		}
		o.mu.Lock()
		o.current = t
		o.mu.Unlock()
		return t.token, nil
	})
	select {
	case result := <-fetched:
		return result.Val.(redact.Secret), result.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (o *oauthClient) usable() *accessToken {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.current == nil || !time.Now().Before(o.current.until) {
		return nil
	}
	return o.current
}

func (o *oauthClient) refused(bearer redact.Secret) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.current != nil && o.current.token == bearer {
		o.current = nil
	}
	return true
}

var errBadLife = errors.New("the expires_in of its access token is not a number of seconds")

// decodeToken reads the token endpoint's answer to a request that was sent at the time asked. A token
// that lives for less than two margins is used for half its life.
func decodeToken(body []byte, asked time.Time) (*accessToken, error) {
	var answer struct {
		AccessToken string      `json:"access_token"`
		ExpiresIn   json.Number `json:"expires_in"`
	}
	if json.Unmarshal(body, &answer) != nil || CheckSecret(redact.Secret(answer.AccessToken)) != nil {
		return nil, errNotJSON
	}
	seconds, err := answer.ExpiresIn.Float64()
	if err != nil || seconds <= 0 {
		return nil, errBadLife
	}
	// A duration overflows beyond 292 years. A day is long enough to keep a token.
	life := time.Duration(min(seconds, (24*time.Hour).Seconds()) * float64(time.Second))
	return &accessToken{token: redact.Secret(answer.AccessToken), until: asked.Add(max(life-tokenMargin, life/2)), life: life}, nil
}

// The errors of [CheckSecret].
var (
	ErrEmpty        = errors.New("is missing")
	ErrTooLong      = errors.New("is longer than 4096 characters")
	ErrQuoted       = errors.New("is in quotes: leave them out")
	ErrBadCharacter = errors.New("has a character that is not allowed in it, such as a space or a line break")
)

// CheckSecret returns an error unless s can be a key, a client's id or secret, or a
// token. Its errors follow the name of the field in a sentence, and never show s.
func CheckSecret(s redact.Secret) error {
	switch {
	case s == "":
		return ErrEmpty
	case len(s) > MaxSecret:
		return ErrTooLong
	case strings.ContainsAny(string(s[:1]+s[len(s)-1:]), "\"'`"):
		return ErrQuoted
	}
	for _, r := range string(s) {
		if r > unicode.MaxASCII || !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			return ErrBadCharacter
		}
	}
	return nil
}
