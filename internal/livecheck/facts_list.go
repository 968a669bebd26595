package livecheck

import (
	"encoding/base64"
	"slices"

	"vault-plugin-secrets-pipedream/internal/api"
)

const (
	onePage Form = "all accounts are on one page"
	tooFew  Form = "there are too few accounts"
)

// listFacts are about the list of all accounts at a place.
var listFacts = []fact{
	{
		name: "list.answer", says: "GET accounts answers with the accounts.",
		expected: []Form{answered},
		handled:  []Form{"status 401", "status 403"}, // the engine says so
		look: func(l *look) seen {
			p := l.page("limit", fullPage, "include_credentials", "true")
			return p.outcome()
		},
	},
	{
		name: "list.form", says: `A list is {"page_info": {…}, "data": [account, …]}. In an older form of Connect, data holds the accounts.`,
		expected: []Form{dataList}, handled: []Form{dataAccounts},
		look: func(l *look) seen {
			w := l.walk()
			if len(w.pages) == 0 {
				if w.bad.ok() {
					return as(noList)
				}
				return unseen(w.bad.why())
			}
			s := seen{}
			for _, p := range w.pages {
				s.add(p.wrapping)
			}
			return s
		},
	},
	{
		name: "list.page_info", says: "page_info has count, total_count, start_cursor and end_cursor.",
		expected: []Form{"count", "total_count", "start_cursor", "end_cursor"},
		handled:  []Form{"no count", "no total_count", "no start_cursor"},
		look: func(l *look) (s seen) {
			w := l.walk()
			for _, p := range w.pages {
				for _, name := range []string{"count", "total_count", "start_cursor", "end_cursor"} {
					if _, ok := p.info[name]; ok {
						s.add(Form(name))
					} else {
						s.add("no " + Form(name))
					}
				}
			}
			return s.or(w.why())
		},
	},
	{
		name: "list.numbers", says: "The counts in page_info are numbers.",
		expected: []Form{number}, handled: []Form{absent, null, numberText},
		look: func(l *look) (s seen) {
			w := l.walk()
			for _, p := range w.pages {
				s.add(formOf(p.info["count"]))
				s.add(formOf(p.info["total_count"]))
			}
			return s.or(w.why())
		},
	},
	{
		name: "list.total", says: "total_count is how many accounts all pages have together.",
		expected: []Form{"as many accounts came as total_count says"},
		handled:  []Form{"no total_count", "fewer accounts came than total_count says"},
		look: func(l *look) seen {
			w := l.walk()
			if len(w.accounts()) == 0 {
				return unseen(w.why())
			}
			total, ok := w.pages[len(w.pages)-1].total()
			came := w.came()
			switch {
			case !ok:
				return as("no total_count")
			case w.end == endsWithPatience, w.end == endsWithTrouble:
				return unseen(w.end)
			case came < total:
				return as("fewer accounts came than total_count says")
			case came > total || l.afterTheEnd(w).count > 0:
				return as("more accounts came than total_count says")
			}
			return as("as many accounts came as total_count says")
		},
	},
	{
		name: "list.end", says: "How a walk through the list ends.",
		expected: []Form{endsWithTotal}, handled: []Form{endsWithCursor, endsWithEmpty, endsWithLoop, endsWithPatience},
		look: func(l *look) seen {
			w := l.walk()
			if len(w.pages) == 0 {
				return unseen(w.why())
			}
			return as(w.end).with("pages", len(w.pages))
		},
	},
	{
		name: "list.distinct", says: "No account is on two pages.",
		expected: []Form{"each account came once"}, handled: []Form{"an account came twice"},
		look: func(l *look) seen {
			w, ids := l.walk(), []string{}
			for _, p := range w.pages {
				ids = append(ids, p.ids()...)
			}
			if len(ids) == 0 {
				return unseen(w.why())
			}
			slices.Sort(ids)
			if len(slices.Compact(slices.Clone(ids))) < len(ids) {
				return as("an account came twice")
			}
			return as("each account came once")
		},
	},
	{
		name: "list.last_cursor", says: "The last page has an end_cursor too.",
		expected: []Form{anyText}, handled: []Form{null, emptyText, absent},
		look: func(l *look) seen {
			w := l.walk()
			last := w.last()
			switch {
			case last == nil:
				return unseen(w.why())
			case w.end == endsWithPatience || w.end == endsWithTrouble:
				return unseen(w.end)
			}
			return as(anyTextForm(last.info["end_cursor"]))
		},
	},
	{
		name: "list.cursor", says: "A cursor is the base64 of the last account's id.",
		expected: []Form{"base64 of the last account's id"}, handled: []Form{"another text"},
		look: func(l *look) (s seen) {
			w := l.walk()
			for _, p := range w.pages {
				switch id := p.ids(); {
				case p.next() == "" || len(id) == 0:
				case len(p.next()) > api.MaxCursor:
					s.add("a text that is too long")
				case p.next() == base64.StdEncoding.EncodeToString([]byte(id[len(id)-1])):
					s.add("base64 of the last account's id")
				default:
					s.add("another text")
				}
			}
			return s.or("there is no cursor")
		},
	},
	{
		name: "list.after_the_end", says: "The page after the last one is empty, and its cursors are null.",
		expected: []Form{"an empty page without a cursor"},
		handled:  []Form{"an empty page with a cursor", "accounts that came before", "status 400", "status 404", "status 422"},
		look: func(l *look) seen {
			w := l.walk()
			last := w.last()
			switch {
			case last == nil:
				return unseen(w.why())
			case last.next() == "":
				return unseen("the last page has no cursor")
			case w.end == endsWithPatience || w.end == endsWithTrouble:
				return unseen(w.end)
			}
			p := l.afterTheEnd(w)
			switch {
			case !p.usable():
				return p.instead()
			case p.count > 0 && w.has(p.ids()):
				return as("accounts that came before")
			case p.count > 0:
				return as("more accounts")
			case p.next() != "":
				return as("an empty page with a cursor")
			}
			return as("an empty page without a cursor")
		},
	},
	{
		name: "list.limit", says: "With limit=100 a page has up to 100 accounts. The limit can be capped.",
		expected: []Form{"pages of 100"}, handled: []Form{"shorter pages, though more follow"},
		look: func(l *look) seen {
			w := l.walk()
			switch {
			case len(w.accounts()) == 0:
				return unseen(w.why())
			case w.pages[0].count > 100 && w.pages[0].count <= api.MaxPage:
				return as("longer pages").with("accounts", w.pages[0].count)
			case w.pages[0].count > api.MaxPage:
				return as("pages that are longer than the engine reads").with("accounts", w.pages[0].count)
			case len(w.pages) < 2 || w.pages[1].count == 0:
				return unseen(onePage)
			case w.pages[0].count < 100:
				return as("shorter pages, though more follow").with("accounts", w.pages[0].count)
			}
			return as("pages of 100")
		},
	},
	{
		name: "list.small_limit", says: "With limit=1 a page has one account.",
		expected: []Form{"one account"}, handled: []Form{"more than one account"},
		look: func(l *look) seen {
			p := l.page("limit", "1")
			switch {
			case !p.usable():
				return unseen(p.whyNot())
			case p.count == 0:
				return unseen(noAccounts)
			case p.count > 1:
				return as("more than one account").with("accounts", p.count)
			case l.walk().came() < 2:
				return unseen(tooFew)
			}
			return as("one account")
		},
	},
	{
		name: "list.default_limit", says: "Without a limit a page has 10 accounts.",
		expected: []Form{"10 accounts"}, handled: []Form{"another number of accounts"},
		look: func(l *look) seen {
			p := l.page()
			switch {
			case !p.usable():
				return unseen(p.whyNot())
			case p.count == 10:
				return as("10 accounts")
			case l.walk().came() <= p.count:
				return unseen(tooFew)
			}
			return as("another number of accounts").with("accounts", p.count)
		},
	},
	{
		name: "list.large_limit", says: "What happens with limit=101 is not documented. The engine never sends it.",
		expected: []Form{answered, "status 400", "status 422"}, open: true,
		look: func(l *look) seen { return l.page("limit", "101").outcome() },
	},
	{
		name: "list.after", says: "after=<end_cursor> asks for the next page.",
		expected: []Form{"the next account"}, handled: []Form{"an empty page"},
		look: func(l *look) seen {
			first := l.page("limit", "1")
			if !first.usable() || first.next() == "" {
				return unseen("there is no cursor")
			}
			second := l.page("limit", "1", "after", first.next())
			switch {
			case !second.usable():
				return second.instead()
			case second.count == 0 && l.walk().came() < 2:
				return unseen(tooFew)
			case second.count == 0:
				return as("an empty page")
			case slices.Equal(first.ids(), second.ids()):
				return as("the same page again")
			}
			return as("the next account")
		},
	},
	{
		name: "list.before", says: "before=<start_cursor> asks for the page before. The engine does not use it.",
		expected: []Form{"the account before"}, handled: []Form{"other accounts", "an empty page", "status 400", "status 422"},
		look: func(l *look) seen {
			first := l.page("limit", "1")
			second := l.page("limit", "1", "after", first.next())
			cursor := textOf(second.info["start_cursor"])
			if !first.usable() || first.next() == "" || !second.usable() || cursor == "" {
				return unseen(tooFew)
			}
			p := l.page("limit", "1", "before", cursor)
			switch {
			case !p.ok():
				return p.instead()
			case p.count == 0:
				return as("an empty page")
			case slices.Equal(p.ids(), first.ids()):
				return as("the account before")
			}
			return as("other accounts")
		},
	},
	{
		name: "list.credentials", says: "With include_credentials=true a list has the credentials that its accounts have alone.",
		expected: []Form{"the same as alone"}, handled: []Form{"none, though alone there are some", "others than alone"},
		look: func(l *look) (s seen) {
			for _, sample := range l.samples() {
				a, wrapping := readAccount(l.alone(textOf(sample["id"]), "true"))
				switch {
				case wrapping == otherAccount || !isSet(a["credentials"]) && !isSet(sample["credentials"]):
				case !isSet(sample["credentials"]):
					s.add("none, though alone there are some")
				case sameSecret(a, sample):
					s.add("the same as alone")
				default:
					s.add("others than alone")
				}
			}
			return s.or("no account has credentials")
		},
	},
	{
		name: "list.credentials_unasked", says: "Without include_credentials a list has no credentials.",
		expected: []Form{"no credentials"}, handled: []Form{"credentials"},
		look: func(l *look) seen {
			p := l.page()
			if !p.usable() || len(p.accounts) == 0 {
				return unseen(l.walk().why())
			}
			for _, a := range p.accounts {
				if isSet(a["credentials"]) {
					return as("credentials")
				}
			}
			return as("no credentials")
		},
	},
}

// sameSecret reports whether two answers have the same credentials. Where there is an access token it decides.
func sameSecret(a, b members) bool {
	of := func(m members) members { c, _ := objectOf(m["credentials"]); return c }
	one, other := of(a), of(b)
	if textOf(one["oauth_access_token"]) != "" {
		return sum(one["oauth_access_token"]) == sum(other["oauth_access_token"])
	}
	if len(one) != len(other) {
		return false
	}
	for name := range one {
		if sum(one[name]) != sum(other[name]) {
			return false
		}
	}
	return true
}

// came returns how many accounts came on all pages.
func (w *walk) came() (n int) {
	for _, p := range w.pages {
		n += p.count
	}
	return n
}

// has reports whether these accounts came before.
func (w *walk) has(ids []string) bool {
	var all []string
	for _, p := range w.pages {
		all = append(all, p.ids()...)
	}
	return !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(all, id) })
}

// afterTheEnd asks for the page after the last one that has accounts.
func (l *look) afterTheEnd(w *walk) *page {
	last := w.last()
	if last == nil || last.next() == "" {
		return &page{answer: &answer{problem: "there is no cursor"}, wrapping: noList}
	}
	return l.page("limit", fullPage, "include_credentials", "true", "after", last.next())
}
