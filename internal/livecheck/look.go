package livecheck

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/redact"
)

// look is what the look of a fact has at hand.
type look struct {
	*asker

	at     place
	names  *names
	walked *walk // nil before the first walk
	madeUp bool  // whether a token was asked for the external user that is made up
}

// names are made up, so that nothing of the owner's has them. They are the same in a whole run.
type names struct{ account, user, app string }

func newNames() *names {
	text := strings.ToLower(rand.Text())
	return &names{account: "apn_" + text[:7], user: "pipedream-check-" + text, app: "no_app_" + text[:10]}
}

// The scopes of access tokens.
const (
	scopeAny   = "" // all that the client may have
	scopeRead  = "connect:accounts:read"
	scopeLinks = "connect:tokens:create"
)

// tokenQuery is a request for an access token.
func (l *look) tokenQuery(scope string) query {
	body := map[string]string{"grant_type": "client_credentials", "client_id": l.config.ClientID, "client_secret": string(l.config.ClientSecret)}
	if scope != scopeAny {
		body["scope"] = scope
	}
	return query{method: http.MethodPost, path: []string{"oauth", "token"}, body: body}
}

// bearerWith returns the API key, or an access token with a scope. Its secret is empty if there is none.
func (l *look) bearerWith(scope string) bearer {
	if l.config.ClientID == "" {
		return bearer{kind: "key", secret: l.config.APIKey}
	}
	got := l.ask(l.tokenQuery(scope))
	m, _ := objectOf(got.body)
	return bearer{kind: "token " + scope, secret: redact.Secret(textOf(m["access_token"]))}
}

// why returns why there is no access token.
func (l *look) whyNoToken(scope string) Form {
	if got := l.ask(l.tokenQuery(scope)); !got.ok() {
		return got.why()
	}
	return "there is no access token"
}

// get asks for something with the usual bearer.
func (l *look) get(path []string, values ...string) *answer {
	b := l.bearerWith(scopeAny)
	if b.secret == "" {
		return &answer{problem: l.whyNoToken(scopeAny)}
	}
	return l.ask(l.getQuery(b, path, values...))
}

// getQuery is a request for something below the place. values are names and values in turn.
func (l *look) getQuery(b bearer, path []string, values ...string) query {
	q := query{method: http.MethodGet, path: l.at.path(path...), values: url.Values{}, environment: l.at.environment, bearer: b}
	for pair := range slices.Chunk(values, 2) {
		q.values.Set(pair[0], pair[1])
	}
	return q
}

// The forms of a list.
const (
	dataList     Form = "data is a list"
	dataAccounts Form = "data.accounts is a list"
	bareList     Form = "a list without an object around it"
	otherList    Form = "a list somewhere else"
	noList       Form = "no list"
)

// page is a page of a list.
type page struct {
	*answer

	wrapping Form
	info     members
	accounts []members // the elements that have an id
	count    int       // of all elements
}

// page asks for a page of the accounts. values are names and values in turn.
func (l *look) page(values ...string) *page {
	if org := l.config.OrgID; org != "" && l.at.project == "" && l.config.APIKey != "" {
		values = append(values, "org_id", org)
	}
	return readPage(l.get([]string{"accounts"}, values...))
}

// readPage finds the accounts in an answer, wherever they are.
func readPage(got *answer) *page {
	p := &page{answer: got, wrapping: noList}
	if !got.ok() {
		return p
	}
	var elements []json.RawMessage
	top, _ := objectOf(got.body)
	p.info, _ = objectOf(top["page_info"])
	elements, p.wrapping = findList(got.body, top)
	p.count = len(elements)
	for _, element := range elements {
		if m, _ := objectOf(element); isSet(m["id"]) {
			p.accounts = append(p.accounts, m)
		}
	}
	return p
}

func findList(body []byte, top members) ([]json.RawMessage, Form) {
	if elements, ok := listOf(body); ok {
		return elements, bareList
	}
	if elements, ok := listOf(top["data"]); ok {
		return elements, dataList
	}
	data, _ := objectOf(top["data"])
	if elements, ok := listOf(data["accounts"]); ok {
		return elements, dataAccounts
	}
	for _, inside := range []members{top, data} {
		for _, raw := range inside {
			elements, _ := listOf(raw)
			if len(elements) == 0 {
				continue
			}
			if first, _ := objectOf(elements[0]); api.ValidAccountID(textOf(first["id"])) {
				return elements, otherList
			}
		}
	}
	return nil, noList
}

