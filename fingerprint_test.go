package pipedream

import (
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestTokenFingerprint(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const name = "pipedream_token_sha256"
		m.sim.Update(github, func(a *pipedreamtest.Account) {
			a.Credentials = map[string]any{"oauth_access_token": "gho_16C7e42F292c6912E7710c838347Ae178B4a", "oauth_uid": "1"}
			a.TokenLife = 0
		})
		require.NotContains(t, m.creds(github).Data, name, "off by default")
		_, err := m.write("config", map[string]any{"token_fingerprint": true})
		require.NoError(t, err)
		// printf %s gho_16C7e42F292c6912E7710c838347Ae178B4a | openssl dgst -sha256 -binary | base64
		const sum = "vDrnI/V8a54/2Atpn8xCD2B0sLFxgDlmnSJjHVCKwKc="
		require.Equal(t, sum, m.creds(github).Data[name])
		require.Equal(t, sum, m.get("static-creds/"+github, name))
		require.NotContains(t, m.creds(stripe).Data, name, "a weak key could be guessed from its hash")

		_, err = m.write("roles/client", map[string]any{"account_id": github, "fields": "oauth_uid"})
		require.NoError(t, err)
		resp, err := m.read("creds/client")
		require.NoError(t, err)
		require.Equal(t, "1", resp.Data["oauth_uid"])
		require.NotContains(t, resp.Data, name, "the token is not returned either")
	})
}
