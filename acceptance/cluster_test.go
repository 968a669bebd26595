package acceptance

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// cluster is a Vault cluster of three servers that share a raft log. A server keeps its ports when it restarts, because
// the others know it by them.
type cluster struct {
	servers []*vaultServer
	ports   [][2]int
}

// newCluster starts a cluster. prepare is called for each server before it starts.
func newCluster(t *testing.T, prepare ...func(*vaultServer)) *cluster {
	t.Helper()
	c := &cluster{}
	ports, err := freePorts(6)
	require.NoError(t, err)
	for i := range 3 {
		s := &vaultServer{dir: t.TempDir()}
		for _, sub := range []string{"raft", "home"} {
			require.NoError(t, os.Mkdir(filepath.Join(s.dir, sub), 0o700))
		}
		s.addr = fmt.Sprintf("http://127.0.0.1:%d", ports[2*i])
		s.root = s.client("")
		for _, f := range prepare {
			f(s)
		}
		c.servers = append(c.servers, s)
		c.ports = append(c.ports, [2]int{ports[2*i], ports[2*i+1]})
	}
	t.Cleanup(func() {
		for _, s := range c.servers {
			if s.process != nil {
				s.showLog(t)
				assert.NoError(t, s.process.stop())
			}
		}
		// A server that is told to stop while it is becoming the leader leaves its plugin behind.
		for _, s := range c.servers {
			for _, pid := range startedWith("HOME="+s.home(), pluginBin) {
				assert.NoError(t, killPlugin(pid))
			}
		}
	})
	first := c.servers[0]
	c.launch(t, 0)
	require.NoError(t, first.initialize())
	require.NoError(t, first.unseal())
	// Without this, a server that joins waits 10 s before it may vote.
	_, err = first.root.Logical().Write("sys/storage/raft/autopilot/configuration", map[string]any{"server_stabilization_time": "1s"})
	require.NoError(t, err)
	for i, s := range c.servers[1:] {
		s.unsealKey, s.rootToken = first.unsealKey, first.rootToken
		s.root = s.client(s.rootToken)
		c.launch(t, i+1)
		c.join(t, i+1)
	}
	for _, s := range c.servers {
		// On a loaded machine an election can happen at any time.
		s.root.SetMaxRetries(60)
		s.root.SetMinRetryWait(250 * time.Millisecond)
		s.root.SetMaxRetryWait(time.Second)
	}
	require.NoError(t, first.enableAudit())
	require.NoError(t, first.registerPlugin())
	// Raft gives them one after the other, once each has been stable for a while.
	require.NoError(t, poll(3*readyTimeout, "every server to have a vote", func() (bool, error) {
		voters, err := c.voters()
		return voters == len(c.servers), err
	}))
	return c
}

// launch starts a server. A new one joins the others by itself.
func (c *cluster) launch(t *testing.T, i int) {
	t.Helper()
	s := c.servers[i]
	config := strings.Replace(s.config(c.ports[i][0], c.ports[i][1]), `"node"`, fmt.Sprintf(`"node%d"`, i), 1)
	var joins strings.Builder
	for j, other := range c.servers {
		if j != i {
			fmt.Fprintf(&joins, "retry_join {\n leader_api_addr = %q\n}\n", other.addr)
		}
	}
	config = strings.Replace(config, "performance_multiplier = 1\n", "performance_multiplier = 1\n"+joins.String(), 1)
	configPath := filepath.Join(s.dir, "vault.hcl")
	require.NoError(t, os.WriteFile(configPath, []byte(config), 0o600))
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer log.Close() //nolint:errcheck // the process has a descriptor of its own
	offset, err := log.Seek(0, io.SeekEnd)
	require.NoError(t, err)
	s.process, err = startProcess(log, s.environment(), vaultBin, "server", "-config="+configPath)
	require.NoError(t, err)
	require.NoError(t, s.waitUntilListening(offset))
}