// usable reports whether accounts were found in the answer.
func (p *page) usable() bool { return p.ok() && p.wrapping != noList }

// whyNot says why there is no page.
func (p *page) whyNot() Form {
	if !p.ok() {
		return p.why()
	}
	return noList
}

// instead is what is seen in place of a usable page.
func (p *page) instead() seen {
	if p.ok() {
		return as(noList)
	}
	return p.outcome()
}

// next is the cursor of the next page; empty if there is none.
func (p *page) next() string { return textOf(p.info["end_cursor"]) }

// total is how many accounts the list says that it has.
func (p *page) total() (n int, ok bool) { return intOf(p.info["total_count"]) }

// ids returns the ids of the accounts.
func (p *page) ids() (ids []string) {
	for _, a := range p.accounts {
		ids = append(ids, textOf(a["id"]))
	}
	return ids
}

// How a walk through a list ended.
const (
	endsWithTotal    Form = "total_count is reached"
	endsWithCursor   Form = "there is no cursor"
	endsWithEmpty    Form = "an empty page"
	endsWithLoop     Form = "a cursor that came before"
	endsWithTrouble  Form = "an answer that cannot be used"
	endsWithPatience Form = "the check goes through no more pages"
)

// walk is a way through the whole list, with credentials.
type walk struct {
	pages []*page // that were usable
	end   Form
	bad   *page // the one that could not be used
}

const (
	maxPages = 20
	fullPage = "100"
)

// walk goes through the list of the place, once for all looks.
func (l *look) walk() *walk {
	if l.walked == nil {
		l.walked = l.walkNow()
	}
	return l.walked
}

func (l *look) walkNow() *walk {
	w := &walk{}
	values := []string{"limit", fullPage, "include_credentials", "true"}
	seen, came := map[string]bool{}, 0
	for after := ""; ; {
		asked := values
		if after != "" {
			asked = append(slices.Clone(values), "after", after)
		}
		p := l.page(asked...)
		if !p.usable() {
			w.bad, w.end = p, endsWithTrouble
			return w
		}
		w.pages, came = append(w.pages, p), came+p.count
		seen[after] = true
		total, known := p.total()
		after = p.next()
		switch {
		case known && total > 0 && came >= total:
			w.end = endsWithTotal
		case p.count == 0:
			w.end = endsWithEmpty
		case after == "":
			w.end = endsWithCursor
		case seen[after]:
			w.end = endsWithLoop
		case len(w.pages) == maxPages:
			w.end = endsWithPatience
		default:
			continue
		}
		return w
	}
}

// accounts returns all accounts that the walk saw.
func (w *walk) accounts() (all []members) {
	for _, p := range w.pages {
		all = append(all, p.accounts...)
	}
	return all
}

// last returns the last page that has accounts; nil if there is none.
func (w *walk) last() *page {
	for _, p := range slices.Backward(w.pages) {
		if p.count > 0 {
			return p
		}
	}
	return nil
}

const noAccounts Form = "there are no accounts here"

// why says why there is nothing to see in the list.
func (w *walk) why() Form {
	if w.bad != nil {
		return w.bad.whyNot()
	}
	return noAccounts
}

// maxSamples is how many accounts are also asked for alone.
const maxSamples = 4

// samples returns accounts of different kinds, as the list has them.
func (l *look) samples() (some []members) {
	kinds := map[string]bool{}
	for _, a := range l.walk().accounts() {
		if len(some) == maxSamples || textOf(a["id"]) == "" {
			continue
		}
		app, _ := objectOf(a["app"])
		prefix, _, _ := strings.Cut(textOf(app["id"]), "_")
		kind := strings.Join([]string{textOf(app["auth_type"]), prefix, string(formOf(a["credentials"])), string(formOf(a["expires_at"])), string(a["dead"])}, " ")
		if !kinds[kind] {
			kinds[kind], some = true, append(some, a)
		}
	}
	return some
}

// alone asks for one account.
func (l *look) alone(id, include string) *answer {
	return l.get([]string{"accounts", id}, "include_credentials", include)
}

// The forms of the answer for one account.
const (
	dataAccount  Form = "data is the account"
	bareAccount  Form = "the account without an object around it"
	otherAccount Form = "no account"
)

// readAccount finds the account in an answer.
func readAccount(got *answer) (a members, wrapping Form) {
	top, _ := objectOf(got.body)
	if data, ok := objectOf(top["data"]); ok && isSet(data["id"]) {
		return data, dataAccount
	}
	if isSet(top["id"]) {
		return top, bareAccount
	}
	return nil, otherAccount
}
