package acceptance

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestConfigIsReadWithoutItsSecret(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	m.configure(t, map[string]any{"request_timeout": "15s", "rate_limit": 60})

	config := m.read(t, "config").Data
	assert.Equal(t, m.apiURL, config["base_url"])
	assert.Equal(t, json.Number("15"), config["request_timeout"])
	assert.Equal(t, json.Number("60"), config["rate_limit"])
	assert.Equal(t, json.Number("2"), config["max_retries"])
	assert.Equal(t, json.Number("300"), config["min_ttl"])
	assert.Equal(t, json.Number("3600"), config["static_ttl"])
	assert.Equal(t, false, config["expose_refresh_token"])
	assert.NotContains(t, config, "api_key")

	text, err := json.Marshal(config)
	require.NoError(t, err)
	assert.NotContains(t, string(text), m.apiKey)
}

func TestConfigWriteKeepsWhatItDoesNotName(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.configure(t, map[string]any{"rate_limit": 60})
	m.write(t, "config", map[string]any{"min_ttl": "2m"})

	config := m.read(t, "config").Data
	assert.Equal(t, json.Number("60"), config["rate_limit"])
	assert.Equal(t, json.Number("120"), config["min_ttl"])
	assert.Equal(t, m.apiURL, config["base_url"])
	m.read(t, "creds/"+githubID)
}

func TestConfigIsRefused(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	token := m.read(t, "creds/"+githubID).Data["oauth_access_token"]

	elsewhere := pipedreamtest.New()
	t.Cleanup(elsewhere.Close)
	elsewhereURL, err := elsewhere.Start()
	require.NoError(t, err)

	const wrongKey = "pdkey_that_nobody_knows"
	for name, test := range map[string]struct {
		fields map[string]any
		words  []string
	}{
		"a key that Pipedream rejects": {map[string]any{"api_key": wrongKey}, []string{"key"}},
		"a new URL without the key":    {map[string]any{"base_url": elsewhereURL}, []string{"base_url", "api_key"}},
		"a URL without TLS":            {map[string]any{"base_url": "http://pipedream.example", "api_key": m.apiKey}, []string{"base_url", "https"}},
		"a timeout that is too long":   {map[string]any{"request_timeout": "60s"}, []string{"request_timeout"}},
		"a negative rate":              {map[string]any{"rate_limit": -2}, []string{"rate_limit"}},
		"no certificate":               {map[string]any{"ca_cert": "none"}, []string{"ca_cert"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := m.vault.root.Logical().Write(m.in("config"), test.fields)
			refused(t, err, http.StatusBadRequest, test.words...)
			assert.NotContains(t, err.Error(), wrongKey)
			assert.NotContains(t, err.Error(), m.apiKey)
			assert.Equal(t, m.apiURL, m.read(t, "config").Data["base_url"])
		})
	}

	assert.Empty(t, elsewhere.Requests(), "requests to a URL that was rejected")
	assert.Equal(t, token, m.read(t, "creds/"+githubID).Data["oauth_access_token"], "a cached token")
	assert.Equal(t, stripeKey, m.read(t, "creds/"+stripeID).Data["api_key"], "an account that was not cached")
	lacks(t, "the audit log", m.audit(t), wrongKey)
	lacks(t, "the server's log", m.log(t), wrongKey)
}

func TestConfigNeedsAKeyAtFirst(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	_, err := m.vault.root.Logical().Write(m.in("config"), map[string]any{"base_url": m.apiURL})
	refused(t, err, http.StatusBadRequest, "api_key")
	secret, err := m.vault.root.Logical().Read(m.in("config"))
	require.NoError(t, err)
	assert.Nil(t, secret)
}

func TestConfigIsNotVerifiedWhereAskedNotTo(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	m.configure(t, map[string]any{"verify": false})
	assert.Empty(t, m.sim.Requests())
}

func TestANewKeyEmptiesTheCache(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.read(t, "creds/"+githubID)

	m.apiKey = "pdkey_its_successor"
	m.sim.SetAPIKey(m.apiKey)
	m.write(t, "config", map[string]any{"api_key": m.apiKey})
	m.read(t, "creds/"+githubID)
	assert.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount))
}

func TestDeletedConfigServesNothing(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.SetAccount(github())
	m.read(t, "creds/"+githubID)

	m.deleteConfig(t)
	refused(t, m.errorOf(t, "creds/"+githubID), http.StatusBadRequest, cliName+" write "+m.in("config"))

	m.configure(t, nil)
	m.read(t, "creds/"+githubID)
	assert.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount))
}
