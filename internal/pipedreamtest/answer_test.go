package pipedreamtest

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

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

func TestWithErrorObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithErrorObjects(), WithLimit(2))
		r := c.get("/accounts/apn_none")
		require.Equal(t, http.StatusNotFound, r.status)
		require.JSONEq(t, `{"error":{"base":["record not found"]}}`, r.body)
		r = c.as("wrong").get("/users/me")
		require.Equal(t, http.StatusUnauthorized, r.status)
		require.JSONEq(t, `{"error":{"base":["unauthorized"]}}`, r.body)
		s.SetAccount(github)
		require.Equal(t, http.StatusOK, c.get("/accounts/apn_github").status)
		require.JSONEq(t, `{"error":"Throttled"}`, c.get("/accounts").body)
	})
}

// TestEachAnswerHasADate also where the answer is not written by net/http.
func TestEachAnswerHasADate(t *testing.T) {
	for name, fault := range map[string]Fault{
		"real": {}, "nothing": {Empty: true, Status: http.StatusNoContent}, "raw": {LengthOff: -1}, "throttled": {Status: http.StatusTooManyRequests},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newServer(t)
				s.AddFault(fault)
				require.Equal(t, time.Now().UTC().Format(http.TimeFormat), c.get("/users/me").header.Get("Date"))
			})
		})
	}
}
