package pipedreamtest

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestAGatewayAnswersInItsOwnForm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		names := map[string]bool{}
		for _, g := range Gateways() {
			require.False(t, names[g.Name], "%s is there twice", g.Name)
			names[g.Name] = true
			f := g.Fault(http.StatusTeapot)
			f.Kind, f.Times = KindAccount, 1
			s.AddFault(f)
			r := c.get(askGithub)
			require.NoError(t, r.err)
			require.Equal(t, http.StatusTeapot, r.status)
			require.Equal(t, g.ContentType, r.header.Get("Content-Type"))
			require.NotContains(t, r.body, "{status}")
			require.NotContains(t, r.body, "{text}")
			require.NotContains(t, r.body, "pdtok_")
			if g.Name == "Spring" {
				require.JSONEq(t, `{"timestamp":"2026-11-28T17:24:24.000+00:00","status":418,"error":"I'm a teapot","path":"/v1/accounts"}`, r.body)
			}
			require.Equal(t, http.StatusOK, c.get(askGithub).status, "once")
		}
	})
}

func TestAFaultWhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		s.AddFault(Fault{Kind: KindAccount, Where: func(r Request) bool { return r.WithCredentials }, Status: http.StatusTeapot})
		require.Equal(t, http.StatusTeapot, c.get(askGithub).status)
		require.Equal(t, http.StatusOK, c.get("/accounts/apn_github").status)
	})
}
