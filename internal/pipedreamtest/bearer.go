package pipedreamtest

import (
	"cmp"
	"net/http"
	"strings"
	"time"
)

// WithConnectTokenCredentials makes answers to Connect tokens contain credentials where they are asked for. Whether
// Pipedream does that is not documented. Without it they never do.
func WithConnectTokenCredentials() Option { return func(s *Server) { s.connectCredentials = true } }

// RevokeConnectTokens makes the server refuse all Connect tokens that it has handed out so far, as if they had ended.
func (s *Server) RevokeConnectTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.connectTokens {
		t.expires = time.Time{}
	}
}

// identify finds the Connect token that authorizes a request. A path without a project then means the token's, and no
// other bearer can use such a path. The caller holds s.mu.
func (s *Server) identify(x *exchange) {
	x.connectBearer = s.connectTokens[x.bearer()]
	if !x.ofToken {
		return
	}
	if x.connectBearer == nil {
		x.route = route{kind: KindOther}
		return
	}
	x.project = x.connectBearer.project
}

// scopes returns what the token was made for.
func (t *connectToken) scopes() []string { return strings.Fields(cmp.Or(t.Scope, scopeConnect)) }

// refuse returns the error for a request that a Connect token does not authorize, or nil. A token is good for requests
// of one external user until it ends. It ends early when it connects an account.
func (t *connectToken) refuse(x *exchange, now time.Time) *answer {
	operation := operations[x.kind]
	environment, user, origin := x.environment(), x.namedUser(), x.r.Header.Get("Origin")
	switch {
	case t.used, !now.Before(t.expires), x.project == "":
		return failure(http.StatusUnauthorized, "unauthorized")
	case !operation.forConnectToken:
		return failure(http.StatusForbidden, "a Connect token may not do this")
	case x.project != t.project, environment != "" && environment != t.environment:
		return failure(http.StatusForbidden, "this token is for another project or environment")
	case user != "" && user != t.ExternalUserID:
		return failure(http.StatusForbidden, "this token is for another user")
	case !permits(t.scopes(), operation.scope):
		return failure(http.StatusForbidden, "insufficient scope")
	case origin != "" && !t.allows(origin):
		return failure(http.StatusForbidden, "this origin is not allowed")
	}
	x.allowedOrigin = origin
	return nil
}

// namedUser returns the external user that a request names, if any.
func (x *exchange) namedUser() string {
	return cmp.Or(x.user, x.r.URL.Query().Get("external_user_id"))
}

// mayReach reports whether a request can reach an account: of the project and environment that it names, and of the
// user that its Connect token is for.
func (x *exchange) mayReach(a *account, environment string) bool {
	return a.in(x.project, environment) && (x.connectBearer == nil || x.connectBearer.ExternalUserID == a.ExternalUserID)
}
