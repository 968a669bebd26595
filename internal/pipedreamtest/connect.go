package pipedreamtest

import (
	"cmp"
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// maxConnectTokenLife is the longest life of a Connect token, and the default.
const maxConnectTokenLife = 4 * time.Hour

// connectTokenRequest is the body of a request for a Connect token.
type connectTokenRequest struct {
	ExternalUserID         string   `json:"external_user_id"`
	AppID                  string   `json:"app_id"` // or the slug
	OAuthAppID             string   `json:"oauth_app_id"`
	ExpiresIn              *int64   `json:"expires_in"` // in seconds
	Scope                  string   `json:"scope"`
	SuccessRedirectURI     string   `json:"success_redirect_uri"`
	ErrorRedirectURI       string   `json:"error_redirect_uri"`
	WebhookURI             string   `json:"webhook_uri"` // checked but never called
	AllowedOrigins         []string `json:"allowed_origins"`
	AllowProgressiveScopes bool     `json:"allow_progressive_scopes"`
}

// connectToken is a Connect token that was handed out. Server.mu guards it.
type connectToken struct {
	connectTokenRequest
	project, environment string
	expires              time.Time
	used                 bool
}

// connectUser returns the user that a Connect token is requested for.
func (x *exchange) connectUser() connectUser {
	return connectUser{x.project, x.environment(), x.connect.ExternalUserID}
}

// parseConnectTokenRequest reads the body of a request for a Connect token. bad says what is wrong with it.
func parseConnectTokenRequest(contentType string, body []byte) (req connectTokenRequest, bad string) {
	if media, _, _ := mime.ParseMediaType(contentType); media != mediaJSON {
		return req, "the body must be JSON"
	}
	if err := json.Unmarshal(body, &req); err != nil {
		return req, "the body is not as it should be"
	}
	switch {
	case req.ExternalUserID == "":
		return req, "external_user_id is required"
	case utf8.RuneCountInString(req.ExternalUserID) > maxExternalUserID:
		return req, "external_user_id is too long"
	case req.OAuthAppID != "" && !strings.HasPrefix(req.OAuthAppID, prefixOAuthApp):
		return req, "oauth_app_id must begin with oa_"
	case req.ExpiresIn != nil && (*req.ExpiresIn < 1 || *req.ExpiresIn > int64(maxConnectTokenLife/time.Second)):
		return req, "expires_in must be between 1 and 14400"
	}
	for scope := range strings.FieldsSeq(req.Scope) {
		if !isScope(scope) || scope == scopeAll {
			return req, "scope is not one of Connect"
		}
	}
	for _, uri := range append([]string{req.SuccessRedirectURI, req.ErrorRedirectURI, req.WebhookURI}, req.AllowedOrigins...) {
		if u, err := url.Parse(uri); uri != "" && (err != nil || u.Scheme == "" || u.Host == "") {
			return req, "a URI is not absolute"
		}
	}
	return req, ""
}

// life is how long the token lives.
func (r *connectTokenRequest) life() time.Duration {
	if r.ExpiresIn == nil {
		return maxConnectTokenLife
	}
	return time.Duration(*r.ExpiresIn) * time.Second
}

// answerConnectToken hands out a Connect token.
func (s *Server) answerConnectToken(x *exchange, environment string) *answer {
	if x.invalid != "" {
		return failure(http.StatusBadRequest, x.invalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.crowded(x.connectUser()) {
		return failure(http.StatusBadRequest, "the development environment has at most 10 external users")
	}
	expires := wallClock().Add(x.connect.life())
	s.serial++
	token := "ctok_" + s.mark("connect", s.serial, 0) + s.mark("connect", s.serial, 1)
	s.connectTokens[token] = &connectToken{
		connectTokenRequest: x.connect,
		project:             x.project,
		environment:         environment,
		expires:             expires,
	}
	s.keepSecret(token)
	return success(map[string]any{
		"token":            token,
		"expires_at":       stamp(expires),
		"connect_link_url": cmp.Or(s.linkPage.Origin, x.origin()) + linkPath + "?token=" + token + "&connectLink=true",
	})
}

// origin is the address under which the request reached the server.
func (x *exchange) origin() string {
	if x.r.TLS != nil {
		return "https://" + x.r.Host
	}
	return "http://" + x.r.Host
}
