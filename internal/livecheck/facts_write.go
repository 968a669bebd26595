package livecheck

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"vault-plugin-secrets-pipedream/internal/redact"
)

const (
	mayNotWrite Form = "the check may only read (-write)"
	tokenLife        = time.Minute
	removalTime      = 15 * time.Second
	scopeOfLink      = "connect:accounts:write connect:apps:*"
)

// writeFacts are about Connect tokens. They make one that lives for a minute: for the owner of an account that has
// credentials, or for a user that is made up, and removed again by [look.remove].
var writeFacts = []fact{
	{
		name: "connect_token.answer", says: "POST tokens answers with token (ctok_ and 32 hexadecimal digits), expires_at and connect_link_url.",
		expected: []Form{"ctok_ and 32 hexadecimal digits", "expires_at is " + iso, "a link with token and connectLink"},
		handled:  []Form{"another token", "expires_at is " + rfc3339, "expires_at is " + unixSeconds, "expires_at is " + unixMillis, "expires_at is " + absent, "another https link"},
		look: func(l *look) seen {
			m, why := l.connectToken()
			if m == nil {
				return unseen(why)
			}
			s := as(connectTokenForm(textOf(m["token"])))
			s.add("expires_at is " + timeForm(m["expires_at"]))
			s.add(linkForm(textOf(m["connect_link_url"])))
			return s
		},
	},
	{
		name: "connect_token.life", says: "A Connect token lives as long as expires_in asks for.",
		expected: []Form{"as long as asked for"}, handled: []Form{"longer", "shorter"},
		look: func(l *look) seen {
			m, why := l.connectToken()
			if m == nil {
				return unseen(why)
			}
			end, _ := parseTime(m["expires_at"])
			life := end.Sub(l.ask(l.connectTokenQuery()).date())
			switch {
			case end.IsZero():
				return unseen("there is no expires_at")
			case (life - tokenLife).Abs() < 5*time.Second:
				return as("as long as asked for")
			case life > tokenLife:
				return as("longer").with("seconds", int(life.Seconds()))
			}
			return as("shorter").with("seconds", int(life.Seconds()))
		},
	},
	{
		name: "connect_token.lists", says: "A Connect token lists the accounts of its user.",
		expected: []Form{answered}, handled: []Form{"status 401", "status 403"},
		look: func(l *look) seen { return l.byToken(1) },
	},
	{
		name: "connect_token.lists_again", says: "It does so again. One page of Pipedream's says that such tokens can be used once only.",
		expected: []Form{answered}, handled: []Form{"status 401", "status 403"},
		look: func(l *look) seen { return l.byToken(2) },
	},
	{
		name: "connect_token.credentials", says: "Whether a Connect token gets credentials is not documented.",
		expected: []Form{"credentials", "no credentials"}, open: true,
		look: func(l *look) seen {
			if l.owner() == "" {
				return unseen("no external user has an account with credentials")
			}
			p := readPage(l.withToken("include_credentials", "true"))
			if !p.usable() || len(p.accounts) == 0 {
				return unseen(p.whyNot())
			}
			for _, a := range p.accounts {
				if isSet(a["credentials"]) {
					return as("credentials")
				}
			}
			return as("no credentials")
		},
	},
	{
		name: "connect_token.other_user", says: "A Connect token does not list the accounts of another user.",
		expected: []Form{"status 401", "status 403", "no accounts"}, handled: []Form{"status 400", "status 404"},
		look: func(l *look) seen {
			other, _ := l.rareUser()
			if l.owner() == "" || other == "" || other == l.owner() {
				return unseen("there are no two external users")
			}
			p := readPage(l.withToken("external_user_id", other))
			switch {
			case !p.ok():
				return p.instead()
			case p.count == 0:
				return as("no accounts")
			}
			for _, a := range p.accounts {
				if ownerOf(a) == other {
					return as("accounts of the other user")
				}
			}
			return as("accounts of its own user")
		},
	},
	{
		name: "link.connects", says: "A link whose token has connect:accounts:write and connect:apps:* connects an account of the app, for the user.",
		expected: []Form{"an account of that app"}, handled: []Form{"an account of that app, without credentials"},
		look: (*look).link,
	},
}

// owner is the external user for whom the token is made; empty to make one up.
func (l *look) owner() string {
	for _, a := range l.walk().accounts() {
		if user := ownerOf(a); user != "" && isSet(a["credentials"]) {
			return user
		}
	}
	return ""
}

