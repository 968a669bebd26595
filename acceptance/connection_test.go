package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// connection reads what the person has connected.
func (p *person) connection(t *testing.T, query map[string][]string) map[string]any {
	t.Helper()
	secret, err := p.Logical().ReadWithData(p.m.in("connect/github"), query)
	require.NoError(t, err, p.name)
	return secret.Data
}

// getsRenewed asserts that the person soon reads another token of this account than the old one. The engine's own tests
// check on a fake clock how soon.
func (p *person) getsRenewed(t *testing.T, id string, old any, clicked time.Time) {
	t.Helper()
	require.NoError(t, poll(readyTimeout, "the new token", func() (bool, error) {
		secret, err := p.Logical().Read(p.m.in("creds/github"))
		if err != nil {
			return false, err
		}
		assert.Equal(t, id, secret.Data["pipedream_account_id"])
		return secret.Data["oauth_access_token"] != old, nil
	}))
	t.Logf("%s reads the new token %s after the click", p.name, time.Since(clicked).Round(time.Millisecond))
	p.reads(t, id)
}

// TestConnectionIsRenewed has a user whose token the app refuses sign in again: it takes a link and one click, and the
// next reads have the new token of the same account, also if config was written and the plugin was reloaded in between.
func TestConnectionIsRenewed(t *testing.T) {
	t.Parallel()
	c := enable(t, newVault(t), "pipedream").connect(t) // a reload ends what others have under way
	name := c.in("connect/github")
	p := c.people(t, c.rules("github"), fmt.Sprintf("path %q { capabilities = [\"read\", \"update\"] }\n", name))
	c.write(t, "roles/github", map[string]any{"app": "github", "external_user_id": p.name(), "oauth_app_id": ourClient})
	for _, user := range []string{"alice", "bob"} {
		c.sim.SetAccount(connectedWith("apn_"+user, user, func(a *pipedreamtest.Account) { a.OAuthAppID, a.Name = ourClient, user+"@example.com" }))
	}
	alice, bob := p.login(t, "alice"), p.login(t, "bob")
	token := func(p *person) any {
		secret, err := p.Logical().Read(c.in("creds/github"))
		require.NoError(t, err)
		return secret.Data["oauth_access_token"]
	}
	hers, his := token(alice), token(bob)
	bob.getsNoLink(t, http.StatusBadRequest, "account apn_bob", "reconnect=true", "account=<id or name>", "new=true")

	secret := bob.link(t, map[string]any{"reconnect": true})
	link, id := asType[string](t, secret.Data["connect_link_url"]), asType[string](t, secret.Data["link_id"])
	assert.Equal(t, "apn_bob", secret.Data["reconnects_account_id"])
	c.write(t, "config", map[string]any{"static_ttl": "2h"}) // another connection
	assert.Equal(t, "open", bob.connection(t, map[string][]string{"link_id": {id}})["link_status"])
	c.reload(t)
	clicked, err := c.sim.Click(link)
	require.NoError(t, err)
	assert.Equal(t, "apn_bob", clicked)
	state := bob.connection(t, map[string][]string{"link_id": {id}, "wait": {"10s"}})
	assert.Equal(t, "connected", state["link_status"])
	assert.Equal(t, "apn_bob", state["account_id"])
	assert.Equal(t, true, state["connected"])
	shown, err := json.Marshal(state)
	require.NoError(t, err)
	lacks(t, "what is connected", string(shown), append(c.sim.Secrets(), "alice")...)

	renewed := token(bob)
	assert.NotEqual(t, his, renewed)
	assert.Equal(t, c.sim.Token("apn_bob"), renewed)
	assert.Equal(t, hers, token(alice))
	assert.Equal(t, "unknown", alice.connection(t, map[string][]string{"link_id": {id}})["link_status"], "the link is bob's")
	for _, account := range []string{"apn_bob", "bob@example.com", strings.Repeat("x", 400), "*"} {
		_, err := alice.Logical().Write(name, map[string]any{"account": account})
		refused(t, err, http.StatusBadRequest)
	}
	assert.Empty(t, c.sim.Violations())
}
