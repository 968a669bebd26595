package pipedreamtest

import (
	"net/http"
	"slices"
	"unicode/utf8"
)

const (
	// maxExternalUserID is in characters.
	maxExternalUserID = 250

	// maxUserAccounts is the most accounts in an answer that has no pages.
	maxUserAccounts = 100

	// maxDevelopmentUsers is how many external users a project has at most in the development environment.
	maxDevelopmentUsers = 10
)

// connectUser is an external user in an environment of a Connect project.
type connectUser struct{ project, environment, user string }

// users returns the external users of an environment: those who have accounts, and those for whom a Connect token was
// made. The caller holds s.mu.
func (s *Server) users(project, environment string) map[string]bool {
	users := map[string]bool{}
	for _, a := range s.accounts {
		if a.in(project, environment) && a.ExternalUserID != "" {
			users[a.ExternalUserID] = true
		}
	}
	for _, t := range s.connectTokens {
		if t.project == project && t.environment == environment {
			users[t.ExternalUserID] = true
		}
	}
	return users
}

// crowded reports whether an environment has no room for this external user. The caller holds s.mu.
func (s *Server) crowded(u connectUser) bool {
	if u.environment != environmentDevelopment {
		return false
	}
	users := s.users(u.project, u.environment)
	return !users[u.user] && len(users) >= maxDevelopmentUsers
}

// answerDelete disconnects an account: it is gone, and so are its credentials. Its id is never used again.
func (s *Server) answerDelete(x *exchange, environment string) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[x.account]
	if a == nil || !x.mayReach(a, environment) {
		return s.notFound()
	}
	delete(s.accounts, a.ID)
	return noContent()
}

// answerDeleteUser removes an external user with all accounts and Connect tokens.
func (s *Server) answerDeleteUser(x *exchange, environment string) *answer {
	if utf8.RuneCountInString(x.user) > maxExternalUserID {
		return failure(http.StatusBadRequest, "external_user_id is too long")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.users(x.project, environment)[x.user] {
		return s.notFound()
	}
	for id, a := range s.accounts {
		if a.in(x.project, environment) && a.ExternalUserID == x.user {
			delete(s.accounts, id)
		}
	}
	for id, t := range s.connectTokens {
		if t.project == x.project && t.environment == environment && t.ExternalUserID == x.user {
			delete(s.connectTokens, id)
		}
	}
	return noContent()
}

// answerUserAccounts answers with all accounts of an external user, in a list without pages.
func (s *Server) answerUserAccounts(x *exchange, environment string) *answer {
	if utf8.RuneCountInString(x.user) > maxExternalUserID {
		return failure(http.StatusBadRequest, "external_user_id is too long")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := listQuery{app: x.r.URL.Query().Get("app"), externalUser: x.user}
	var found []*account
	for _, a := range s.accounts {
		if x.mayReach(a, environment) && q.matches(a) {
			found = append(found, a)
		}
	}
	if len(found) > maxUserAccounts {
		return failure(http.StatusRequestEntityTooLarge, "too many accounts")
	}
	slices.SortFunc(found, func(a, b *account) int { return a.order - b.order })
	data := make([]any, len(found))
	for i, a := range found {
		data[i] = s.render(a, x.withCredentials())
	}
	return success(data)
}
