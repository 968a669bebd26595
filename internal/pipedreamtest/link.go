package pipedreamtest

import (
	"bytes"
	"cmp"
	"errors"
	"html/template"
	"maps"
	"net/http"
	"net/url"
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

// connectedLife is how long the tokens of an account live that was connected with a click.
const connectedLife = time.Hour

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
)

// WithConnected makes f change each account that a Connect link connects, before it is added. Without it, an account of
// an OAuth app has no credentials unless it uses a custom OAuth client, because Pipedream hands out no tokens of its
// own clients. The function must not call the server.
func WithConnected(f func(*Account)) Option { return func(s *Server) { s.onConnect = f } }

// Click does what a user does who opens a Connect link and connects an account, and returns the id of that account. The
// link is a connect_link_url to which the app, and the OAuth client if there is one, were added.
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
}

// openLink returns what a link is for. The caller holds s.mu.
func (s *Server) openLink(q url.Values, now time.Time) (l link, err error) {
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
	}, nil
}

// connect connects an account with a link and uses up its token. The caller holds s.mu.
func (s *Server) connect(l link, now time.Time) (accountID string, err error) {
	app, err := s.linkedApp(l)
	if err != nil {
		return "", err
	}
	l.token.used = true
	a := Account{
		ID:             s.freeAccountID(),
		Name:           l.token.ExternalUserID,
		App:            app,
		Project:        l.token.project,
		Environment:    l.token.environment,
		ExternalUserID: l.token.ExternalUserID,
		OAuthAppID:     l.oauthAppID,
	}
	switch app.AuthType {
	case authKeys:
		a.Credentials = map[string]any{"api_key": "pdkey_" + s.mark("key", s.serial, 0)}
	case authNone:
	default:
		a.TokenLife, a.NoCredentials = connectedLife, l.oauthAppID == ""
	}
	if s.onConnect != nil {
		s.onConnect(&a)
	}
	s.set(a, now)
	return a.ID, nil
}

// linkedApp returns the app of a link. It refuses a link that cannot connect an account. The caller holds s.mu.
func (s *Server) linkedApp(l link) (App, error) {
	app, known := s.findApp(l.app)
	switch {
	case !anyOf(strings.Fields(l.token.Scope), scopesThatWrite):
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

// buttonConnect is what the button that connects an account sends.
const buttonConnect = "connect"

// linkPage is the page of a Connect link. It has a button until the link is used or its token is invalid.
var linkPage = template.Must(template.New("").Parse(`<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Simulated Pipedream Connect</title></head>
<body>
<h1>Simulated Pipedream Connect</h1>
{{if .Problem}}<p id="problem">{{.Problem}}</p>
{{else if .Account}}<p>Connected: <span id="account">{{.Account}}</span></p>
{{else}}<p>One click connects an account of <b>{{.App}}</b>. There is nothing to sign in to, because nothing here is real.</p>
<form method="post">
<button id="connect" name="result" value="connect">Connect</button>
<button id="decline" name="result" value="decline">Not now</button>
</form>
{{end}}</body>
</html>
`))

// shownLink is what linkPage shows.
type shownLink struct{ App, Account, Problem string }

// serveLink answers a browser that opens a Connect link, or whose user clicked a button on that page.
func (s *Server) serveLink(w http.ResponseWriter, r *http.Request, body []byte) {
	var a *answer
	switch r.Method {
	case http.MethodGet:
		a = s.linkOpened(r.URL.Query())
	case http.MethodPost:
		form, _ := url.ParseQuery(string(body)) // what is no form names no button
		a = s.linkClicked(r.URL.Query(), form.Get("result"))
	default:
		a = failure(http.StatusMethodNotAllowed, "method not allowed")
	}
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

// linkOpened returns the page of a link.
func (s *Server) linkOpened(q url.Values) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.openLink(q, wallClock())
	if err != nil {
		return showLink(http.StatusGone, shownLink{Problem: err.Error()})
	}
	return showLink(http.StatusOK, shownLink{App: cmp.Or(l.app, "no app")})
}

// linkClicked returns what follows a click on a button: the page, or a redirect if the token has one.
func (s *Server) linkClicked(q url.Values, button string) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := wallClock()
	l, err := s.openLink(q, now)
	if err != nil {
		return showLink(http.StatusGone, shownLink{Problem: err.Error()})
	}
	id, back := "", l.token.ErrorRedirectURI
	err = errLinkDeclined
	if button == buttonConnect {
		if id, err = s.connect(l, now); err == nil {
			back = l.token.SuccessRedirectURI
		}
	}
	switch {
	case back != "":
		return &answer{status: http.StatusSeeOther, header: http.Header{"Location": {back}}}
	case err != nil:
		return showLink(http.StatusBadRequest, shownLink{Problem: err.Error()})
	default:
		return showLink(http.StatusOK, shownLink{Account: id})
	}
}

// showLink returns the page.
func showLink(status int, shown shownLink) *answer {
	var page bytes.Buffer
	_ = linkPage.Execute(&page, shown) // it has these three fields, and a buffer takes all
	return &answer{
		status: status,
		header: http.Header{"Content-Type": {"text/html; charset=utf-8"}, "Referrer-Policy": {"no-referrer"}},
		body:   page.Bytes(),
	}
}
