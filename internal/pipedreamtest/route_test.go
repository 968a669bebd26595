package pipedreamtest

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestRouteOf(t *testing.T) {
	for request, want := range map[string]route{
		"GET /v1/accounts":                    {kind: KindList},
		"GET /v1/accounts/apn_x":              {kind: KindAccount, account: "apn_x"},
		"GET /v1/accounts/apn%2Fx%20y":        {kind: KindAccount, account: "apn/x y"},
		"GET /v1/users/me":                    {kind: KindMe},
		"GET /v1/oauth/token":                 {kind: KindToken},
		"GET /v1/connect/proj_a/accounts":     {kind: KindList, project: "proj_a"},
		"GET /v1/connect/proj_a/accounts/apn": {kind: KindAccount, project: "proj_a", account: "apn"},

		"GET /v1/oauth_apps":                          {kind: KindOAuthApps},
		"GET /v1/connect/proj_a/oauth_apps":           {kind: KindOAuthApps, project: "proj_a"},
		"POST /v1/connect/proj_a/tokens":              {kind: KindConnectToken, project: "proj_a"},
		"DELETE /v1/connect/proj_a/accounts/apn":      {kind: KindDelete, project: "proj_a", account: "apn"},
		"PUT /v1/connect/proj_a/accounts/apn":         {kind: KindAccount, project: "proj_a", account: "apn"},
		"DELETE /v1/accounts/apn":                     {kind: KindAccount, account: "apn"},
		"DELETE /v1/connect/proj_a/users/a%2Fb":       {kind: KindDeleteUser, project: "proj_a", user: "a/b"},
		"GET /v1/connect/proj_a/users/a%20b/accounts": {kind: KindUserAccounts, project: "proj_a", user: "a b"},
		"PATCH /v1/connect/proj_a/proxy/aHR0cDov%3D":  {kind: KindProxy, project: "proj_a", url64: "aHR0cDov="},

		// The project is that of the Connect token.
		"GET /v1/connect/accounts":             {kind: KindList, ofToken: true},
		"GET /v1/connect/accounts/apn":         {kind: KindAccount, ofToken: true, account: "apn"},
		"GET /v1/connect/users/alice/accounts": {kind: KindUserAccounts, ofToken: true, user: "alice"},
		"GET /v1/connect//proxy/aHR0":          {kind: KindProxy, ofToken: true, url64: "aHR0"},

		"GET /v1/connect/proxy/aHR0":        {kind: KindOther},
		"POST /v1/connect/tokens":           {kind: KindOther},
		"POST /v1/connect//tokens":          {kind: KindOther},
		"GET /v1/proxy/aHR0":                {kind: KindOther},
		"GET /v1/users/alice":               {kind: KindOther},
		"GET /v1/connect/proj_a/users/":     {kind: KindOther},
		"GET /v1/connect/proj_a/users/me/x": {kind: KindOther},
		"GET /v1/connect/proj_a":            {kind: KindOther},
		"GET /v1/connect":                   {kind: KindOther},
		"GET /v1/connect/":                  {kind: KindOther},
		"GET /v1/accounts/":                 {kind: KindOther},
		"GET /v1/accounts/x/y":              {kind: KindOther},
		"GET /v1//accounts":                 {kind: KindOther},
		"GET /v1/connect//accounts":         {kind: KindOther},
		"GET /accounts":                     {kind: KindOther},
		"GET /v1":                           {kind: KindOther},
		"GET /":                             {kind: KindOther},
		"GET ":                              {kind: KindOther},
	} {
		method, path, _ := strings.Cut(request, " ")
		u, err := url.Parse("https://api.pipedream.com" + path)
		require.NoError(t, err)
		require.Equal(t, want, routeOf(method, u), request)
	}
	require.Equal(t, route{kind: KindOther}, routeOf(http.MethodOptions, &url.URL{Path: "*"}))
}

func TestUnknownPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		c.get("/workflows").failed(t, http.StatusNotFound)
		c.as("").get("/workflows").failed(t, http.StatusUnauthorized)
		require.Equal(t, 2, s.Count(KindOther))
	})
}
