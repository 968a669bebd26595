package acceptance

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestRefreshFetchesTheCurrentToken(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.read(t, "creds/"+githubID)
	m.sim.Rotate(githubID)

	// For some seconds after a fetch, a refresh sends no request, so that a caller in a loop cannot use up the rate
	// limit.
	var refreshed *api.Secret
	require.NoError(t, poll(30*time.Second, "a refresh to go out", func() (bool, error) {
		refreshed = m.write(t, "refresh/"+githubID, nil)
		return m.sim.Count(pipedreamtest.KindAccount) == 2, nil
	}))
	assert.Equal(t, true, refreshed.Data["changed"])
	again := m.write(t, "refresh/"+githubID, nil)
	require.NotNil(t, again)
	assert.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount), "a refresh right after another")
	assert.Equal(t, false, again.Data["changed"], "a read returned it before already")

	assert.Empty(t, again.LeaseID)
	assert.ElementsMatch(t, []string{"changed", "expires_at"}, keysOf(again.Data))
	expiresAt, err := time.Parse(time.RFC3339, asType[string](t, again.Data["expires_at"]))
	require.NoError(t, err)
	assert.WithinDuration(t, m.sim.ExpiresAt(githubID), expiresAt, time.Second)

	assert.Equal(t, m.sim.Token(githubID), m.read(t, "creds/"+githubID).Data["oauth_access_token"])
	assert.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount))
}

func TestRefreshOfAnAccountNotYetRead(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	require.NotNil(t, m.write(t, "refresh/"+githubID, nil))
	m.read(t, "creds/"+githubID)
	assert.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
}

func keysOf(data map[string]any) []string {
	keys := make([]string, 0, len(data))
	for key := range data {
		keys = append(keys, key)
	}
	return keys
}
