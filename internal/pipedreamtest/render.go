package pipedreamtest

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// answerAccount answers with one account.
func (s *Server) answerAccount(x *exchange, environment string) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[x.account]
	if wrong := x.fault.WrongAccount; wrong != "" {
		a = s.accounts[wrong] // wherever that one belongs
	} else if a != nil && !x.mayReach(a, environment) {
		a = nil
	}
	if a == nil {
		return s.notFound()
	}
	body := s.render(a, x.withCredentials())
	if a.OmitOwner {
		delete(body, "external_id")
	}
	if x.project == "" || s.oldConnectForms {
		body = map[string]any{"data": body}
	}
	return success(body)
}

// in reports whether an account belongs to an environment of a Connect project, or to the workspace if both are empty.
func (a *account) in(project, environment string) bool {
	return a.Project == project && (project == "" || a.Environment == environment)
}

// render returns an account as the API shows it now. The caller holds s.mu.
func (s *Server) render(a *account, withCredentials bool) map[string]any {
	a.advance(wallClock())
	form := s.times
	if a.Times != "" {
		form = a.Times
	}
	m := map[string]any{
		"id":          a.ID,
		"name":        nullable(a.Name),
		"external_id": nullable(a.ExternalUserID),
		"healthy":     !a.Dead && !a.Unhealthy,
		"dead":        nil, // as long as it is not
		"error":       nullable(a.Error),
		"created_at":  form.write(a.CreatedAt),
		"updated_at":  form.write(a.updatedAt()),

		"authorized_scopes": texts(a.Scopes),
		"expires_at":        nil,
		"last_refreshed_at": nil,
		"next_refresh_at":   nil,
		"beta_health":       map[string]any{"score": 1, "since": nil}, // in no documentation, as new fields of a beta are
	}
	if a.Dead {
		m["dead"] = true
	}
	if a.App != (App{}) {
		m["app"] = a.renderApp()
	}
	if a.TokenLife > 0 {
		if a.Scopes == nil {
			m["authorized_scopes"] = texts(defaultScopes)
		}
		m["last_refreshed_at"] = form.write(a.issued)
		m["next_refresh_at"] = form.write(a.nextRefresh())
		if !a.HideExpiry {
			m["expires_at"] = form.write(a.expires())
		}
	}
	if a.OmitNextRefresh {
		delete(m, "next_refresh_at")
	}
	if withCredentials && !a.NoCredentials {
		credentials := s.renderCredentials(a)
		s.keepCredentials(credentials)
		m["credentials"] = credentials
	}
	maps.Copy(m, a.Override)
	for _, name := range append(slices.Clone(a.Omit), s.forms.omitted...) {
		delete(m, name)
	}
	return m
}

// updatedAt is when the account was last changed: by its owner, or by a refresh of its token.
func (a *account) updatedAt() time.Time {
	if a.TokenLife > 0 && a.issued.After(a.UpdatedAt) {
		return a.issued
	}
	return a.UpdatedAt
}

// renderCredentials returns an account's credentials. The caller holds s.mu and has advanced the account.
func (s *Server) renderCredentials(a *account) json.RawMessage {
	if a.RawCredentials != nil {
		return a.RawCredentials
	}
	m := map[string]any{}
	if a.TokenLife > 0 {
		m["oauth_access_token"] = s.accessToken(a)
		m["oauth_client_id"] = "pdclient_" + a.ID
		m["oauth_refresh_token"] = s.refreshToken(a)
		m["oauth_uid"] = "pduid_" + a.ID
	}
	maps.Copy(m, a.Credentials)
	raw, _ := appendJSON(nil, m) // SetAccount and Update saw to it that it marshals
	return raw
}

// nullable returns null for an empty string, as the API does.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}
