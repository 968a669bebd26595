package pipedream

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		old := m.token(github)
		time.Sleep(time.Minute)

		resp, err := m.write("refresh/"+github, nil)
		require.NoError(t, err)
		require.Equal(t, map[string]any{
			"changed": false, "expires_at": m.sim.ExpiresAt(github).UTC().Format(time.RFC3339),
		}, resp.Data)

		time.Sleep(time.Minute)
		m.sim.Rotate(github)
		resp, err = m.write("refresh/"+github, nil)
		require.NoError(t, err)
		require.Equal(t, true, resp.Data["changed"])
		require.NotEqual(t, old, m.token(github))
		require.Equal(t, m.sim.Token(github), m.token(github))
		require.Equal(t, 3, m.sim.Count(pipedreamtest.KindAccount))
	})
}

func TestASecondRefreshCostsNoRequest(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		time.Sleep(time.Minute)
		m.sim.Rotate(github)
		for range 4 {
			resp, err := m.write("refresh/"+github, nil)
			require.NoError(t, err)
			require.Equal(t, true, resp.Data["changed"], "also for those whose call came second")
			time.Sleep(time.Second)
		}
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount))
		time.Sleep(cache.RefreshQuiet)
		_, err := m.write("refresh/"+github, nil)
		require.NoError(t, err)
		require.Equal(t, 3, m.sim.Count(pipedreamtest.KindAccount))
	})
}

func TestRefreshOfAKeyAccount(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(stripe)
		time.Sleep(time.Minute)
		m.sim.Update(stripe, func(a *pipedreamtest.Account) { a.Credentials = map[string]any{"api_key": "sk_live_rotated"} })
		resp, err := m.write("refresh/"+stripe, nil)
		require.NoError(t, err)
		require.Equal(t, map[string]any{"changed": true}, resp.Data)
		require.Equal(t, "sk_live_rotated", m.creds(stripe).Data["api_key"])
	})
}

// One caller's token was refused. Others must keep the live one while Pipedream cannot
// be asked for another.
func TestARefreshThatFailsKeepsWhatIsCached(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		token := m.token(github)
		time.Sleep(time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusInternalServerError})
		_, err := m.write("refresh/"+github, nil)
		m.refused(err, http.StatusBadGateway, "500")
		require.Equal(t, token, m.token(github))
	})
}
