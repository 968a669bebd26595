package livecheck

import (
	"regexp"
	"strings"

	"vault-plugin-secrets-pipedream/internal/api"
)

var idPattern = regexp.MustCompile(`^apn_[a-zA-Z0-9]+$`)

// accountFacts are about accounts, in lists and alone.
var accountFacts = []fact{
	{
		name: "account.form", says: `The answer for one account is {"data": {account}}, or the account itself in newer answers of Connect.`,
		expected: []Form{dataAccount, bareAccount},
		look: func(l *look) (s seen) {
			for _, sample := range l.samples() {
				got := l.alone(textOf(sample["id"]), "true")
				if !got.ok() {
					s.why = got.why()
					continue
				}
				_, form := readAccount(got)
				s.add(form)
			}
			return s.or(l.walk().why())
		},
	},
	{
		name: "account.answer", says: "GET accounts/<id> answers with an account that is in the list.",
		expected: []Form{"that account"},
		look: func(l *look) (s seen) {
			for _, sample := range l.samples() {
				got := l.alone(textOf(sample["id"]), "true")
				a, _ := readAccount(got)
				switch {
				case got.problem != "":
					s.why = got.problem
				case !got.ok():
					s.add(statusForm(got.status))
				case textOf(a["id"]) != textOf(sample["id"]):
					s.add("something else")
				default:
					s.add("that account")
				}
			}
			return s.or(l.walk().why())
		},
	},
	{
		name: "account.id", says: "The id of an account is apn_ and letters and digits.",
		expected: []Form{"apn_ and letters and digits"}, handled: []Form{"another id that begins apn_"},
		look: func(l *look) (s seen) {
			for _, a := range l.walk().accounts() {
				switch id := textOf(a["id"]); {
				case idPattern.MatchString(id):
					s.add("apn_ and letters and digits")
				case api.ValidAccountID(id):
					s.add("another id that begins apn_")
				default:
					s.add("another id")
				}
			}
			return s.or(l.walk().why())
		},
	},
	{
		name: "account.include_1", says: "include_credentials=1 does what include_credentials=true does.",
		expected: []Form{"credentials"}, handled: []Form{"no credentials", "status 400", "status 422"}, // it sends true
		look: func(l *look) seen {
			for _, sample := range l.samples() {
				if a, _ := readAccount(l.alone(textOf(sample["id"]), "true")); !isSet(a["credentials"]) {
					continue
				}
				got := l.alone(textOf(sample["id"]), "1")
				a, _ := readAccount(got)
				switch {
				case !got.ok():
					return got.outcome()
				case isSet(a["credentials"]):
					return as("credentials")
				}
				return as("no credentials")
			}
			return unseen("no account has credentials")
		},
	},
	{
		name: "account.again", says: "The next answer has the same token, as long as it is not due.",
		expected: []Form{"the same credentials"}, handled: []Form{"other credentials"},
		look: func(l *look) seen {
			for _, sample := range l.samples() {
				first, _ := readAccount(l.alone(textOf(sample["id"]), "true"))
				if !isSet(first["credentials"]) {
					continue
				}
				q := l.getQuery(l.bearerWith(scopeAny), []string{"accounts", textOf(sample["id"])}, "include_credentials", "true")
				q.often = true
				got := l.ask(q)
				second, _ := readAccount(got)
				switch {
				case !got.ok():
					return unseen(got.why())
				case sameSecret(first, second):
					return as("the same credentials")
				}
				return as("other credentials")
			}
			return unseen("no account has credentials")
		},
	},
	{
		name: "account.app_id", says: "app.id is app_… of the app, or oa_… of the custom OAuth client. An oa_… proves nothing if the account comes without credentials.",
		expected: []Form{"app_… on an OAuth app", "oa_… with credentials", "null on another app"},
		handled: []Form{
			"null on an OAuth app", "app_… on another app", "oa_… without credentials", "another id",
		},
		look: func(l *look) (s seen) {
			for _, a := range l.walk().accounts() {
				app, ok := objectOf(a["app"])
				if !ok {
					continue
				}
				s.add(appForm(textOf(app["id"]), textOf(app["auth_type"]), isSet(a["credentials"])))
			}
			return s.or(l.walk().why())
		},
	},
	{
		name: "account.credentials", says: "An account on a custom OAuth client, or with keys, has credentials. One on Pipedream's own OAuth client has none.",
		expected: []Form{"an OAuth account with oauth_access_token", "an OAuth account without credentials", "another account with credentials", "another account without credentials"},
		handled:  []Form{"an OAuth account with credentials that lack oauth_access_token"},
		look: func(l *look) (s seen) {
			for _, a := range l.walk().accounts() {
				app, _ := objectOf(a["app"])
				kind := Form("another account")
				if textOf(app["auth_type"]) == "oauth" {
					kind = "an OAuth account"
				}
				credentials, ok := objectOf(a["credentials"])
				switch {
				case !isSet(a["credentials"]) || ok && len(credentials) == 0:
					s.add(kind + " without credentials")
				case !ok:
					s.add(kind + " with credentials that are no object")
				case kind == "another account":
					s.add(kind + " with credentials")
				case textOf(credentials["oauth_access_token"]) == "":
					s.add(kind + " with credentials that lack oauth_access_token")
				default:
					s.add(kind + " with oauth_access_token")
				}
			}
			return s.or(l.walk().why())
		},
	},
	{
		name: "account.credential_names", says: "Credentials of OAuth accounts have oauth_access_token, oauth_client_id, oauth_refresh_token, oauth_uid and sometimes oauth_signer_uri. Those of other apps have any names.",
		expected: []Form{"oauth_access_token", "oauth_client_id", "oauth_refresh_token", "oauth_uid", "oauth_signer_uri", "other names on another app"},
		handled:  []Form{"other names on an OAuth app"},
		look:     func(l *look) seen { return l.credentialNames() },
	},
	{
		name: "account.credential_values", says: "The values of credentials are usually texts, but that is not promised.",
		expected: []Form{anyText}, handled: []Form{null, boolean, number, emptyText, numberText, booleanText, list, object},
		look: func(l *look) (s seen) {
			for _, a := range l.walk().accounts() {
				credentials, _ := objectOf(a["credentials"])
				for _, value := range credentials {
					s.add(formOf(value))
				}
			}
			return s.or("no account has credentials")
		},
	},
	{
		name: "account.health", says: "An unhealthy or dead account says why in error, and a healthy one does not.",
		expected: []Form{"healthy without error", "unhealthy with error", "dead with error"},
		handled:  []Form{"healthy with error", "unhealthy without error", "dead without error", "dead and healthy"},
		look: func(l *look) (s seen) {
			for _, a := range l.walk().accounts() {
				said := Form(" without error")
				if isSet(a["error"]) {
					said = " with error"
				}
				dead := strings.Trim(string(a["dead"]), `"`) == "true"
				healthy := strings.Trim(string(a["healthy"]), `"`) != "false"
				switch {
				case dead && healthy && isSet(a["healthy"]):
					s.add("dead and healthy")
				case dead:
					s.add("dead" + said)
				case healthy:
					s.add("healthy" + said)
				default:
					s.add("unhealthy" + said)
				}
			}
			return s.or(l.walk().why())
		},
	},
}

