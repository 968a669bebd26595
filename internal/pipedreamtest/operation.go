package pipedreamtest

import (
	"net/http"
	"slices"
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

	KindConnectToken Kind = "connect_token" // a Connect token
	KindDelete       Kind = "delete"        // disconnect an account
	KindUserAccounts Kind = "user_accounts" // all accounts of one external user
	KindDeleteUser   Kind = "delete_user"   // remove an external user
	KindProxy        Kind = "proxy"         // a request to an app, through Pipedream
	KindOAuthApps    Kind = "oauth_apps"    // the custom OAuth clients
)

// operation is what the documentation says about a kind of request.
type operation struct {
	path    string   // below /v1, or below /v1/connect/{project}
	methods []string // that it can have
	scope   string   // the least that a token needs; empty if none is enough by itself
	limited bool     // it counts against the rate limit of accounts

	// forConnectToken: a Connect token will do. The documentation names it for reading accounts and for the proxy.
	forConnectToken bool
}

// The scopes of Connect.
const (
	scopeAll     = "*"
	scopeConnect = "connect:*"
	scopeRead    = "connect:accounts:read"
	scopeWrite   = "connect:accounts:write"
	scopeTokens  = "connect:tokens:create"
	scopeUsers   = "connect:users:write"
	scopeProxy   = "connect:proxy"
	scopeApps    = "connect:apps:*"
)

// operations has each kind except KindOther. Which scope a list of OAuth clients needs is not documented, so it needs
// all of Connect.
var operations = map[Kind]operation{
	KindAccount:      {path: "/accounts/{id}", methods: []string{http.MethodGet}, scope: scopeRead, limited: true, forConnectToken: true},
	KindList:         {path: "/accounts", methods: []string{http.MethodGet}, scope: scopeRead, limited: true, forConnectToken: true},
	KindMe:           {path: "/users/me", methods: []string{http.MethodGet}},
	KindToken:        {path: "/oauth/token", methods: []string{http.MethodPost}},
	KindConnectToken: {path: "/tokens", methods: []string{http.MethodPost}, scope: scopeTokens},
	KindDelete:       {path: "/accounts/{id}", methods: []string{http.MethodDelete}, scope: scopeWrite, limited: true},
	KindUserAccounts: {path: "/users/{user}/accounts", methods: []string{http.MethodGet}, scope: scopeRead, limited: true, forConnectToken: true},
	KindDeleteUser:   {path: "/users/{user}", methods: []string{http.MethodDelete}, scope: scopeUsers, limited: true},
	KindOAuthApps:    {path: "/oauth_apps", methods: []string{http.MethodGet}, scope: scopeConnect},
	KindProxy: {
		path:    "/proxy/{url}",
		methods: []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		scope:   scopeProxy, forConnectToken: true,
	},
}

// limited reports whether Pipedream counts such a request against its rate limit of accounts.
func (k Kind) limited() bool { return operations[k].limited }

// permits reports whether one of these scopes includes the one that a request needs.
func permits(granted []string, needed string) bool {
	return slices.ContainsFunc(granted, func(scope string) bool {
		family, all := strings.CutSuffix(scope, "*")
		return scope == needed || all && strings.HasPrefix(needed, family)
	})
}

// isScope reports whether this scope can exist. Of the scopes of apps only the widest works.
func isScope(scope string) bool {
	return scope == scopeAll || scope == scopeApps || strings.HasPrefix(scope, "connect:") && !strings.HasPrefix(scope, "connect:apps:")
}