// join unseals a server and waits until it is part of the cluster, as a standby or as the active server.
func (c *cluster) join(t *testing.T, i int) {
	t.Helper()
	s := c.servers[i]
	// A server that gets its key while it is being unsealed is unsealed twice, and then ignores the order to step down.
	const pause = 5 * time.Second
	var supplied time.Time
	require.NoError(t, poll(readyTimeout, "a server to be unsealed", func() (bool, error) {
		status, err := s.root.Sys().SealStatus()
		if err == nil && status.Initialized && status.Sealed && time.Since(supplied) > pause {
			supplied = time.Now()
			// An error while the server is still joining the cluster does not count.
			_, _ = s.root.Sys().Unseal(s.unsealKey)
		}
		return err == nil && status.Initialized && !status.Sealed, nil
	}))
	require.NoError(t, poll(readyTimeout, "a server to know the leader", func() (bool, error) {
		leader, err := s.root.Sys().Leader()
		return err == nil && leader.LeaderAddress != "", nil
	}))
}

func (c *cluster) voters() (n int, err error) {
	secret, err := c.servers[0].root.Logical().Read("sys/storage/raft/configuration")
	if err != nil || secret == nil {
		return 0, err
	}
	config, _ := secret.Data["config"].(map[string]any)
	servers, _ := config["servers"].([]any)
	for _, server := range servers {
		if fields, _ := server.(map[string]any); fields["voter"] == true {
			n++
		}
	}
	return n, nil
}

// leader returns the index of the active server.
func (c *cluster) leader(t *testing.T) (leader int) {
	t.Helper()
	require.NoError(t, poll(readyTimeout, "a leader", func() (bool, error) {
		for i, s := range c.servers {
			if !s.process.running() {
				continue
			}
			if status, err := s.root.Sys().Leader(); err == nil && status.IsSelf {
				leader = i
				return true, nil
			}
		}
		return false, nil
	}))
	return leader
}

// followedLeader returns the index of the active server once all running servers know it. Vault can leave a request that
// comes earlier without an answer, because it forwards it to the server that is gone.
func (c *cluster) followedLeader(t *testing.T) (leader int) {
	t.Helper()
	require.NoError(t, poll(readyTimeout, "every server to follow the leader", func() (bool, error) {
		leader = c.leader(t)
		for _, s := range c.servers {
			if !s.process.running() {
				continue
			}
			if status, err := s.root.Sys().Leader(); err != nil || status.LeaderAddress != c.servers[leader].addr {
				return false, err
			}
		}
		return true, nil
	}))
	return leader
}

// kill kills a server and its plugin, as a power cut would.
func (c *cluster) kill(t *testing.T, i int) {
	t.Helper()
	plugins, err := childrenOf(c.servers[i].process.pid(), pluginBin)
	require.NoError(t, err)
	require.NoError(t, c.servers[i].process.kill())
	for _, pid := range plugins {
		require.NoError(t, killPlugin(pid))
	}
}

// startReader reads through one server again and again until it is stopped, and counts the reads that succeed.
func startReader(t *testing.T, group *sync.WaitGroup, stop *atomic.Bool, s *vaultServer, path, token string) *atomic.Int64 {
	t.Helper()
	served := &atomic.Int64{}
	client := s.client(s.rootToken)
	group.Go(func() {
		for ; !stop.Load(); time.Sleep(10 * time.Millisecond) { // leave the processor to the servers
			if secret, err := client.Logical().Read(path); err == nil && secret != nil {
				assert.Equal(t, token, secret.Data["oauth_access_token"])
				served.Add(1)
			}
		}
	})
	return served
}

