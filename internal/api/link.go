package api

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/url"
	"time"

	"vault-plugin-secrets-pipedream/internal/redact"
)

// maxLink bounds a Connect link in bytes.
const maxLink = 4 << 10

// LinkRequest says whose account a Connect link connects, and to what. The token in
// the link is bound to ExternalUser, App and OAuthApp. Account, ScopeProfile and
// AppOverride are only wishes, because they are in the link's query, which whoever
// holds the link can change.
type LinkRequest struct {
	ExternalUser string
	App          string        // slug
	OAuthApp     string        // id of a custom OAuth client; empty for any
	Life         time.Duration // of the link
	Scope        string        // of the token in the link
	Account      string        // the account to reconnect; empty for a new one
	ScopeProfile string        // name of a set of the app's scopes; empty for the app's own
	AppOverride  string        // id of an app override; empty for none
	// SuccessURI and ErrorURI are where the browser goes at the end; empty for
	// Pipedream's own page.
	SuccessURI, ErrorURI string
}

// Link is a Connect link. An account that anybody connects through it belongs to
// the external user.
type Link struct {
	redact.Opaque

	URL       redact.Secret
	ExpiresAt time.Time
}

// Link makes a Connect link. [Config].Makes must be [ConnectLink].
func (c *Client) Link(ctx context.Context, r LinkRequest) (link *Link, err error) {
	asked := time.Now()
	err = c.makeToken(ctx, ForLink, connectTokenRequest{
		ExternalUserID: r.ExternalUser, AppID: r.App, OAuthAppID: r.OAuthApp, ExpiresIn: int64(r.Life.Seconds()), Scope: r.Scope,
		SuccessRedirectURI: r.SuccessURI, ErrorRedirectURI: r.ErrorURI,
	}, func(body []byte) (err error) {
		link, err = decodeLink(body, r, asked)
		return err
	})
	return link, err
}

var errBadLink = errors.New("its connect_link_url is not a link that a browser may be sent to")

// decodeLink reads the answer to a request for a link, sent at the time asked.
func decodeLink(body []byte, r LinkRequest, asked time.Time) (*Link, error) {
	var answer struct {
		URL       json.RawMessage `json:"connect_link_url"`
		ExpiresAt json.RawMessage `json:"expires_at"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return nil, errNotJSON
	}
	raw := text(answer.URL)
	u, err := url.Parse(raw)
	if err != nil || len(raw) > maxLink || u.Host == "" || u.User != nil || u.Opaque != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || !IsLoopback(u.Hostname())) {
		return nil, errBadLink
	}
	query := u.Query()
	for name, value := range map[string]string{
		"app": r.App, "oauthAppId": r.OAuthApp, "accountId": r.Account, "oauthScopeProfile": r.ScopeProfile, "appOverrideId": r.AppOverride,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	u.RawQuery = query.Encode()
	link := &Link{URL: redact.Secret(u.String()), ExpiresAt: moment(answer.ExpiresAt)}
	if link.ExpiresAt.IsZero() {
		link.ExpiresAt = asked.Add(r.Life)
	}
	return link, nil
}

// IsLoopback reports whether host is the local machine.
func IsLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
