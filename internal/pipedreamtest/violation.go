package pipedreamtest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Violations returns how the requests so far contradicted the documentation of the API: each violation once, in the
// order of its first occurrence. The real API ignores most of them, and so does this server, except those that are
// documented to be refused. A test of a client fails if there are any.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// check records what is wrong with a request. The caller holds s.mu.
func (s *Server) check(x *exchange) {
	c := checker{x: x}
	c.request()
	for _, text := range c.found {
		s.violated(x.shape() + ": " + text)
	}
}

// violated records a violation once. The caller holds s.mu.
func (s *Server) violated(text string) {
	if !slices.Contains(s.violations, text) {
		s.violations = append(s.violations, text)
	}
}

// shape is the method and path of a request, without the parts that a client fills in.
func (x *exchange) shape() string {
	method := x.r.Method
	if !slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}, method) {
		method = "another method"
	}
	path := cmp.Or(operations[x.kind].path, "/…")
	if x.project != "" {
		path = "/connect/{project}" + path
	}
	return method + " /v1" + path
}

// checker collects what is wrong with a request. From what a client sent, it repeats only names that look like those of
// the API, because anything else might be a secret.
type checker struct {
	x     *exchange
	found []string
}

func (c *checker) add(format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf(format, args...))
}

func (c *checker) request() {
	x := c.x
	if x.kind == KindOther {
		c.add("the API has no such path")
		return
	}
	if want := operations[x.kind].methods; !slices.Contains(want, x.r.Method) {
		c.add("the method is not %s", strings.Join(want, ", "))
	}
	c.header()
	c.path()
	c.query()
	c.body()
}

func (c *checker) header() {
	x := c.x
	for _, name := range []string{"Accept", "Authorization", "Content-Type", "x-pd-environment"} {
		if n := len(x.r.Header.Values(name)); n > 1 {
			c.add("the header %s is there %d times", name, n)
		}
	}
	scheme, bearer, _ := strings.Cut(x.r.Header.Get("Authorization"), " ")
	switch {
	case x.kind == KindToken:
		if scheme != "" {
			c.add("there is an Authorization header")
		}
	case scheme != "Bearer" || bearer == "" || strings.ContainsAny(bearer, " \t"):
		c.add("there is no Authorization header with a bearer")
	}
	environment := x.environment()
	if environment == "" && x.project != "" || environment != "" && environment != environmentProduction && environment != environmentDevelopment {
		c.add("the header x-pd-environment is neither production nor development")
	}
	if accept := x.r.Header.Get("Accept"); accept != "" && !acceptsJSON(accept) {
		c.add("the header Accept excludes JSON")
	}
}

// acceptsJSON reports whether a value of the Accept header allows JSON.
func acceptsJSON(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		switch media, _, _ := mime.ParseMediaType(part); media {
		case mediaJSON, "application/*", "*/*":
			return true
		}
	}
	return false
}

func (c *checker) path() {
	x := c.x
	if x.project != "" && !strings.HasPrefix(x.project, "proj_") {
		c.add("the project does not begin with proj_")
	}
	if (x.kind == KindAccount || x.kind == KindDelete) && !strings.HasPrefix(x.account, prefixAccount) {
		c.add("the account does not begin with apn_")
	}
	if !isExternalUser(x.user) && (x.kind == KindUserAccounts || x.kind == KindDeleteUser) {
		c.add("the user has more than 250 characters")
	}
}

// parameters returns the query parameters that such a request may have, with a check of each value.
func (x *exchange) parameters() map[string]func(string) bool {
	p := map[string]func(string) bool{}
	switch x.kind {
	case KindList:
		p["app"] = isAppFilter
		p["oauth_app_id"] = func(v string) bool { return strings.HasPrefix(v, prefixOAuthApp) }
		p["limit"] = isPageSize
		p["after"] = x.s.isCursor
		p["before"] = x.s.isCursor
		if x.project != "" {
			p["external_user_id"] = isExternalUser
		}
		fallthrough
	case KindAccount, KindUserAccounts:
		if x.kind == KindUserAccounts {
			p["app"] = isAppFilter
		}
		p["include_credentials"] = func(v string) bool { return slices.Contains([]string{"true", "false", "1", "0"}, v) }
		if x.project == "" {
			p["org_id"] = isAny
		}
	case KindProxy:
		p["external_user_id"] = isExternalUser
		p["account_id"] = func(v string) bool { return strings.HasPrefix(v, prefixAccount) }
	case KindOAuthApps:
		p["app"] = isAppFilter
		p["limit"] = isPageSize
		p["after"], p["before"], p["q"] = isAny, isAny, isAny
	default:
	}
	return p
}

