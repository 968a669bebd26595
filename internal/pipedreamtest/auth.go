package pipedreamtest

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// workspaceToken is what is known of an access token that oauth/token handed out.
type workspaceToken struct {
	expires time.Time
	scopes  []string // as asked for; none asked for: all
}

// scopesThatRead are those of which one is needed to read accounts.
var scopesThatRead = []string{"*", "connect:*", "connect:accounts:*", "connect:accounts:read"}

// SetAPIKey replaces the user API key; the old one is refused from now on.
func (s *Server) SetAPIKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apiKey = key
	s.keepSecret(key)
}

// SetOAuthClient sets the workspace's OAuth client, and how long the access tokens that it gets live; an hour where 0. Tokens
// handed out before stay good. Until it is called, every client is refused.
func (s *Server) SetOAuthClient(id, secret string, tokenLife time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if tokenLife <= 0 {
		tokenLife = time.Hour
	}
	s.clientID, s.clientSecret, s.workspaceLife = id, secret, tokenLife
	s.keepSecret(secret)
}

// RevokeAccessTokens makes the server refuse all workspace access tokens handed out so far.
func (s *Server) RevokeAccessTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.workspace)
}

// refuse returns the error answer for a request that may not have what it asks for, nil for one that may. It never repeats
// what the request was authorized with. The caller holds s.mu.
func (s *Server) refuse(x *exchange, now time.Time) *answer {
	if x.kind == KindToken {
		return s.refuseClient(x)
	}
	bearer, _ := strings.CutPrefix(x.r.Header.Get("Authorization"), "Bearer ")
	// Connect takes workspace tokens alone, users/me a user's key alone, all else takes either.
	if bearer != "" && bearer == s.apiKey && x.project == "" {
		return nil
	}
	token, ok := s.workspace[bearer]
	if !ok || !now.Before(token.expires) || x.kind == KindMe {
		return failure(http.StatusUnauthorized, "unauthorized")
	}
	reads := func(scope string) bool { return slices.Contains(scopesThatRead, scope) }
	if len(token.scopes) > 0 && !slices.ContainsFunc(token.scopes, reads) {
		return failure(http.StatusForbidden, "insufficient scope")
	}
	return nil
}

// tokenRequest is the body of a request to oauth/token.
type tokenRequest struct {
	GrantType    string `json:"grant_type"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	Scope        string `json:"scope"`
}

// refuseClient is refuse for oauth/token. The caller holds s.mu.
func (s *Server) refuseClient(x *exchange) *answer {
	media, _, _ := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	if media != "application/json" || json.Unmarshal(x.body, &x.token) != nil {
		return failure(http.StatusBadRequest, "invalid_request")
	}
	if x.token.GrantType != "client_credentials" {
		return failure(http.StatusBadRequest, "unsupported_grant_type")
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
