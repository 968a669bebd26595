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
)

// answerList answers with a page of accounts.
func (s *Server) answerList(x *exchange, environment string) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, bad := s.parseListQuery(x.r.URL.Query(), &x.fault)
	if bad != "" {
		return failure(http.StatusBadRequest, bad)
	}
	var all []*account
	for _, a := range s.accounts {
		if x.mayReach(a, environment) && (s.filtersAfterPaging || q.matches(a)) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b *account) int { return a.order - b.order })
	page := q.page(all)
	if x.fault.endless() {
		page = q.turn(all)
	}

	data := []any{}
	for _, a := range page {
		if q.matches(a) {
			data = append(data, s.render(a, x.withCredentials() && !s.forms.noCredentials))
		}
	}
	info := map[string]any{
		"total_count":  len(all),
		"count":        len(data),
		"start_cursor": nil,
		"end_cursor":   nil,
	}
	if len(page) > 0 {
		last := page[len(page)-1]
		info["start_cursor"], info["end_cursor"] = cursor(page[0]), cursor(last)
		if s.noCursorAtEnd && last == all[len(all)-1] {
			info["end_cursor"] = ""
		}
	}
	if s.noTotals {
		delete(info, "total_count")
	}
	s.forms.info(info)
	data = x.fault.misuseList(info, data, q.turns)
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
	turns                       int // pages of an endless list that came before this one
}

// parseListQuery reads the query of a list request that meets a fault. bad says what is wrong with it. The caller holds
// s.mu.
func (s *Server) parseListQuery(v url.Values, f *Fault) (q listQuery, bad string) {
	for _, name := range s.forms.ignored {
		v.Del(name)
	}
	q = listQuery{
		app:          v.Get("app"),
		oauthApp:     v.Get("oauth_app_id"),
		externalUser: v.Get("external_user_id"),
	}
	if utf8.RuneCountInString(q.externalUser) > maxExternalUserID {
		return q, "external_user_id is too long"
	}
	var ok bool
	if q.limit, ok = parseLimit(v); !ok {
		return q, "limit must be between 1 and 100"
	}
	if s.pageCap > 0 {
		q.limit = min(q.limit, s.pageCap)
	}
	if f.PageSize > 0 {
		q.limit = f.PageSize
	}
	if f.endless() {
		q.turns = turnsOf(v.Get("after"))
		return q, ""
	}
	if q.after, ok = s.place(v.Get("after")); !ok {
		return q, "after is not a cursor"
	}
	if q.before, ok = s.place(v.Get("before")); !ok {
		return q, "before is not a cursor"
	}
	return q, ""
}

// matches reports whether an account passes the filters. Workspace accounts have no external user, so on REST paths a
// filter for one would find nothing. It is not documented there, and the API ignores unknown parameters.
func (q listQuery) matches(a *account) bool {
	return (q.app == "" || q.app == a.App.Slug || q.app == a.App.ID) &&
		(q.oauthApp == "" || q.oauthApp == a.OAuthAppID) &&
		(q.externalUser == "" || q.externalUser == a.ExternalUserID || a.Project == "")
}

// page returns the requested accounts: the first after a cursor, or the last before one.
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

// turn returns a page of an endless list, in which the first account follows the last.
func (q listQuery) turn(all []*account) []*account {
	if len(all) == 0 {
		return nil
	}
	var page []*account
	for i := range q.limit {
		page = append(page, all[(q.turns*q.limit+i)%len(all)])
	}
	return page
}

// cursor returns an account's cursor: its id, as in the samples of the documentation.
func cursor(a *account) string { return idCursor(a.ID) }

// place returns the place that a cursor stands for, or 0. It works even after the account was deleted. The caller holds
// s.mu.
func (s *Server) place(cursor string) (n int, ok bool) {
	if cursor == "" {
		return 0, true
	}
	id, err := base64.StdEncoding.DecodeString(cursor)
	if err != nil {
		return 0, false
	}
	n, ok = s.places[string(id)]
	return n, ok
}

// turnPrefix is the prefix of the cursors of endless lists before they are encoded.
const turnPrefix = "turn:"

// turnCursor returns the cursor of a page of an endless list. The first page has 1.
func turnCursor(turns int) string {
	return base64.StdEncoding.EncodeToString([]byte(turnPrefix + strconv.Itoa(turns)))
}

// turnsOf returns the page that a cursor of an endless list stands for, or 0 for any other cursor.
func turnsOf(cursor string) int {
	raw, _ := base64.StdEncoding.DecodeString(cursor)
	digits, ok := strings.CutPrefix(string(raw), turnPrefix)
	if !ok {
		return 0
	}
	n, _ := strconv.Atoi(digits)
	return max(n, 0)
}
