package pipedreamtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// The values of [App.AuthType].
const (
	authOAuth = "oauth"
	authKeys  = "keys"
	authNone  = "none"
)

// App is what an account belongs to. What else the API tells of an app is made up.
type App struct {
	ID       string // "app_…"; lists can ask for it, but not every account shows it, see [Account.OAuthAppID]
	Slug     string
	Name     string
	AuthType string // "oauth", "keys" or "none"
}

// Account is a connected account, as a test or the demo describes it.
type Account struct {
	ID   string
	Name string
	App  App

	ExternalUserID string // whose account it is, in a Connect project
	Project        string // the Connect project; empty for an account of the workspace, served by the REST paths
	Environment    string // of the Connect project: "production", also when empty, or "development"

	// OAuthAppID, "oa_…", is the custom OAuth client it was connected with. Lists can ask for it, and the account shows it as
	// the id of its app. An account of an app with keys, or without authentication, shows null there.
	OAuthAppID string
	PlainApp   bool // its app shows id and name alone, as in an older sample of the API

	// Credentials are marshalled as they are; a json.RawMessage or json.Number in them is written verbatim.
	Credentials map[string]any
	// RawCredentials, if set, is written verbatim in place of all credentials, even where it is no JSON.
	RawCredentials json.RawMessage

	// TokenLife above 0 makes it an OAuth account: oauth_access_token, oauth_client_id, oauth_refresh_token and oauth_uid
	// stand next to Credentials, except for those that are named there, and each access token lives that long.
	TokenLife time.Duration
	// RefreshBefore is how long before its end a token is replaced; a twelfth of its life where 0. A nanosecond keeps the
	// same token until its very end. A negative one makes the replacement late: an expired token is handed out until then.
	RefreshBefore time.Duration
	// NoRefresh keeps the token past its end: an expired token is handed out. Dead does the same.
	NoRefresh bool

	Dead      bool
	Unhealthy bool
	Error     string // why it is dead or unhealthy

	NoCredentials   bool // as with Pipedream's own OAuth client: no credentials, whoever asks
	OmitNextRefresh bool // leave next_refresh_at out
	OmitOwner       bool // leave external_id out, save in lists
	HideExpiry      bool // expires_at is null, beside a next_refresh_at

	CreatedAt time.Time // when it was set, where zero
	UpdatedAt time.Time // CreatedAt, where zero; each refresh of the token moves it
	Times     TimeForm  // how its times are written; as the server's are, where empty

	// Override has members of the account that stand in place of its own, and Omit has the names of those that it lacks.
	Override map[string]any
	Omit     []string
}

// account is an Account with its place among the others and its current token. All of it is guarded by Server.mu.
type account struct {
	Account
	order  int // its place in lists, kept when the account is replaced
	serial int // tells its tokens from those of an account that had the same id before
	token  int64
	issued time.Time // of that token
}

// SetAccount adds an account, or replaces the one of that id, which gets a new token. It panics if its credentials cannot be
// marshalled.
func (s *Server) SetAccount(a Account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(a, wallClock())
}

// set is SetAccount. The caller holds s.mu.
func (s *Server) set(a Account, now time.Time) {
	a.Credentials, a.Override, a.Omit = maps.Clone(a.Credentials), maps.Clone(a.Override), slices.Clone(a.Omit)
	a.mustMarshal()
	if a.Project != "" && a.Environment == "" {
		a.Environment = environmentProduction
	}
	if a.CreatedAt.IsZero() {
		a.CreatedAt = now
	}
	if a.UpdatedAt.IsZero() {
		a.UpdatedAt = a.CreatedAt
	}
	s.serial++
	n := &account{Account: a, order: s.serial, serial: s.serial}
	if old := s.accounts[a.ID]; old != nil {
		n.order = old.order
	}
	n.issue(now)
	s.accounts[a.ID] = n
	s.places[a.ID] = n.order
}

// DeleteAccount removes an account; it is no error if there is none.
func (s *Server) DeleteAccount(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.accounts, id)
}

// Update changes an account in place. Its token stays, unless the change is what makes it due to be refreshed now. The function
// must not call the server. Update panics if there is no such account, and where SetAccount would.
func (s *Server) Update(id string, f func(*Account)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := wallClock()
	a := s.known(id)
	a.advance(now)
	static := a.TokenLife <= 0
	f(&a.Account)
	a.ID = id // under which it is kept
	a.mustMarshal()
	if static || a.due(now) {
		a.issue(now)
	}
}

// Rotate replaces an OAuth account's token now. It panics if there is no such account.
func (s *Server) Rotate(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := wallClock()
	a := s.known(id)
	if a.TokenLife <= 0 {
		panic(fmt.Sprintf("pipedreamtest: account %q has no token to rotate", id))
	}
	a.advance(now)
	a.issue(now)
}

// Token returns the OAuth access token that an account's credentials would show now, without that being a request. It is empty
// where there is none.
func (s *Server) Token(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[id]
	if a == nil || a.TokenLife <= 0 {
		return ""
	}
	a.advance(wallClock())
	token := s.accessToken(a)
	s.keepSecret(token)
	return token
}

// ExpiresAt returns when that token ends: the zero time where there is none.
func (s *Server) ExpiresAt(id string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[id]
	if a == nil || a.TokenLife <= 0 {
		return time.Time{}
	}
	a.advance(wallClock())
	return a.expires()
}

// mustMarshal makes a test that describes an impossible account fail where it does so.
func (a *Account) mustMarshal() {
	for _, object := range []map[string]any{a.Credentials, a.Override} {
		if _, err := appendJSON(nil, object); err != nil {
			panic(fmt.Sprintf("pipedreamtest: account %q: %v", a.ID, err))
		}
	}
	if !a.Times.Valid() {
		panic(fmt.Sprintf("pipedreamtest: account %q: no such form of times: %q", a.ID, a.Times))
	}
}

// known returns an account that a test names and so must exist. The caller holds s.mu.
func (s *Server) known(id string) *account {
	a := s.accounts[id]
	if a == nil {
		panic(fmt.Sprintf("pipedreamtest: no account %q", id))
	}
	return a
}
