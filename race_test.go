package pipedream

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// slowTransport delays answers, so that they may be outdated when they come.
type slowTransport struct {
	next http.RoundTripper
	wait func(*http.Request) time.Duration
}

func (s *slowTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.next.RoundTrip(r)
	time.Sleep(s.wait(r))
	return resp, err
}

// answersComeLate restarts the engine behind a network that delays answers.
func (m *mount) answersComeLate(wait func(*http.Request) time.Duration) {
	m.Helper()
	m.b.Cleanup(m.Context())
	m.b = newBackend(m.storage, &slowTransport{m.sim.Transport(), wait})
	require.NoError(m, m.b.Setup(m.Context(), &logical.BackendConfig{
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: m.logs}), System: m.system, StorageView: m.storage,
	}))
}

// A refresh takes no answer to a request that went out before it.
//  1. An account is asked for, and the answer takes 3 s.
//  2. Its token is replaced.
//  3. A caller whose token was refused refreshes it.
//  4. The answer comes, with the old token.
func TestARefreshIgnoresAnswersFromBeforeIt(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		var late atomic.Bool
		m.answersComeLate(func(*http.Request) time.Duration {
			if late.Load() {
				return 3 * time.Second
			}
			return 0
		})
		m.creds(github)
		time.Sleep(10 * time.Minute)
		late.Store(true)
		go func() { _, _ = m.write("refresh/"+github, nil) }()
		time.Sleep(time.Second)
		m.sim.Rotate(github)
		time.Sleep(time.Second)
		resp, err := m.write("refresh/"+github, nil)
		require.NoError(t, err)
		require.Equal(t, true, resp.Data["changed"])
		require.Equal(t, m.sim.Token(github), m.token(github))
	})
}

// An account is found deleted while a search for its user is under way. The search
// does not bring the account back.
func TestALateSearchRestoresNothing(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		m.answersComeLate(func(r *http.Request) time.Duration {
			if strings.Contains(r.URL.RawQuery, "external_user_id") {
				return 3 * time.Second
			}
			return 0
		})
		m.creds("apn_alice")
		time.Sleep(10 * time.Minute)
		go func() { _, _ = m.as("alice") }()
		time.Sleep(time.Second)
		m.sim.DeleteAccount("apn_alice")
		_, err := m.write("refresh/apn_alice", nil)
		require.Error(t, err)
		time.Sleep(5 * time.Second)
		_, err = m.read("creds/apn_alice")
		require.Error(t, err, "the account is deleted")
	})
}

// A slow load of config that began before a change of it sets no rate_limit.
func TestALateLoadOfConfigChangesNoLimit(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.start()
		m.slowOnce("get", "config", time.Second)
		var old sync.WaitGroup
		old.Go(func() { m.creds(github) })
		time.Sleep(100 * time.Millisecond)
		_, err := m.write("config", map[string]any{"rate_limit": 5})
		require.NoError(t, err)
		m.creds(stripe)
		old.Wait()
		resp, err := m.read("status")
		require.NoError(t, err)
		require.LessOrEqual(t, resp.Data["budget_left"], 5)
	})
}