func isExternalUser(v string) bool { return v != "" && utf8.RuneCountInString(v) <= maxExternalUserID }

func isAppFilter(v string) bool { return v != "" && !strings.HasPrefix(v, prefixOAuthApp) }

func isPageSize(v string) bool {
	n, err := strconv.Atoi(v)
	return err == nil && n >= 1 && n <= maxPage
}

// isCursor reports whether a list can have returned this cursor. The caller holds s.mu.
func (s *Server) isCursor(v string) bool {
	_, ok := s.place(v)
	return v != "" && (ok || s.anyCursor || turnsOf(v) > 0)
}

func (c *checker) query() {
	query, err := url.ParseQuery(c.x.r.URL.RawQuery)
	if err != nil {
		c.add("the query cannot be read")
	}
	parameters := c.x.parameters()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		valid, known := parameters[name]
		switch {
		case !known && !isName(name):
			c.add("the query has a parameter that is no name")
		case !known:
			c.add("unknown query parameter %s", name)
		case len(query[name]) > 1:
			c.add("the query has %s %d times", name, len(query[name]))
		case !valid(query[name][0]):
			c.add("query parameter %s has a value that it cannot have", name)
		}
	}
}

// isName reports whether a text looks like the name of a parameter, so that it is safe to repeat.
func isName(v string) bool {
	return len(v) <= 40 && strings.Trim(v, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// members are the members that request bodies may have; true for the required ones.
var members = map[Kind]map[string]bool{
	KindToken: {"grant_type": true, "client_id": true, "client_secret": true, "scope": false},
	KindConnectToken: {
		"external_user_id": true, "app_id": false, "oauth_app_id": false, "expires_in": false, "scope": false,
		"success_redirect_uri": false, "error_redirect_uri": false, "webhook_uri": false, "allowed_origins": false,
		"allow_progressive_scopes": false,
	},
}

// formMembers are additional members that a form may have. Older clients send them, with no known effect.
var formMembers = []string{"project_id", "environment"}

func (c *checker) body() {
	x := c.x
	known := members[x.kind]
	if known == nil {
		if len(x.body) > 0 && x.kind != KindProxy {
			c.add("there is a body")
		}
		return
	}
	names, ok := c.names()
	if !ok {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if known[name] && !slices.Contains(names, name) {
			c.add("the body lacks %s", name)
		}
	}
	for _, name := range names {
		if _, ok := known[name]; ok {
			continue
		}
		if isName(name) {
			c.add("the body has %s, which is unknown", name)
		} else {
			c.add("the body has what is no name")
		}
	}
	if x.invalid != "" {
		c.add("%s", x.invalid)
	}
}

// names returns the names of the body's members, sorted.
func (c *checker) names() (names []string, ok bool) {
	switch media, _, _ := mime.ParseMediaType(c.x.r.Header.Get("Content-Type")); {
	case media == mediaJSON:
		var object map[string]json.RawMessage
		if json.Unmarshal(c.x.body, &object) != nil || object == nil {
			c.add("the body is no JSON object")
			return nil, false
		}
		for name, value := range object {
			if string(value) == "null" {
				c.add("the body has a null")
			}
			names = append(names, name)
		}
	case media == mediaForm && c.x.kind == KindToken:
		form, err := url.ParseQuery(string(c.x.body))
		if err != nil {
			c.add("the body is no form")
			return nil, false
		}
		for name, values := range form {
			if len(values) > 1 {
				c.add("the body has a field more than once")
			}
			if !slices.Contains(formMembers, name) {
				names = append(names, name)
			}
		}
	default:
		c.add("the Content-Type is not that of such a body")
		return nil, false
	}
	slices.Sort(names)
	return names, true
}
