package acceptance

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestStatusCostsNoRequest(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	status := m.read(t, "status").Data
	assert.Equal(t, pluginVersion, status["version"])
	assert.Equal(t, false, status["configured"])

	m.configure(t, nil)
	m.sim.SetAccount(github())
	for range 3 {
		m.read(t, "creds/"+githubID)
	}
	requests := len(m.sim.Requests())

	status = m.read(t, "status").Data
	assert.Equal(t, true, status["configured"])
	assert.Equal(t, 2, number(t, status["cache_hits"]))
	assert.Equal(t, 1, number(t, status["cache_misses"]))
	assert.Equal(t, 0, number(t, status["failures"]))
	assert.Positive(t, number(t, status["requests"]))
	assert.NotEmpty(t, status["last_success"])
	assert.Len(t, m.sim.Requests(), requests)
}

func TestStatusReportsFailures(t *testing.T) {
	t.Parallel()
	m := onSharedVault(t)
	m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: 403, Body: upstreamBody})
	err := m.errorOf(t, "creds/"+githubID)
	m.keepsQuiet(t, err)

	status := m.read(t, "status").Data
	assert.Equal(t, 1, number(t, status["failures"]))
	text := asType[string](t, status["last_error"])
	assert.Contains(t, text, "403")
	assert.NotContains(t, text, githubID)
	assert.NotContains(t, text, "upstream words")
}
