package pipedreamtest

import (
	"bytes"
	"cmp"
	"html/template"
	"maps"
	"net/http"
	"net/url"
)

// LinkPage is what a test can change about Connect links and the page that they lead to.
type LinkPage struct {
	// Origin is where links lead: "https://host" or "http://127.0.0.1:port". If it is empty, they lead to where the
	// request for the token came in.
	Origin string
	// SignedIn: whoever opens a link is signed in to pipedream.com. Links of the development environment need that.
	SignedIn bool
	// IgnoreClient: the page connects accounts with Pipedream's own OAuth client, whatever the link asks for.
	IgnoreClient bool
	// RefuseReconnect: no account can be reconnected.
	RefuseReconnect bool
	// Identity, if set, is who signs in to the app: the account's name, and part of its oauth_uid. If it is empty, the
	// external user signs in, and an account that is reconnected keeps both.
	Identity string
}

// SetLinkPage changes Connect links that are made from now on, and the page of all links.
func (s *Server) SetLinkPage(p LinkPage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.linkPage = p
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
{{else}}<p>One click {{with .Reconnects}}gives new credentials to <b>{{.}}</b>, an account{{else}}connects an account{{end}} of <b>{{.App}}</b>. There is nothing to sign in to, because nothing here is real.</p>
<form method="post">
<button id="connect" name="result" value="connect">Connect</button>
<button id="decline" name="result" value="decline">Not now</button>
</form>
{{end}}</body>
</html>
`))

// shownLink is what linkPage shows.
type shownLink struct{ App, Reconnects, Account, Problem string }

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
	return showLink(http.StatusOK, shownLink{App: cmp.Or(l.app, "no app"), Reconnects: l.accountID})
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
	_ = linkPage.Execute(&page, shown) // it has these fields, and a buffer takes all
	return &answer{
		status: status,
		header: http.Header{"Content-Type": {"text/html; charset=utf-8"}, "Referrer-Policy": {"no-referrer"}},
		body:   page.Bytes(),
	}
}
