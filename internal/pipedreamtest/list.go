package pipedreamtest

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	defaultPage = 10
	maxPage     = 100

	// maxExternalUserID is in characters.
	maxExternalUserID = 250
)

// answerList answers with a page of accounts.
func (s *Server) answerList(x *exchange, environment string) *answer {
	q, bad := parseListQuery(x.r.URL.Query())
	if bad != "" {
		return failure(http.StatusBadRequest, bad)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*account
	for _, a := range s.accounts {
		if a.in(x.project, environment) && q.matches(a) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b *account) int { return a.order - b.order })
	page := q.page(all)

	data := make([]any, len(page))
	for i, a := range page {
		data[i] = s.render(a, x.withCredentials())
	}
	info := map[string]any{
		"total_count":  len(all),
		"count":        len(page),
		"start_cursor": nil,
		"end_cursor":   nil,
	}
	if len(page) > 0 {
		last := page[len(page)-1]
		info["start_cursor"] = cursor(page[0])
		// The end of the list shows as an empty string here and as null on an empty page: a client has to take either.
		info["end_cursor"] = ""
		if last != all[len(all)-1] {
			info["end_cursor"] = cursor(last)
		}
	}
	body := map[string]any{"page_info": info, "data": data}
	if x.project != "" && s.oldConnectForms {
		body["data"] = map[string]any{"accounts": data}
	}
	return success(body)
}

// listQuery is what a list request asks for.
type listQuery struct {
	app, oauthApp, externalUser string
	limit                       int
	after, before               int // places in the order of accounts; 0: not asked for
}

// parseListQuery reads the query of a list request; bad says what is wrong with it.
func parseListQuery(v url.Values) (q listQuery, bad string) {
	q = listQuery{
		app:          v.Get("app"),
		oauthApp:     v.Get("oauth_app_id"),
		externalUser: v.Get("external_user_id"),
		limit:        defaultPage,
	}
	if utf8.RuneCountInString(q.externalUser) > maxExternalUserID {
		return q, "external_user_id is too long"
	}
	if v.Has("limit") {
		n, err := strconv.Atoi(v.Get("limit"))
		if err != nil || n < 1 || n > maxPage {
			return q, "limit must be between 1 and 100"
		}
		q.limit = n
	}
	var ok bool
	if q.after, ok = place(v.Get("after")); !ok {
		return q, "after is not a cursor"
	}
	if q.before, ok = place(v.Get("before")); !ok {
		return q, "before is not a cursor"
	}
	return q, ""
}

// matches says whether an account passes the filters. A workspace account has no external user, so on REST paths the filter for
// one would find nothing; it is not documented there, and an API ignores what it does not know.
func (q listQuery) matches(a *account) bool {
	return (q.app == "" || q.app == a.App.Slug || q.app == a.App.ID) &&
		(q.oauthApp == "" || q.oauthApp == a.OAuthAppID) &&
		(q.externalUser == "" || q.externalUser == a.ExternalUserID || a.Project == "")
}

// page returns the accounts asked for: the first ones after a cursor, or the last ones before one.
func (q listQuery) page(all []*account) []*account {
	var page []*account
	for _, a := range all {
		if a.order > q.after && (q.before == 0 || a.order < q.before) {
			page = append(page, a)
		}
	}
	if len(page) <= q.limit {
		return page
	}
	if q.before > 0 && q.after == 0 {
		return page[len(page)-q.limit:]
	}
	return page[:q.limit]
}

// cursor returns an account's cursor. It holds the account's place, so that it is good even after the account was deleted.
func cursor(a *account) string {
	return base64.StdEncoding.EncodeToString([]byte("place:" + strconv.Itoa(a.order)))
}

// place returns what a cursor stands for, 0 for none.
func place(cursor string) (n int, ok bool) {
	if cursor == "" {
		return 0, true
	}
	raw, err := base64.StdEncoding.DecodeString(cursor)
	if err != nil {
		return 0, false
	}
	digits, ok := strings.CutPrefix(string(raw), "place:")
	if !ok {
		return 0, false
	}
	n, err = strconv.Atoi(digits)
	return n, err == nil && n > 0
}
