package livecheck

import (
	"slices"
	"strings"
)

const (
	onlyThose    Form = "only the accounts that were asked for"
	allOthersToo Form = "the filter is ignored"
	noneFound    Form = "no accounts, though there are some"
)

// filterFacts are about the filters of a list.
var filterFacts = []fact{
	{
		name: "filter.app", says: "app=<slug> lists the accounts of that app.",
		expected: []Form{onlyThose}, handled: []Form{allOthersToo},
		look: func(l *look) seen { return l.filtered("app", slugOf, slugOf) },
	},
	{
		name: "filter.app_id", says: "app=<app_…> lists the accounts of that app. The engine does not use it.",
		expected: []Form{onlyThose}, handled: []Form{allOthersToo, noneFound, "other accounts too", "status 400", "status 404", "status 422"},
		look: func(l *look) seen { return l.filtered("app", idOfApp("app_"), slugOf) }, // some show the id of a client
	},
	{
		name: "filter.no_app", says: "app=<a slug that no app has> lists nothing.",
		expected: []Form{"no accounts"}, handled: []Form{allOthersToo, "status 400", "status 404", "status 422"},
		look: func(l *look) seen { return l.filteredOut("app", l.names.app) },
	},
	{
		name: "filter.oauth_app", says: "oauth_app_id=<oa_…> lists the accounts of that custom OAuth client.",
		expected: []Form{onlyThose}, handled: []Form{allOthersToo},
		look: func(l *look) seen { return l.filtered("oauth_app_id", idOfApp("oa_"), idOfApp("oa_")) },
	},
	{
		name: "filter.user", says: "external_user_id=<user> lists the accounts of that external user.",
		expected: []Form{onlyThose}, handled: []Form{allOthersToo},
		look: func(l *look) seen {
			if l.at.project == "" {
				return unseen("this is about Connect")
			}
			return l.filtered("external_user_id", ownerOf, ownerOf)
		},
	},
	{
		name: "filter.no_user", says: "external_user_id=<a user that does not exist> lists nothing.",
		expected: []Form{"no accounts"}, handled: []Form{allOthersToo, "status 404"},
		look: func(l *look) seen {
			if l.at.project == "" {
				return unseen("this is about Connect")
			}
			return l.filteredOut("external_user_id", l.names.user)
		},
	},
	{
		name: "filter.long_user", says: "An external user has at most 250 characters.",
		expected: []Form{"status 400", "status 422"}, handled: []Form{answered, "status 404"},
		look: func(l *look) seen {
			if l.at.project == "" {
				return unseen("this is about Connect")
			}
			return l.page("limit", "1", "external_user_id", strings.Repeat("x", 251)).outcome()
		},
	},
	{
		name: "filter.paging", says: "Filters apply before the list is cut into pages. After it is possible too: a page can be empty though more follow.",
		expected: []Form{"before paging"}, handled: []Form{"after paging"},
		look: (*look).filteredPage,
	},
	{
		name: "filter.total", says: "total_count of a filtered list is how many accounts the filter lets through.",
		expected: []Form{"as many as came"}, handled: []Form{"another number", "no total_count"},
		look: func(l *look) seen {
			user, _ := l.rareUser()
			if user == "" {
				return unseen("there are no two external users")
			}
			p := l.page("limit", fullPage, "external_user_id", user)
			total, ok := p.total()
			switch {
			case !p.usable():
				return unseen(p.whyNot())
			case !ok:
				return as("no total_count")
			case total == p.count:
				return as("as many as came")
			case p.next() != "":
				return as("another number")
			}
			return as("a list that ends before total_count is reached")
		},
	},
	{
		name: "user.accounts", says: "GET users/<user>/accounts lists all accounts of an external user without pages. The engine does not use it.",
		expected: []Form{bareList}, handled: []Form{dataList, dataAccounts, otherList, noList, "status 404", "status 413"},
		look: func(l *look) seen {
			user := ""
			for _, a := range l.walk().accounts() {
				if user = textOf(a["external_id"]); user != "" {
					break
				}
			}
			if l.at.project == "" || user == "" {
				return unseen("there is no external user")
			}
			p := readPage(l.get([]string{"users", user, "accounts"}))
			if !p.ok() {
				return p.instead()
			}
			return as(p.wrapping)
		},
	},
}

func ownerOf(a members) string { return textOf(a["external_id"]) }

func slugOf(a members) string {
	app, _ := objectOf(a["app"])
	return textOf(app["name_slug"])
}

// idOfApp returns the app's id if it begins like this.
func idOfApp(prefix string) func(members) string {
	return func(a members) string {
		app, _ := objectOf(a["app"])
		if id := textOf(app["id"]); strings.HasPrefix(id, prefix) {
			return id
		}
		return ""
	}
}

// filtered lists the accounts with the value of the first account that has any. They are those that are of the same
// kind.
func (l *look) filtered(parameter string, value, kind func(members) string) seen {
	all := l.walk()
	i := slices.IndexFunc(all.accounts(), func(a members) bool { return value(a) != "" })
	if i < 0 {
		return unseen("no account has what this filter asks for")
	}
	first := all.accounts()[i]
	wanted := func(a members) bool { return kind(a) == kind(first) }
	p := l.page("limit", fullPage, parameter, value(first))
	switch {
	case !p.usable():
		return p.instead()
	case p.count == 0 && p.next() == "":
		return as(noneFound)
	case !slices.ContainsFunc(all.accounts(), func(a members) bool { return !wanted(a) }):
		return unseen("all accounts are of this kind")
	case !slices.ContainsFunc(p.accounts, func(a members) bool { return !wanted(a) }):
		return as(onlyThose)
	case slices.Equal(p.ids(), all.pages[0].ids()):
		return as(allOthersToo)
	}
	return as("other accounts too")
}

// filteredOut lists the accounts that nothing is known to have.
func (l *look) filteredOut(parameter, value string) seen {
	p := l.page("limit", fullPage, parameter, value)
	switch {
	case !p.usable():
		return p.instead()
	case p.count > 0:
		return as(allOthersToo)
	case l.walk().came() == 0:
		return unseen(noAccounts)
	}
	return as("no accounts")
}

// rareUser returns an external user whose accounts come after one of somebody else's, and the first of them.
func (l *look) rareUser() (user, id string) {
	first := ""
	for i, a := range l.walk().accounts() {
		owner := textOf(a["external_id"])
		if i == 0 {
			first = owner
		} else if owner != "" && owner != first && l.at.project != "" {
			return owner, textOf(a["id"])
		}
	}
	return "", ""
}

// filteredPage asks for a page of one account of an external user who does not have the first one of the list.
func (l *look) filteredPage() seen {
	user, id := l.rareUser()
	if user == "" {
		return unseen("there are no two external users")
	}
	p := l.page("limit", "1", "external_user_id", user)
	switch {
	case !p.usable():
		return unseen(p.whyNot())
	case p.count == 0 && p.next() != "":
		return as("after paging")
	case p.count == 0:
		return as("an empty page without a cursor, though the user has accounts")
	case slices.Contains(p.ids(), id):
		return as("before paging")
	}
	return unseen(allOthersToo)
}
