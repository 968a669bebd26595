package pipedream

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestStatus(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.creds(github)
		good := time.Now().UTC().Format(time.RFC3339)
		time.Sleep(time.Second)
		_, err := m.read("creds/apn_nobody")
		require.Error(t, err)

		requests := len(m.sim.Requests())
		resp, err := m.read("status")
		require.NoError(t, err)
		require.Equal(t, map[string]any{
			"version": version, "configured": true,
			"requests": int64(3), "failures": int64(1), "cache_hits": int64(1), "cache_misses": int64(2),
			"cached_accounts": 1, "rate_limit": 100, "budget_left": 96, "held_off_accounts": 1, "clock_ahead": int64(0),
			"last_success": good, "last_error_time": time.Now().UTC().Format(time.RFC3339),
			"last_error": resp.Data["last_error"],
		}, resp.Data)
		require.Contains(t, resp.Data["last_error"], "Pipedream does not know account <account_id>")
		require.Len(t, m.sim.Requests(), requests)

		m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"30"}}})
		_, err = m.read("creds/" + stripe)
		require.Error(t, err)
		resp, err = m.read("status")
		require.NoError(t, err)
		require.Equal(t, time.Now().Add(30*time.Second).UTC().Format(time.RFC3339), resp.Data["held_off_until"])
	})
}

func TestStatusUnconfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		resp, err := m.read("status")
		require.NoError(t, err)
		require.Equal(t, false, resp.Data["configured"])
		require.NotContains(t, resp.Data, "last_error")
	})
}

// status is for those who watch the engine, and may be read by callers who must not
// learn of the accounts of others.
func TestTheLastErrorNamesNoAccount(t *testing.T) {
	for name, fault := range map[string]pipedreamtest.Fault{
		"400": {Status: 400}, "401": {Status: 401}, "402": {Status: 402}, "403": {Status: 403}, "404": {Status: 404}, "410": {Status: 410},
		"422": {Status: 422}, "429": {Status: 429}, "500": {Status: 500}, "no JSON": {Garbage: true}, "too large": {HugeBody: 2 << 20},
		"an error": {Status: 200, Body: `{"error":"some"}`}, "another account": {WrongAccount: "apn_bob"},
	} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
				m.creds("alices")
				fault.Kind = pipedreamtest.KindAccount
				m.sim.AddFault(fault)
				for _, path := range []string{"creds/alices", "creds/apn_alice", "creds/apn_other", "accounts/apn_alice"} {
					time.Sleep(time.Hour)
					_, err := m.read(path)
					require.Error(t, err, path)
					text, _ := m.get("status", "last_error").(string)
					require.NotContains(t, text, "apn_", path)
					require.NotContains(t, text, "alice", path)
				}
			})
		})
	}
}
