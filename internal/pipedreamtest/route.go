package pipedreamtest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// route is what the method and path of a request say.
type route struct {
	kind    Kind
	project string // the Connect project; empty on REST paths
	ofToken bool   // a Connect path without a project: that of the Connect token is meant
	account string
	user    string // the external user
	url64   string // the encoded URL of a KindProxy
}

// routeOf parses a path. It uses the escaped path, because an id may contain an escaped slash. It does not use
// http.ServeMux, which redirects odd paths and so would hide them from the test.
func routeOf(method string, u *url.URL) route {
	rest, ok := strings.CutPrefix(u.EscapedPath(), "/v1/")
	if !ok {
		return route{kind: KindOther}
	}
	parts := strings.Split(rest, "/")
	for i, escaped := range parts {
		part, err := url.PathUnescape(escaped)
		if err != nil {
			return route{kind: KindOther}
		}
		parts[i] = part
	}
	r := route{}
	if parts[0] == "connect" {
		parts = r.connect(parts[1:])
	}
	r.resource(method, parts)
	return r
}

// connect parses a path below connect up to the resource, and returns the rest. The SDK's client for browsers does not
// know the project. It leaves it out, in front of a proxy as an empty part of the path.
func (r *route) connect(parts []string) []string {
	switch {
	case len(parts) == 0:
		return nil
	case parts[0] == "accounts", parts[0] == "users", parts[0] == "oauth_apps":
		r.ofToken = true
		return parts
	case parts[0] != "":
		r.project = parts[0]
		return parts[1:]
	case len(parts) > 1 && parts[1] == "proxy":
		r.ofToken = true
		return parts[1:]
	}
	return nil
}

// resource parses the path of a resource. Below a project there are more of them.
func (r *route) resource(method string, parts []string) {
	connect := r.project != "" || r.ofToken
	switch {
	case matches(parts, "accounts"):
		r.kind = KindList
	case matches(parts, "accounts", "") && connect && method == http.MethodDelete:
		r.kind, r.account = KindDelete, parts[1]
	case matches(parts, "accounts", ""):
		r.kind, r.account = KindAccount, parts[1]
	case matches(parts, "oauth_apps"):
		r.kind = KindOAuthApps
	case matches(parts, "users", "me") && !connect:
		r.kind = KindMe
	case matches(parts, "oauth", "token") && !connect:
		r.kind = KindToken
	case matches(parts, "tokens") && r.project != "":
		r.kind = KindConnectToken
	case matches(parts, "users", "") && connect:
		r.kind, r.user = KindDeleteUser, parts[1]
	case matches(parts, "users", "", "accounts") && connect:
		r.kind, r.user = KindUserAccounts, parts[1]
	case matches(parts, "proxy", "") && connect:
		r.kind, r.url64 = KindProxy, parts[1]
	default:
		*r = route{kind: KindOther}
	}
}

// matches reports whether a path has these parts; an empty one stands for any that is not empty.
func matches(parts []string, want ...string) bool {
	return slices.EqualFunc(parts, want, func(part, want string) bool {
		return part != "" && (want == "" || want == part)
	})
}
