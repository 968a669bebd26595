package pipedreamtest

import (
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestRouteOf(t *testing.T) {
	for path, want := range map[string]route{
		"/v1/accounts":                    {kind: KindList},
		"/v1/accounts/apn_x":              {kind: KindAccount, account: "apn_x"},
		"/v1/accounts/apn%2Fx%20y":        {kind: KindAccount, account: "apn/x y"},
		"/v1/users/me":                    {kind: KindMe},
		"/v1/oauth/token":                 {kind: KindToken},
		"/v1/connect/proj_a/accounts":     {kind: KindList, project: "proj_a"},
		"/v1/connect/proj_a/accounts/apn": {kind: KindAccount, project: "proj_a", account: "apn"},

		"/v1/connect/accounts":  {kind: KindOther},
		"/v1/accounts/":         {kind: KindOther},
		"/v1/accounts/x/y":      {kind: KindOther},
		"/v1//accounts":         {kind: KindOther},
		"/v1/connect//accounts": {kind: KindOther},
		"/accounts":             {kind: KindOther},
		"/v1":                   {kind: KindOther},
		"/":                     {kind: KindOther},
		"":                      {kind: KindOther},
	} {
		u, err := url.Parse("https://api.pipedream.com" + path)
		require.NoError(t, err)
		require.Equal(t, want, routeOf(u), path)
	}
	require.Equal(t, route{kind: KindOther}, routeOf(&url.URL{Path: "*"}))
}

func TestUnknownPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		c.get("/workflows").failed(t, http.StatusNotFound)
		c.as("").get("/workflows").failed(t, http.StatusUnauthorized)
		require.Equal(t, 2, s.Count(KindOther))
	})
}
