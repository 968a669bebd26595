package acceptance

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// TestFailoverBetweenLinkAndClick makes a link through the leader, which is gone when the user clicks. Whoever reads
// through the next leader gets what the link did: the new token of the same account, and not the live one in the cache.
func TestFailoverBetweenLinkAndClick(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	m := enable(t, c.servers[0], "pipedream").connect(t)
	ofOurs := func(a *pipedreamtest.Account) { a.OAuthAppID = ourClient }
	m.sim.SetAccount(connectedWith("apn_alice", "alice", ofOurs))
	m.sim.SetAccount(connectedWith("apn_bob", "bob", ofOurs))
	p := m.people(t, m.rules("github"), `path "pipedream/connect/github" { capabilities = ["read", "update"] }`)
	m.write(t, "roles/github", map[string]any{"app": "github", "external_user_id": p.name(), "oauth_app_id": ourClient})
	alice, bob := c.everywhere(p.login(t, "alice")), c.everywhere(p.login(t, "bob"))
	servers := map[int]bool{0: true, 1: true, 2: true}
	bob[0].reads(t, "apn_bob")
	his := bob[0].read(t, "creds/github").Data["oauth_access_token"]

	for _, failover := range []struct {
		name string
		of   func(leader int)
	}{
		{"step-down", func(int) { c.stepDown(t) }},
		{"kill", func(leader int) {
			c.kill(t, leader)
			delete(servers, leader)
		}},
	} {
		leader := c.leader(t)
		old := alice[leader].read(t, "creds/github").Data["oauth_access_token"]
		link := alice[leader].link(t, map[string]any{"reconnect": true}).Data
		failover.of(leader)
		now := c.followedLeader(t)
		clicked, err := m.sim.Click(asType[string](t, link["connect_link_url"]))
		require.NoError(t, err)
		require.Equal(t, "apn_alice", clicked)
		began := time.Now()
		alice[now].getsRenewed(t, "apn_alice", old, began)
		t.Logf("after the %s", failover.name)
		for i := range servers {
			alice[i].reads(t, "apn_alice")
			state := alice[i].connection(t, map[string][]string{"link_id": {asType[string](t, link["link_id"])}})
			assert.Equal(t, "connected", state["link_status"], failover.name)
			assert.Equal(t, "apn_alice", state["link_account_id"], failover.name)
			assert.Equal(t, his, bob[i].read(t, "creds/github").Data["oauth_access_token"], "he has no link")
		}
	}
	assert.Empty(t, m.sim.Violations())
}

// waiters are requests that wait for links, two for each of many users, as pages do that show whether their user has
// connected an account. Whoever is answered waits again.
type waiters struct {
	users              *person // a backend, whose paths name the users
	links              []string
	stopped            atomic.Bool
	inFlight, answered atomic.Int64
	running            atomic.Int64
}

// waitedFor is how many users have a link. One caller gets at most 60 links a minute.
const waitedFor = 50

// startWaiters makes the links and has two requests to that server wait for each.
func (m *mount) startWaiters(t *testing.T, s *vaultServer) *waiters {
	t.Helper()
	m.write(t, "roles/crm", map[string]any{"app": "github", "allowed_external_user_ids": "acme:*"})
	w := &waiters{users: m.asBackend(t, "crm", `path "MOUNT/connect/crm/*" { capabilities = ["read", "update"] }`)}
	require.NoError(t, w.users.SetAddress(s.addr))
	for i := range waitedFor {
		secret, err := w.users.Logical().Write(w.path(i), nil)
		require.NoError(t, err)
		w.links = append(w.links, asType[string](t, secret.Data["link_id"]))
	}
	t.Cleanup(func() { w.stop(t) })
	for i := range 2 * waitedFor {
		w.running.Add(1)
		go func() {
			defer w.running.Add(-1)
			for !w.stopped.Load() && w.wait(i/2) == nil {
				w.answered.Add(1)
			}
		}()
	}
	require.NoError(t, poll(readyTimeout, "a hundred requests in flight", func() (bool, error) {
		return w.inFlight.Load() == 2*waitedFor && w.auditedWaits(t) >= 2*waitedFor, nil
	}))
	return w
}

func (w *waiters) path(i int) string { return w.users.m.in(fmt.Sprintf("connect/crm/acme:%d", i)) }

// wait waits once for the link of a user.
func (w *waiters) wait(i int) error {
	w.inFlight.Add(1)
	defer w.inFlight.Add(-1)
	_, err := w.users.Logical().ReadWithData(w.path(i), map[string][]string{"link_id": {w.links[i]}, "wait": {"10s"}})
	return err
}

// auditedWaits returns how many requests Vault has logged, which is before they reach the engine.
func (w *waiters) auditedWaits(t *testing.T) int {
	t.Helper()
	return w.users.m.auditedRequests(t, "connect/crm/acme:", "read")
}

// stop asserts that every request ends soon.
func (w *waiters) stop(t *testing.T) {
	t.Helper()
	w.stopped.Store(true)
	assert.NoError(t, poll(waitAtMost, "all requests to end", func() (bool, error) { return w.running.Load() == 0, nil }))
}

// waitAtMost is how long a server may take to step down or seal, and then the requests to end: the 10 s for which a
// request may wait, and a minute for a slow machine. Without a bound of its own, a request could wait for the 90 s that
// Vault allows.
const waitAtMost = 10*time.Second + time.Minute

// TestManyWaitsDelayNoStepDown has a hundred requests wait for links while the leader steps down, for which Vault waits
// until no request is in flight. It also measures a step-down without any, to compare.
func TestManyWaitsDelayNoStepDown(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	m := enable(t, c.servers[0], "pipedream").connect(t)
	stepDown := func() (took time.Duration) {
		began := time.Now()
		c.stepDown(t)
		return time.Since(began)
	}
	without := stepDown()
	w := m.startWaiters(t, c.servers[c.leader(t)])
	took := stepDown()
	w.stop(t)
	t.Logf("a new leader was active after %s, and after %s with %d requests in flight, of which %d were answered", without, took, 2*waitedFor, w.answered.Load())
	assert.Less(t, took, waitAtMost)
	w.open(t, c.servers[c.leader(t)])
}

// TestManyWaitsDelayNoSeal does the same while Vault is sealed.
func TestManyWaitsDelayNoSeal(t *testing.T) {
	t.Parallel()
	m := enable(t, newVault(t), "pipedream").connect(t).mount
	seal := func() (took time.Duration) {
		began := time.Now()
		require.NoError(t, m.vault.root.Sys().Seal())
		return time.Since(began)
	}
	without := seal()
	require.NoError(t, m.vault.unseal())
	w := m.startWaiters(t, m.vault)
	took := seal()
	w.stop(t)
	t.Logf("Vault was sealed after %s, and after %s with %d requests in flight, of which %d were answered", without, took, 2*waitedFor, w.answered.Load())
	assert.Less(t, took, waitAtMost)
	require.NoError(t, m.vault.unseal())
	w.open(t, m.vault)
}

// open asserts that this server knows that each link is open.
func (w *waiters) open(t *testing.T, s *vaultServer) {
	t.Helper()
	client := s.client(w.users.Token())
	client.SetMaxRetries(60)
	for i, id := range w.links {
		secret, err := client.Logical().ReadWithData(w.path(i), map[string][]string{"link_id": {id}})
		require.NoError(t, err)
		assert.Equal(t, "open", secret.Data["link_status"])
	}
}
