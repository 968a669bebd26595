package pipedream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
		require.Equal(t, int64(3599), resp.Data["ttl"])
		require.Equal(t, int64(3600), resp.Data["rotation_period"])
		require.NotContains(t, resp.Data, "expires_at")
	})
}
