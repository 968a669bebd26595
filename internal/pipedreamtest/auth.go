package pipedreamtest

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// These are the media types of request bodies.
const (
	mediaJSON = "application/json"
	mediaForm = "application/x-www-form-urlencoded"
)

// workspaceToken describes an access token that oauth/token handed out.
type workspaceToken struct {
	expires time.Time
	scopes  []string // as requested; none means all
}

// SetAPIKey replaces the user API key. The old one is refused from now on.
func (s *Server) SetAPIKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apiKey = key
	s.keepSecret(key)
}

// SetOAuthClient sets the workspace's OAuth client and how long its access tokens live; 0 means an hour. Tokens that
// were handed out before stay valid. Until it is called, every client is refused.
func (s *Server) SetOAuthClient(id, secret string, tokenLife time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if tokenLife <= 0 {
		tokenLife = time.Hour
	}
	s.clientID, s.clientSecret, s.workspaceLife = id, secret, tokenLife
	s.keepSecret(secret)
}

// RevokeAccessTokens makes the server refuse all workspace access tokens that it has handed out so far.
func (s *Server) RevokeAccessTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.workspace)
}

// refuse returns the error for a request that is not authorized, or nil. It never repeats the authorization of the
// request. The caller holds s.mu.
func (s *Server) refuse(x *exchange, now time.Time) *answer {
	if x.kind == KindToken {
		return s.refuseClient(x)
	}
	bearer := x.bearer()
	// Connect accepts only tokens, users/me only a user API key, and all other paths accept either.
	if bearer != "" && bearer == s.apiKey && x.project == "" {
		return s.refuseOrg(x)
	}
	if x.connectBearer != nil {
		return x.connectBearer.refuse(x, now)
	}
	token, ok := s.workspace[bearer]
	if !ok || !now.Before(token.expires) || x.kind == KindMe {
		return failure(http.StatusUnauthorized, "unauthorized")
	}
	if !s.allows(token.scopes, x) {
		return failure(http.StatusForbidden, "insufficient scope")
	}
	return nil
}

// refuseOrg is refuse for a request with a user API key, which may have access to several workspaces. The caller holds
// s.mu.
func (s *Server) refuseOrg(x *exchange) *answer {
	if s.orgID == "" || x.kind != KindList {
		return nil
	}
	switch x.r.URL.Query().Get("org_id") {
	case s.orgID:
		return nil
	case "":
		return failure(http.StatusBadRequest, "org_id is required")
	default:
		return failure(http.StatusForbidden, "no access to this workspace")
	}
}

// allows reports whether an access token with these scopes is good for a request. The caller holds s.mu.
func (s *Server) allows(scopes []string, x *exchange) bool {
	switch {
	case len(scopes) == 0, x.kind == KindOther:
		return true
	case x.project == "" && !s.allowConnectScopes:
		return slices.Contains(scopes, scopeAll) // the scopes of Connect do not apply to the workspace
	default:
		return permits(scopes, operations[x.kind].scope)
	}
}

// tokenRequest is the body of a request to oauth/token.
type tokenRequest struct {
	GrantType    string `json:"grant_type"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	Scope        string `json:"scope"`
}

// parseTokenRequest reads the body of a request to oauth/token: JSON, or a form as older clients send. bad says what is
// wrong with it.
func parseTokenRequest(contentType string, body []byte) (req tokenRequest, bad string) {
	switch media, _, _ := mime.ParseMediaType(contentType); media {
	case mediaJSON:
		if err := json.Unmarshal(body, &req); err != nil {
			return req, "invalid_request"
		}
	case mediaForm:
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return req, "invalid_request"
		}
		req = tokenRequest{
			GrantType:    form.Get("grant_type"),
			ClientID:     form.Get("client_id"),
			ClientSecret: form.Get("client_secret"),
			Scope:        form.Get("scope"),
		}
	default:
		return req, "invalid_request"
	}
	if req.GrantType != "client_credentials" {
		return req, "unsupported_grant_type"
	}
	for scope := range strings.FieldsSeq(req.Scope) {
		if !isScope(scope) {
			return req, "invalid_scope"
		}
	}
	return req, ""
}

// refuseClient is refuse for oauth/token. The caller holds s.mu.
func (s *Server) refuseClient(x *exchange) *answer {
	if x.invalid != "" {
		return failure(http.StatusBadRequest, x.invalid)
	}
	if s.clientID == "" || x.token.ClientID != s.clientID || x.token.ClientSecret != s.clientSecret {
		return failure(http.StatusUnauthorized, "invalid_client")
	}
	return nil
}

// answerToken hands out a workspace access token.
func (s *Server) answerToken(x *exchange) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := wallClock()
	s.serial++
	token := fmt.Sprintf("pdworkspace_%d_%s", s.serial, s.mark("workspace", s.serial, 0))
	s.workspace[token] = workspaceToken{expires: now.Add(s.workspaceLife), scopes: strings.Fields(x.token.Scope)}
	s.keepSecret(token)
	return success(map[string]any{
		"access_token": token,
		"token_type":   "Bearer",
		"expires_in":   int64(s.workspaceLife / time.Second),
		"created_at":   now.Unix(),
	})
}
