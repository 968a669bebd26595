package acceptance

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRemovalsAreInTheAuditLog disconnects accounts as their user and as an operator. The log says who did it, through
// which role, and, where the mount is told not to hash that, which account is gone.
func TestRemovalsAreInTheAuditLog(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.sim.SetAccount(connected("apn_bob", "bob"))
	c.sim.SetAccount(connected("apn_carol", "carol"))
	p := c.people(t, c.rules("github"), fmt.Sprintf("path %q { capabilities = [\"delete\"] }\n", c.in("connect/github")))
	c.write(t, "roles/github", p.ownAccount())
	_, err := c.vault.root.Logical().Write("sys/mounts/"+c.path+"/tune", map[string]any{"audit_non_hmac_response_keys": "disconnected"})
	require.NoError(t, err)

	alice := p.login(t, "alice")
	_, err = alice.Logical().Delete(c.in("connect/github"))
	require.NoError(t, err)
	entry := c.audited(t, "connect/github")
	assert.Equal(t, "delete", entry.Request.Operation)
	assert.Equal(t, alice.entity, entry.Auth.EntityID)
	assert.Equal(t, []any{"apn_alice"}, entry.Response.Data["disconnected"])

	for path, gone := range map[string]string{"accounts/apn_bob": "apn_bob", "users/carol": "apn_carol"} {
		_, err := c.vault.root.Logical().Delete(c.in(path))
		require.NoError(t, err)
		entry := c.audited(t, path)
		assert.Equal(t, "delete", entry.Request.Operation)
		assert.Equal(t, []any{gone}, entry.Response.Data["disconnected"])
	}
}