// connectTokenQuery is a request for a Connect token.
func (l *look) connectTokenQuery() query {
	return l.tokenFor(l.owner(), map[string]any{"expires_in": int(tokenLife.Seconds()), "scope": scopeRead})
}

// tokenFor is a request for a Connect token of an external user, or of the one that is made up.
func (l *look) tokenFor(user string, body map[string]any) query {
	body["external_user_id"] = user
	if user == "" {
		body["external_user_id"], l.madeUp = l.names.user, true
	}
	return query{
		method: http.MethodPost, path: l.at.path("tokens"), environment: l.at.environment, bearer: l.bearerWith(scopeAny), body: body,
	}
}

// connectToken returns the answer for a Connect token, or why there is none.
func (l *look) connectToken() (members, Form) {
	if !l.config.Write {
		return nil, mayNotWrite
	}
	if l.at.project == "" {
		return nil, "this is about Connect"
	}
	if l.bearerWith(scopeAny).secret == "" {
		return nil, l.whyNoToken(scopeAny)
	}
	got := l.ask(l.connectTokenQuery())
	m, ok := objectOf(got.body)
	if !got.ok() || !ok {
		return nil, got.why()
	}
	return m, ""
}

// withToken lists accounts with the Connect token.
func (l *look) withToken(values ...string) *answer {
	m, why := l.connectToken()
	token := textOf(m["token"])
	if token == "" {
		return &answer{problem: why}
	}
	return l.ask(l.getQuery(bearer{kind: "Connect token", secret: redact.Secret(token)}, []string{"accounts"}, append(values, "limit", fullPage)...))
}

// byToken lists accounts with the Connect token for the nth time.
func (l *look) byToken(n int) seen {
	if m, why := l.connectToken(); m == nil {
		return unseen(why)
	}
	if n == 1 {
		return l.withToken().outcome()
	}
	return l.withToken("app", l.names.app).outcome()
}

var connectTokenPattern = regexp.MustCompile(`^ctok_[0-9a-f]{32}$`)

func connectTokenForm(token string) Form {
	switch {
	case connectTokenPattern.MatchString(token):
		return "ctok_ and 32 hexadecimal digits"
	case token != "":
		return "another token"
	}
	return "no token"
}

func linkForm(link string) Form {
	u, err := url.Parse(link)
	switch {
	case err != nil || u.Host == "":
		return "no link"
	case u.Query().Has("token") && u.Query().Get("connectLink") == "true":
		return "a link with token and connectLink"
	case u.Scheme == "https":
		return "another https link"
	}
	return "another link"
}

// link shows a link for a user that is made up, and waits until somebody connects an account with it.
func (l *look) link() seen {
	app := l.config.LinkApp
	if _, why := l.connectToken(); app == "" || l.config.Show == nil || why != "" {
		return unseen("there was no link to connect an account with (-link)")
	}
	got := l.ask(l.tokenFor("", map[string]any{"expires_in": int(max(l.config.LinkWait, tokenLife).Seconds()), "scope": scopeOfLink, "app_id": app}))
	m, _ := objectOf(got.body)
	u, err := url.Parse(textOf(m["connect_link_url"]))
	if !got.ok() || err != nil || u.Host == "" {
		return unseen(got.why())
	}
	query := u.Query()
	query.Set("app", app)
	u.RawQuery = query.Encode()
	l.config.Show(u.String())
	for end := time.Now().Add(l.config.LinkWait); time.Now().Before(end); {
		if !l.wait(5 * time.Second) {
			return unseen(l.stopped)
		}
		q := l.getQuery(l.bearerWith(scopeAny), []string{"accounts"}, "external_user_id", l.names.user, "include_credentials", "true")
		q.often = true
		for _, a := range readPage(l.ask(q)).accounts {
			switch {
			case ownerOf(a) != l.names.user:
			case slugOf(a) != app:
				return as("an account of another app")
			case !isSet(a["credentials"]):
				return as("an account of that app, without credentials")
			default:
				return as("an account of that app")
			}
		}
	}
	return unseen("nobody connected an account with the link")
}

// remove removes the external user that was made up, if it may have come to exist, with all accounts. It does so even
// after the check was interrupted. It reports whether nothing is left of it.
func (l *look) remove() bool {
	if !l.madeUp {
		return true
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), removalTime)
	defer cancel()
	q := l.getQuery(l.bearerWith(scopeAny), []string{"users", l.names.user})
	q.method = http.MethodDelete
	got := l.send(ctx, q, nil)
	return got.status == http.StatusNoContent || got.status == http.StatusOK || got.status == http.StatusNotFound
}
