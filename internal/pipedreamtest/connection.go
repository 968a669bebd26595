package pipedreamtest

import (
	"cmp"
	"maps"
	"time"
)

// connectedLife is how long the tokens of an account live that was connected with a click.
const connectedLife = time.Hour

// WithConnected makes f change each account that a Connect link connects or reconnects, before it is stored. Without it, an account of
// an OAuth app has no credentials unless it uses a custom OAuth client, because Pipedream hands out no tokens of its
// own clients. The function must not call the server.
func WithConnected(f func(*Account)) Option { return func(s *Server) { s.onConnect = f } }

// connect connects or reconnects an account with a link and uses up its token. The caller holds s.mu.
func (s *Server) connect(l link, now time.Time) (accountID string, err error) {
	app, err := s.linkedApp(l)
	if err != nil {
		return "", err
	}
	scopes, ok := profileScopes(app, l.profile)
	switch {
	case !ok:
		return "", errLinkProfile
	case l.token.environment == environmentDevelopment && !s.linkPage.SignedIn:
		return "", errLinkSignIn
	}
	a := Account{
		ID:             l.accountID,
		Name:           l.token.ExternalUserID,
		App:            app,
		Project:        l.token.project,
		Environment:    l.token.environment,
		ExternalUserID: l.token.ExternalUserID,
	}
	if l.accountID == "" {
		a.ID = s.freeAccountID()
	} else if a, err = s.reconnected(l, app, now); err != nil {
		return "", err
	}
	s.authorize(&a, l, scopes)
	l.token.used = true
	s.set(a, now)
	return a.ID, nil
}

// reconnected returns the account that a link reconnects, without its credentials and its troubles. The caller holds
// s.mu.
func (s *Server) reconnected(l link, app App, now time.Time) (Account, error) {
	old := s.accounts[l.accountID]
	switch {
	case old == nil || !old.in(l.token.project, l.token.environment) || old.ExternalUserID != l.token.ExternalUserID,
		old.App.Slug != app.Slug:
		return Account{}, errLinkAccount
	case s.linkPage.RefuseReconnect:
		return Account{}, errLinkRefused
	}
	a := old.Account
	a.Credentials = maps.Clone(a.Credentials)
	for _, name := range []string{"oauth_access_token", "oauth_refresh_token"} {
		delete(a.Credentials, name)
	}
	a.RawCredentials = nil
	a.Dead, a.Unhealthy, a.NoRefresh, a.Error = false, false, false, ""
	a.UpdatedAt = now
	return a, nil
}

// authorize gives an account what the user authorizes on the page of a link: new credentials with these scopes. The
// caller holds s.mu.
func (s *Server) authorize(a *Account, l link, scopes []string) {
	switch a.App.AuthType {
	case authKeys:
		a.Credentials = map[string]any{"api_key": "pdkey_" + s.mark("key", s.serial, 1)}
	case authNone:
	default:
		a.TokenLife = cmp.Or(a.TokenLife, connectedLife)
		a.Scopes = scopes
		switch {
		case s.linkPage.IgnoreClient:
			a.OAuthAppID, a.NoCredentials = "", true
		case l.oauthAppID != "":
			a.OAuthAppID, a.NoCredentials = l.oauthAppID, false
		case l.accountID == "":
			a.NoCredentials = true // Pipedream hands out no tokens of its own client
		}
	}
	if who := s.linkPage.Identity; who != "" {
		a.Name = who
		if a.TokenLife > 0 {
			if a.Credentials == nil {
				a.Credentials = map[string]any{}
			}
			a.Credentials["oauth_uid"] = "pduid_" + who
		}
	}
	if s.onConnect != nil {
		id := a.ID
		s.onConnect(a)
		a.ID = id
	}
}

// freeAccountID returns a new id that no account ever had. The caller holds s.mu.
func (s *Server) freeAccountID() string {
	for {
		s.serial++
		id := prefixAccount + s.mark("account", s.serial, 0)[:7]
		if _, taken := s.places[id]; !taken {
			return id
		}
	}
}
