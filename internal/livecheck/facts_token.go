package livecheck

import (
	"crypto/sha256"
	"net/http"
	"strings"
)

const (
	noClient Form = "the check has no OAuth client"
	noKey    Form = "the check has no API key"
	given    Form = "an access token"
	answered Form = "answered"
)

var tokenFacts = []fact{
	{
		name: "token.answer", says: "POST oauth/token answers with access_token, token_type and expires_in.",
		expected: []Form{"access_token is a text", "token_type is Bearer", "expires_in is a number"},
		handled:  []Form{"token_type is missing", "token_type is something else", "expires_in is a number as text"},
		look: func(l *look) seen {
			m, why := l.tokenAnswer()
			if m == nil {
				return unseen(why)
			}
			s := as("access_token is " + textAs(m["access_token"]))
			switch text := textOf(m["token_type"]); {
			case strings.EqualFold(text, "Bearer"):
				s.add("token_type is Bearer")
			case text == "":
				s.add("token_type is missing")
			default:
				s.add("token_type is something else")
			}
			s.add("expires_in is " + formOf(m["expires_in"]))
			return s
		},
	},
	{
		name: "token.life", says: "An access token lives for an hour.",
		expected: []Form{"3600 s"},
		handled:  []Form{"more than 2 minutes", "at most 2 minutes"},
		look: func(l *look) seen {
			m, why := l.tokenAnswer()
			n, ok := intOf(m["expires_in"])
			switch {
			case m == nil:
				return unseen(why)
			case !ok:
				return unseen("expires_in is no whole number")
			case n == 3600:
				return as("3600 s")
			case n > 120:
				return as("more than 2 minutes").with("seconds", n)
			}
			return as("at most 2 minutes").with("seconds", n)
		},
	},
	{
		name: "token.again", says: "Whether the next request brings another access token is not documented.",
		expected: []Form{"another token", "the same token"}, open: true,
		look: func(l *look) seen {
			first, why := l.tokenAnswer()
			if first == nil {
				return unseen(why)
			}
			q := l.tokenQuery(scopeAny)
			q.often = true
			got := l.ask(q)
			second, _ := objectOf(got.body)
			switch {
			case !got.ok():
				return unseen(got.why())
			case sum(first["access_token"]) == sum(second["access_token"]):
				return as("the same token")
			}
			return as("another token")
		},
	},
	{
		name: "token.scope", says: "A token can be asked for with the scope connect:accounts:read alone.",
		expected: []Form{given},
		look: func(l *look) seen {
			if l.config.ClientID == "" {
				return unseen(noClient)
			}
			if first, why := l.tokenAnswer(); first == nil {
				return unseen(why)
			}
			got := l.ask(l.tokenQuery(scopeRead))
			m, _ := objectOf(got.body)
			switch {
			case got.problem != "":
				return unseen(got.problem)
			case textOf(m["access_token"]) != "":
				return as(given)
			}
			return as(statusForm(got.status))
		},
	},
}

// tokenAnswer returns the answer for an access token, or why there is none.
func (l *look) tokenAnswer() (m members, why Form) {
	if l.config.ClientID == "" {
		return nil, noClient
	}
	got := l.ask(l.tokenQuery(scopeAny))
	m, ok := objectOf(got.body)
	if !got.ok() || !ok {
		return nil, got.why()
	}
	return m, ""
}

// textAs is formOf for a secret: any text is one.
func textAs(raw []byte) Form {
	if textOf(raw) != "" {
		return anyText
	}
	return formOf(raw)
}

// sum tells secrets apart without keeping them.
func sum(raw []byte) [sha256.Size]byte { return sha256.Sum256(raw) }

var userFacts = []fact{{
	name: "user.answer", says: "GET users/me answers to a user's API key with that user.",
	expected: []Form{"data.id"}, handled: []Form{"id"},
	look: func(l *look) seen {
		if l.config.APIKey == "" {
			return unseen(noKey)
		}
		got := l.ask(query{method: http.MethodGet, path: []string{"users", "me"}, bearer: l.bearerWith(scopeAny)})
		if !got.ok() {
			return unseen(got.why())
		}
		top, _ := objectOf(got.body)
		data, _ := objectOf(top["data"])
		switch {
		case isSet(data["id"]):
			return as("data.id")
		case isSet(top["id"]):
			return as("id")
		}
		return as("no id")
	},
}}

// scopeFacts are about what access tokens open.
var scopeFacts = []fact{
	{
		name: "scope.read", says: "A token with connect:accounts:read alone lists accounts. Whether that holds for the accounts of the workspace is not documented.",
		expected: []Form{answered, "status 401", "status 403"}, open: true,
		look: func(l *look) seen { return l.scoped(scopeRead) },
	},
	{
		name: "scope.links", says: "A token with connect:tokens:create alone does not list accounts.",
		expected: []Form{"status 401", "status 403"}, handled: []Form{answered, "status 404"},
		look: func(l *look) seen { return l.scoped(scopeLinks) },
	},
	{
		name: "scope.oauth_apps", says: "Which scope the list of OAuth clients needs is not documented. The check asks with all that its client may have.",
		expected: []Form{answered, "status 401", "status 403", "status 404"}, open: true,
		look: func(l *look) seen {
			return l.get([]string{"oauth_apps"}, "limit", fullPage).outcome()
		},
	},
	{
		name: "environment.header", says: "What happens without the header x-pd-environment is not documented. The engine always sends it.",
		expected: []Form{answered, "status 400", "status 401", "status 403", "status 404", "status 422"}, open: true,
		look: func(l *look) seen {
			b := l.bearerWith(scopeAny)
			if l.at.project == "" || b.secret == "" {
				return unseen("this is about Connect")
			}
			q := l.getQuery(b, []string{"accounts"}, "limit", "1")
			q.environment = ""
			return l.ask(q).outcome()
		},
	},
}

// scoped lists accounts with a token that has this scope alone.
func (l *look) scoped(scope string) seen {
	if l.config.ClientID == "" {
		return unseen(noClient)
	}
	b := l.bearerWith(scope)
	if b.secret == "" {
		return unseen(l.whyNoToken(scope))
	}
	return l.ask(l.getQuery(b, []string{"accounts"}, "limit", "1")).outcome()
}
