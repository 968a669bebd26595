package acceptance

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestDisconnectedAccountInACluster disconnects an account through a standby. No server may serve it from then on, nor
// may a restarted plugin or the next leader, which begin with what is stored.
func TestDisconnectedAccountInACluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	m := enable(t, c.servers[0], "pipedream").connect(t)
	m.sim.SetAccount(connected("apn_alice", "alice"))
	m.sim.SetAccount(connected("apn_bob", "bob"))
	p := m.people(t, m.rules("github"), `path "pipedream/connect/github" { capabilities = ["delete"] }`)
	m.write(t, "roles/github", p.ownAccount())
	alice, bob := c.everywhere(p.login(t, "alice")), c.everywhere(p.login(t, "bob"))
	alice[0].reads(t, "apn_alice")
	bob[0].reads(t, "apn_bob")

	standby := (c.leader(t) + 1) % len(c.servers)
	answer, err := alice[standby].Logical().Delete(m.in("connect/github"))
	require.NoError(t, err)
	assert.Equal(t, []any{"apn_alice"}, answer.Data["disconnected"])
	servers := []int{0, 1, 2}
	for _, begin := range []func(){
		func() {},
		func() { m.reload(t) },
		func() {
			leader := c.leader(t)
			require.NoError(t, c.servers[leader].process.stop())
			servers = slices.Delete(servers, leader, leader+1)
			c.followedLeader(t)
		},
	} {
		begin()
		m.sim.ResetRequests()
		for _, i := range servers {
			bob[i].reads(t, "apn_bob")
		}
		assert.Zero(t, m.sim.Count(pipedreamtest.KindList), "another user's stored copy is gone")
		for _, i := range servers {
			alice[i].isRefused(t, http.StatusBadRequest, `"alice"`, "has no healthy account")
		}
		assert.Zero(t, m.sim.Count(pipedreamtest.KindAccount))
	}
}

// everywhere returns the person as a client of each server, patient with elections.
func (c *cluster) everywhere(p *person) []*person {
	var all []*person
	for _, s := range c.servers {
		client := s.client(p.Token())
		client.SetClientTimeout(readyTimeout) // for all retries together
		client.SetMaxRetries(60)
		client.SetMinRetryWait(250 * time.Millisecond)
		client.SetMaxRetryWait(time.Second)
		all = append(all, &person{Client: client, m: p.m, name: p.name, entity: p.entity})
	}
	return all
}
