package pipedreamtest

import (
	"net/http"
	"net/url"
	"strings"
)

// Kind is what a request asks for.
type Kind string

// These are the kinds of requests.
const (
	KindAccount Kind = "account" // one account, through REST or Connect
	KindList    Kind = "list"    // a list of accounts, through REST or Connect
	KindMe      Kind = "me"      // users/me
	KindToken   Kind = "token"   // oauth/token
	KindOther   Kind = "other"   // anything else

	KindConnectToken Kind = "connect_token" // a token for Connect Link
)

// limited reports whether Pipedream counts such a request against its rate limit.
func (k Kind) limited() bool { return k == KindAccount || k == KindList }

// method is the method of such requests.
func (k Kind) method() string {
	if k == KindToken || k == KindConnectToken {
		return http.MethodPost
	}
	return http.MethodGet
}

// route is the parsed path of a request.
type route struct {
	kind    Kind
	project string // the Connect project; empty on REST paths
	account string
}

// routeOf parses a path. It uses the escaped path, because an account id may contain an escaped slash. It does not use
// http.ServeMux, which redirects odd paths and so would hide them from the test.
func routeOf(u *url.URL) route {
	rest, ok := strings.CutPrefix(u.EscapedPath(), "/v1/")
	if !ok {
		return route{kind: KindOther}
	}
	parts := strings.Split(rest, "/")
	for i, escaped := range parts {
		part, err := url.PathUnescape(escaped)
		if err != nil || part == "" {
			return route{kind: KindOther}
		}
		parts[i] = part
	}
	switch {
	case len(parts) == 1 && parts[0] == "accounts":
		return route{kind: KindList}
	case len(parts) == 2 && parts[0] == "accounts":
		return route{kind: KindAccount, account: parts[1]}
	case len(parts) == 2 && parts[0] == "users" && parts[1] == "me":
		return route{kind: KindMe}
	case len(parts) == 2 && parts[0] == "oauth" && parts[1] == "token":
		return route{kind: KindToken}
	case len(parts) == 3 && parts[0] == "connect" && parts[2] == "accounts":
		return route{kind: KindList, project: parts[1]}
	case len(parts) == 3 && parts[0] == "connect" && parts[2] == "tokens":
		return route{kind: KindConnectToken, project: parts[1]}
	case len(parts) == 4 && parts[0] == "connect" && parts[2] == "accounts":
		return route{kind: KindAccount, project: parts[1], account: parts[3]}
	}
	return route{kind: KindOther}
}
