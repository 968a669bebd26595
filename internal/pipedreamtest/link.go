package pipedreamtest

import (
	"cmp"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// linkPath is the path of the page behind a connect_link_url. It is not part of the API: a browser requests it without
// a bearer token, and these requests are not logged.
const linkPath = "/_static/connect.html"

// Account ids and OAuth client ids begin like this.
const (
	prefixAccount  = "apn_"
	prefixApp      = "app_"
	prefixOAuthApp = "oa_"
)

// These errors say what is wrong with a link. None of them contains the token.
var (
	errLinkMalformed = errors.New("this is not a Connect link")
	errLinkUnknown   = errors.New("this link is not valid")
	errLinkExpired   = errors.New("this link has expired")
	errLinkUsed      = errors.New("this link was used before")
	errLinkScope     = errors.New("the token of this link may not connect accounts")
	errLinkNoApp     = errors.New("the link names no app")
	errLinkSlug      = errors.New("the link names an app by its id; it takes slugs only")
	errLinkApp       = errors.New("the link and its token name different apps")
	errLinkClient    = errors.New("the link and its token name different OAuth clients")
	errLinkUnknownID = errors.New("there is no app with this id")
	errLinkDeclined  = errors.New("the user did not connect an account")
	errLinkProfile   = errors.New("the app has no such scope profile")
	errLinkAccount   = errors.New("the account to reconnect is not one of this user, environment and app")
	errLinkRefused   = errors.New("this account cannot be reconnected")
	errLinkSignIn    = errors.New("in the development environment, whoever opens a link must be signed in to pipedream.com")
)

// Click does what a user does who opens a Connect link and connects an account, and returns the id of that account. The
// link is a connect_link_url to which the app was added, and what else the page understands.
func (s *Server) Click(link string) (accountID string, err error) {
	u, err := url.Parse(link)
	if err != nil || u.Path != linkPath {
		return "", errLinkMalformed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.openLink(u.Query(), wallClock())
	if err != nil {
		return "", err
	}
	return s.connect(l, wallClock())
}

// link is a Connect link with a valid token.
type link struct {
	token      *connectToken
	app        string // its slug; if the token alone names it, also "app_…"
	oauthAppID string
	accountID  string // of the account to reconnect; empty for a new account
	profile    string // the name of a set of scopes; empty for those that the app asks for by default
}

// openLink returns what a link is for. The caller holds s.mu.
func (s *Server) openLink(q url.Values, now time.Time) (l link, err error) {
	s.checkLink(q)
	if q.Get("connectLink") != "true" {
		return l, errLinkMalformed
	}
	token := s.connectTokens[q.Get("token")]
	switch {
	case strings.HasPrefix(q.Get("app"), prefixApp):
		return l, errLinkSlug
	case token == nil:
		return l, errLinkUnknown
	case token.used:
		return l, errLinkUsed
	case !now.Before(token.expires):
		return l, errLinkExpired
	}
	return link{
		token:      token,
		app:        cmp.Or(q.Get("app"), token.AppID),
		oauthAppID: cmp.Or(q.Get("oauthAppId"), token.OAuthAppID),
		accountID:  q.Get("accountId"),
		profile:    q.Get("oauthScopeProfile"),
	}, nil
}

// linkedApp returns the app of a link. It refuses a link that cannot connect an account. The caller holds s.mu.
func (s *Server) linkedApp(l link) (App, error) {
	app, known := s.findApp(l.app)
	switch {
	case !permits(l.token.scopes(), scopeWrite):
		return App{}, errLinkScope
	case l.app == "":
		return App{}, errLinkNoApp
	case l.token.AppID != "" && l.token.AppID != l.app && (!known || l.token.AppID != app.ID && l.token.AppID != app.Slug):
		return App{}, errLinkApp
	case l.oauthAppID != "" && !strings.HasPrefix(l.oauthAppID, prefixOAuthApp),
		l.token.OAuthAppID != "" && l.token.OAuthAppID != l.oauthAppID:
		return App{}, errLinkClient
	case known:
		return app, nil
	case strings.HasPrefix(l.app, prefixApp):
		return App{}, errLinkUnknownID
	}
	return App{ID: prefixApp + s.mark("app "+l.app, 0, 0)[:6], Slug: l.app, Name: l.app, AuthType: authOAuth}, nil
}

// findApp returns the app with that slug or id among the apps of the accounts. The caller holds s.mu.
func (s *Server) findApp(slugOrID string) (app App, ok bool) {
	var first *account
	for _, a := range s.accounts {
		if slugOrID != "" && (a.App.Slug == slugOrID || a.App.ID == slugOrID) && (first == nil || a.order < first.order) {
			first = a
		}
	}
	if first == nil {
		return App{}, false
	}
	return first.App, true
}

// linkParameters are the query parameters that the page of a link understands. Those that it knows but that change
// nothing here are checked all the same.
var linkParameters = map[string]func(string) bool{
	"token":             isAny,
	"connectLink":       isTrue,
	"app":               isAny,
	"oauthAppId":        func(v string) bool { return strings.HasPrefix(v, prefixOAuthApp) },
	"accountId":         func(v string) bool { return strings.HasPrefix(v, prefixAccount) },
	"appOverrideId":     isAny,
	"oauthScopeProfile": isAny,
	"customOauthClient": isTrue,
	"hideClose":         isTrue,
}

func isAny(v string) bool  { return v != "" }
func isTrue(v string) bool { return v == "true" }

// checkLink records what is wrong with a link. The caller holds s.mu.
func (s *Server) checkLink(q url.Values) {
	for _, name := range slices.Sorted(maps.Keys(q)) {
		valid, known := linkParameters[name]
		switch {
		case !known && !isName(strings.ToLower(name)):
			s.violated("a Connect link: it has a parameter that is no name")
		case !known:
			s.violated("a Connect link: unknown parameter " + name)
		case len(q[name]) > 1 || !valid(q[name][0]):
			s.violated("a Connect link: parameter " + name + " has a value that it cannot have")
		}
	}
}
