package pipedreamtest

import (
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestFailure(t *testing.T) {
	a := failure(http.StatusTeapot, `a "quoted" <text>`)
	require.Equal(t, http.StatusTeapot, a.status)
	require.JSONEq(t, `{"error":"a \"quoted\" <text>"}`, string(a.body))
}

func TestSuccess(t *testing.T) {
	a := success(map[string]any{"data": nil})
	require.Equal(t, http.StatusOK, a.status)
	require.Equal(t, `{"data":null}`, string(a.body))
}

func TestNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newServer(t)
		r := c.get("/accounts/apn_none")
		r.failed(t, http.StatusNotFound)
		require.JSONEq(t, `{"error":"record not found"}`, r.body)
	})
}
