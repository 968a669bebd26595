package pipedreamtest

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// oauthApp is a custom OAuth client of the workspace. The server knows those of the accounts that it was given, also
// after the accounts are gone. Server.mu guards it.
type oauthApp struct {
	id      string
	account *account // the first account of this client; its app is shown
	created time.Time
}

// learnOAuthApp remembers the OAuth client of an account. The caller holds s.mu.
func (s *Server) learnOAuthApp(a *account, now time.Time) {
	if a.OAuthAppID != "" && s.oauthApps[a.OAuthAppID] == nil {
		s.oauthApps[a.OAuthAppID] = &oauthApp{id: a.OAuthAppID, account: a, created: now}
	}
}

// answerOAuthApps answers with a page of the workspace's OAuth clients, in the order of their ids.
func (s *Server) answerOAuthApps(x *exchange) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := x.r.URL.Query()
	limit, ok := parseLimit(q)
	if !ok {
		return failure(http.StatusBadRequest, "limit must be between 1 and 100")
	}
	after, err := base64.StdEncoding.DecodeString(q.Get("after"))
	if err != nil {
		return failure(http.StatusBadRequest, "after is not a cursor")
	}
	filter := listQuery{app: q.Get("app")}
	var all, page []*oauthApp
	for _, o := range s.oauthApps {
		if filter.matches(o.account) {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b *oauthApp) int { return strings.Compare(a.id, b.id) })
	for _, o := range all {
		if o.id > string(after) && len(page) < limit {
			page = append(page, o)
		}
	}
	data := make([]any, len(page))
	info := map[string]any{"total_count": len(all), "count": len(page), "start_cursor": nil, "end_cursor": nil}
	for i, o := range page {
		data[i] = o.render()
	}
	if len(page) > 0 {
		info["start_cursor"], info["end_cursor"] = idCursor(page[0].id), idCursor(page[len(page)-1].id)
	}
	return success(map[string]any{"page_info": info, "data": data})
}

// parseLimit returns how many elements a page of a list has at most.
func parseLimit(q url.Values) (limit int, ok bool) {
	if !q.Has("limit") {
		return defaultPage, true
	}
	n, err := strconv.Atoi(q.Get("limit"))
	return n, err == nil && n >= 1 && n <= maxPage
}

// idCursor returns the cursor of something with this id: the id, as in the samples of the documentation.
func idCursor(id string) string { return base64.StdEncoding.EncodeToString([]byte(id)) }

// render returns the client as the API shows it: its app with fields of its own. The secret is never shown.
func (o *oauthApp) render() map[string]any {
	a := *o.account
	a.PlainApp = false
	m := a.renderApp()
	m["id"] = o.id
	m["client_id"] = "pdclient_" + o.id
	m["scopes"] = texts(defaultScopes)
	m["additional_scopes"] = []any{}
	m["redirect_uri"] = "https://api.example.com/connect/oauth/" + o.id + "/callback"
	m["owner_id"] = "o_simulated"
	m["created_at"], m["updated_at"] = stamp(o.created), stamp(o.created)
	return m
}
