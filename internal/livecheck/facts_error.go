package livecheck

import "encoding/json"

// The forms of errors.
const (
	errorText    Form = "error is a text"
	errorObject  Form = "error is an object of lists of texts"
	errorOther   Form = "error is something else"
	errorMissing Form = "there is no error in it"
)

// errorFacts are about answers to requests that must fail.
var errorFacts = []fact{
	{
		name: "error.no_account", says: `An unknown account is a 404, or a 200 with {"error":"record not found"}.`,
		expected: []Form{"status 404", errorText}, handled: []Form{"status 200", "status 410", errorObject},
		look: func(l *look) seen { return failure(l.alone(l.names.account, "true")) },
	},
	{
		name: "error.bearer", says: `A wrong key is a 401 with {"error": "…"}. The check sends one request with a bearer that is none.`,
		expected: []Form{"status 401", errorText}, handled: []Form{errorObject},
		look: func(l *look) seen {
			return failure(l.ask(l.getQuery(bearer{kind: "none", secret: "pipedream-check"}, []string{"accounts"}, "limit", "1")))
		},
	},
	{
		name: "error.org_id", says: "Lists with a user's API key need org_id, if the user has several workspaces.",
		expected: []Form{answered, "status 400"}, handled: []Form{"status 403", "status 422"}, open: true,
		look: func(l *look) seen {
			if l.config.APIKey == "" || l.at.project != "" {
				return unseen("this is about API keys")
			}
			return l.get([]string{"accounts"}, "limit", "1").outcome()
		},
	},
}

// failure is the form of an answer to a request that must fail.
func failure(got *answer) seen {
	if got.problem != "" && got.problem != emptyBody {
		return unseen(got.problem)
	}
	s := as(statusForm(got.status))
	s.add(errorForm(got.body))
	return s
}

func errorForm(body []byte) Form {
	top, _ := objectOf(body)
	switch {
	case !isSet(top["error"]):
		return errorMissing
	case textOf(top["error"]) != "":
		return errorText
	}
	var lists map[string][]string
	if json.Unmarshal(top["error"], &lists) == nil && len(lists) > 0 {
		return errorObject
	}
	return errorOther
}
