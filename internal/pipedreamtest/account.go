package pipedreamtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// These are the values of [App.AuthType].
const (
	authOAuth = "oauth"
	authKeys  = "keys"
	authNone  = "none"
)

// App is the app that an account belongs to. Everything else that the API returns about an app is invented.
type App struct {
	ID       string // "app_…"; lists can filter by it, but not every account shows it, see [Account.OAuthAppID]
	Slug     string
	Name     string
	AuthType string // "oauth", "keys" or "none"
}

// Account is a connected account, as a test or the demo describes it.
type Account struct {
	ID   string
	Name string
	App  App

	ExternalUserID string // the owner of the account in a Connect project
	Project        string // the Connect project; empty for an account of the workspace, which the REST paths serve
	Environment    string // of the Connect project: "production", also when empty, or "development"

	// OAuthAppID ("oa_…") is the custom OAuth client that the account was connected with. Lists can filter by it, and
	// the account shows it as the id of its app. An account whose app uses keys or no authentication shows null there.
	OAuthAppID string
	PlainApp   bool // its app shows only id and name, as in an older sample of the API

	// Credentials are marshalled as given. A json.RawMessage or json.Number in them is written verbatim.
	Credentials map[string]any
	// RawCredentials, if set, is written verbatim in place of all credentials, even if it is not JSON.
	RawCredentials json.RawMessage

	// TokenLife above 0 makes this an OAuth account. oauth_access_token, oauth_client_id, oauth_refresh_token and
	// oauth_uid are added to Credentials unless they are set there, and each access token lives this long.
	TokenLife time.Duration
	// Scopes are the OAuth scopes that its owner authorized. If they are nil, an OAuth account has "read" and "write".
	Scopes []string
	// RefreshBefore is how long before its end a token is replaced; 0 means a twelfth of its life. A nanosecond keeps
	// the same token until it expires. A negative value makes the replacement late: the expired token is handed out
	// until then.
	RefreshBefore time.Duration
	// NoRefresh keeps handing out the token after it has expired. Dead does the same.
	NoRefresh bool

	Dead      bool
	Unhealthy bool
	Error     string // why it is dead or unhealthy

	NoCredentials   bool // no credentials for any caller, as with Pipedream's own OAuth client
	OmitNextRefresh bool // leave next_refresh_at out
	OmitOwner       bool // leave external_id out, except in lists
	HideExpiry      bool // expires_at is null although there is a next_refresh_at

	CreatedAt time.Time // zero means when it was set
	UpdatedAt time.Time // zero means CreatedAt; each refresh of the token updates it
	Times     TimeForm  // how its times are written; empty means as the server's

	// Override has members that replace those of the account, and Omit has the names of members to leave out.
	Override map[string]any
	Omit     []string
}

// account is an Account with its place among the others and its current token. Server.mu guards all of it.
type account struct {
	Account
	order  int // its place in lists, which stays when the account is replaced
	serial int // distinguishes its tokens from those of an earlier account with the same id
	token  int64
	issued time.Time // of that token
}

// SetAccount adds an account, or replaces the account with the same id, which then gets a new token. It panics if the
// credentials cannot be marshalled.
func (s *Server) SetAccount(a Account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(a, wallClock())
}

// set is SetAccount. The caller holds s.mu.
func (s *Server) set(a Account, now time.Time) {
	a.Credentials, a.Override = maps.Clone(a.Credentials), maps.Clone(a.Override)
	a.Omit, a.Scopes = slices.Clone(a.Omit), slices.Clone(a.Scopes)
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
	s.learnOAuthApp(n, now)
}

// AccountOf returns the account whose current access token this is; nil for none.
func (s *Server) AccountOf(token string) *Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := wallClock()
	for _, a := range s.accounts {
		if a.advance(now); a.TokenLife > 0 && s.accessToken(a) == token {
			found := a.Account
			return &found
		}
	}
	return nil
}

// DeleteAccount removes an account. It is not an error if there is none.
func (s *Server) DeleteAccount(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.accounts, id)
}

// Update changes an account in place. Its token stays the same unless the change makes it due for a refresh now. The
// function must not call the server. Update panics if there is no such account, and for the same reasons as SetAccount.
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
	s.learnOAuthApp(a, now)
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

// Token returns the current OAuth access token of an account without logging a request. It is empty if the account has
// none.
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

// ExpiresAt returns when that token expires, or the zero time if there is none.
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

// mustMarshal makes a test that describes an impossible account fail at the place that does so.
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

// known returns an account that a test names, so it must exist. The caller holds s.mu.
func (s *Server) known(id string) *account {
	a := s.accounts[id]
	if a == nil {
		panic(fmt.Sprintf("pipedreamtest: no account %q", id))
	}
	return a
}