// TestLeaderIsKilled reads through every server of a cluster while its leader is killed. The new leader has the stored
// cache and does not ask Pipedream for live tokens again.
func TestLeaderIsKilled(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	m := enable(t, c.servers[0], "pipedream")
	m.configure(t, nil)
	m.sim.SetAccount(github())
	m.sim.SetAccount(stripe())
	token := m.read(t, "creds/"+githubID)
	leases := []string{token.LeaseID, m.read(t, "creds/"+stripeID).LeaseID}
	m.sim.ResetRequests()

	leader := c.leader(t)
	var group sync.WaitGroup
	var stop atomic.Bool
	t.Cleanup(func() { stop.Store(true); group.Wait() })
	var survivors []*atomic.Int64
	for i, s := range c.servers {
		r := startReader(t, &group, &stop, s, m.in("static-creds/"+githubID), asType[string](t, token.Data["oauth_access_token"]))
		if i != leader {
			survivors = append(survivors, r)
		}
	}
	served := func(what string) {
		for _, r := range survivors {
			r.Store(0)
		}
		require.NoError(t, poll(readyTimeout, what, func() (bool, error) {
			return survivors[0].Load() > 3 && survivors[1].Load() > 3, nil
		}))
	}
	served("reads through the standbys")

	killed := time.Now()
	c.kill(t, leader)
	served("reads to go on through those that are left")
	t.Logf("reads succeeded again %s after the leader was killed", time.Since(killed).Round(time.Millisecond))
	successor := c.leader(t)
	assert.NotEqual(t, leader, successor)

	there := *m
	there.vault = c.servers[successor]
	assert.Equal(t, token.Data, there.read(t, "creds/"+githubID).Data)
	assert.Equal(t, stripeKey, there.read(t, "creds/"+stripeID).Data["api_key"])
	m.askedForNoAccount(t)
	for _, lease := range leases {
		_, err := there.vault.root.Sys().Lookup(lease)
		require.NoError(t, err, "a lease was lost")
	}
	there.vault.noIrrevocableLease(t)

	c.launch(t, leader)
	c.join(t, leader)
	stop.Store(true)
	group.Wait()
	c.agree(t, m, "creds/"+githubID)
	m.askedForNoAccount(t)

	c.configThroughAStandby(t, m)
	require.NoError(t, there.vault.root.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: m.in("creds/"), Prefix: true, Sync: true}))
	there.vault.noIrrevocableLease(t)
	for _, s := range c.servers {
		lacks(t, "a server's log", s.readLog(t), append(m.sim.Secrets(), "DATA RACE", "panic:")...)
	}
}

// agree asserts that all servers return the same answer, and returns its data.
func (c *cluster) agree(t *testing.T, m *mount, path string) map[string]any {
	t.Helper()
	var first map[string]any
	for i, s := range c.servers {
		secret, err := s.root.Logical().Read(m.in(path))
		require.NoError(t, err)
		require.NotNil(t, secret)
		if i == 0 {
			first = secret.Data
		}
		assert.Equal(t, first, secret.Data, "server %d", i)
	}
	return first
}

// configThroughAStandby writes config through a standby server. The new config applies on all servers.
func (c *cluster) configThroughAStandby(t *testing.T, m *mount) {
	t.Helper()
	standby := c.servers[(c.leader(t)+1)%len(c.servers)]
	m.apiKey = "pdkey_its_successor"
	m.sim.SetAPIKey(m.apiKey)
	_, err := standby.root.Logical().Write(m.in("config"), map[string]any{"api_key": m.apiKey, "static_ttl": "7m"})
	require.NoError(t, err)
	assert.Contains(t, fmt.Sprint(c.agree(t, m, "config")["static_ttl"]), "420")

	// The new key is in use, so no server may serve what was fetched with the old one.
	c.agree(t, m, "creds/"+githubID)
	assert.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
	_, err = standby.root.Logical().Delete(m.in("config"))
	require.NoError(t, err)
	for _, s := range c.servers {
		_, err := s.root.Logical().Read(m.in("creds/" + githubID))
		refused(t, err, 400, "not configured")
	}
}

// TestSnapshotThroughAStandby shows that a snapshot can be saved only with the address of the active server.
func TestSnapshotThroughAStandby(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	m := enable(t, c.servers[0], "pipedream")
	leader := c.leader(t)
	here, err := os.Getwd()
	require.NoError(t, err)
	for i, s := range c.servers {
		there := *m
		there.vault = s
		path, err := filepath.Rel(here, filepath.Join(t.TempDir(), "vault.snap"))
		require.NoError(t, err)
		saved := there.cli(t, "operator", "raft", "snapshot", "save", path)
		if i == leader {
			assert.Zero(t, saved.code, saved.err)
			continue
		}
		assert.Equal(t, 2, saved.code, saved.err)
		assert.Contains(t, saved.err, "incomplete snapshot")
	}
}
