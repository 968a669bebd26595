package acceptance

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTokensEndWithTheirMemory has programs read tokens for Pipedream's own API. Whatever empties the engine's memory, or
// changes config, the client or the project, ends those that were kept: nobody gets one of them again.
func TestTokensEndWithTheirMemory(t *testing.T) {
	t.Parallel()
	m := enable(t, newVault(t), "pipedream")
	c := m.connect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.write(t, "config", map[string]any{"allow_access_tokens": true})
	c.write(t, "roles/connect", map[string]any{"credential_type": "connect_token", "scope": "connect:proxy", "external_user_id": "alice"})
	c.write(t, "roles/customers", map[string]any{"credential_type": "connect_token", "scope": "connect:proxy", "allowed_external_user_ids": "acme:*"})
	c.write(t, "roles/access", map[string]any{"credential_type": "access_token", "scope": "connect:proxy"})
	fields := map[string]string{"connect": "connect_token", "customers/acme:1": "connect_token", "access": "access_token"}
	given := map[string]bool{}

	for _, event := range []struct {
		name   string
		happen func(*testing.T)
	}{
		{"nothing yet", func(*testing.T) {}},
		{"the server is sealed and unsealed", m.vault.sealAndUnseal},
		{"the server is restarted", m.vault.restart},
		{"the plugin is reloaded", m.reload},
		{"config is written", func(t *testing.T) {
			t.Helper()
			c.write(t, "config", map[string]any{"min_ttl": "2m"})
		}},
		{"the client has another secret", func(t *testing.T) {
			t.Helper()
			c.rotateClientSecret()
			c.configureClient(t, nil)
		}},
		{"the project is another", func(t *testing.T) {
			t.Helper()
			c.write(t, "config", map[string]any{"project_id": "proj_other", "verify": false})
		}},
		{"the environment is another", func(t *testing.T) {
			t.Helper()
			c.write(t, "config", map[string]any{"environment": "development"})
		}},
	} {
		t.Run(event.name, func(t *testing.T) {
			event.happen(t)
			for role, field := range fields {
				token, ok := c.read(t, "static-creds/"+role).Data[field].(string)
				require.True(t, ok)
				assert.False(t, given[token], "%s was handed out before", role)
				given[token] = true
				for _, path := range []string{"static-creds/", "creds/"} {
					assert.Equal(t, token, c.read(t, path+role).Data[field], "it is kept")
				}
			}
		})
	}
	assert.Len(t, given, 8*len(fields))
}
