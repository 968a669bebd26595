package pipedream

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestStaticCreds(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		fetched := time.Now()
		resp, err := m.read("static-creds/" + github)
		require.NoError(t, err)
		require.Nil(t, resp.Secret)
		require.Equal(t, m.sim.Token(github), resp.Data["oauth_access_token"])
		require.Equal(t, int64(3600), resp.Data["rotation_period"])
		require.Equal(t, fetched.UTC().Format(time.RFC3339), resp.Data["last_vault_rotation"])
		// Due when Pipedream refreshes it, a twelfth before its end.
		require.Equal(t, int64(3300), resp.Data["ttl"])

		time.Sleep(59 * time.Minute)
		resp, err = m.read("static-creds/" + github)
		require.NoError(t, err)
		require.Equal(t, m.sim.Token(github), resp.Data["oauth_access_token"])
		require.Equal(t, time.Now().UTC().Format(time.RFC3339), resp.Data["last_vault_rotation"])

		resp, err = m.write("static-creds/"+stripe, nil)
		require.NoError(t, err)
		require.Equal(t, int64(3598), resp.Data["ttl"])
		require.Equal(t, int64(3600), resp.Data["rotation_period"])
		require.NotContains(t, resp.Data, "expires_at")
	})
}

// Some APIs write the last year that there is for never. Its distance does not fit into
// a duration.
func TestAnEndInTheFarFuture(t *testing.T) {
	const year = int64(365 * 24 * 3600)
	for name, override := range map[string]map[string]any{
		"alone":                   {"expires_at": "9999-12-31T23:59:59Z", "next_refresh_at": nil},
		"with a refresh as far":   {"expires_at": "9999-12-31T23:59:59Z", "next_refresh_at": "9999-12-31T23:00:00Z"},
		"with a refresh after it": {"expires_at": "9000-01-01T00:00:00Z", "next_refresh_at": "9999-12-31T23:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.sim.Update(github, func(a *pipedreamtest.Account) { a.Override = override })
				for range 2 { // when it is fetched, and from the cache
					resp, err := m.read("static-creds/" + github)
					require.NoError(t, err)
					for _, field := range []string{"ttl", "rotation_period"} {
						seconds := resp.Data[field].(int64)
						require.Greater(t, seconds, year, field)
						require.Less(t, seconds, math.MaxInt64/int64(time.Second)/2, "programs add to %s as nanoseconds", field)
					}
					require.Equal(t, override["expires_at"], resp.Data["expires_at"])
					require.Greater(t, m.creds(github).Secret.TTL, time.Hour)
					time.Sleep(24 * time.Hour)
				}
				require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
			})
		})
	}
}