func appForm(id, authType string, withCredentials bool) Form {
	where := Form(" on another app")
	if authType == "oauth" {
		where = " on an OAuth app"
	}
	switch {
	case id == "":
		return "null" + where
	case strings.HasPrefix(id, "app_"):
		return "app_…" + where
	case strings.HasPrefix(id, "oa_") && withCredentials:
		return "oa_… with credentials"
	case strings.HasPrefix(id, "oa_"):
		return "oa_… without credentials"
	}
	return "another id"
}

// credentialNames names the fields that OAuth accounts are known to have, and counts the others.
func (l *look) credentialNames() (s seen) {
	unknown := map[string]bool{}
	for _, a := range l.walk().accounts() {
		app, _ := objectOf(a["app"])
		credentials, _ := objectOf(a["credentials"])
		for name := range credentials {
			switch name {
			case "oauth_access_token", "oauth_client_id", "oauth_refresh_token", "oauth_uid", "oauth_signer_uri":
				s.add(Form(name))
				continue
			}
			unknown[name] = true
			if textOf(app["auth_type"]) == "oauth" {
				s.add("other names on an OAuth app")
			} else {
				s.add("other names on another app")
			}
		}
	}
	if len(unknown) > 0 {
		s = s.with("other names", len(unknown))
	}
	return s.or("no account has credentials")
}
