package pipedream

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// pagesOfAges gives Pipedream a list of several pages. On one of them are tokens that
// live for half an hour, whose accounts it returns. The others live for a day. It
// reads all of them, and requests count from then on.
func (m *mount) pagesOfAges() (due []string) {
	m.Helper()
	const fleet = 500
	for i := range fleet {
		life := 24 * time.Hour
		if i >= 205 && i < 295 {
			life = 30 * time.Minute
			due = append(due, accountName(i))
		}
		m.sim.SetAccount(oauthAccount(accountName(i), life))
	}
	m.readAll(fleet)
	m.sim.ResetRequests()
	return due
}

// passOn runs a pass each minute for some time, and reads each of the accounts in
// between. It returns the longest time that a reader waited.
func (m *mount) passOn(d time.Duration, ids []string) (longest time.Duration) {
	m.Helper()
	for until := time.Now().Add(d); time.Now().Before(until); time.Sleep(time.Minute) {
		for _, id := range ids {
			before := time.Now()
			if err := m.request(m.Context(), "", logical.ReadOperation, "creds/"+id, nil); err != nil {
				m.Fatalf("%s: %v", id, err)
			}
			longest = max(longest, time.Since(before))
		}
		m.periodic()
	}
	return longest
}

// Accounts whose page is known are fetched ahead with that page only.
func TestAKnownPageIsFetchedAlone(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *mount) {
		due := m.pagesOfAges()
		m.sim.AddFault(pipedreamtest.Fault{Delay: 200 * time.Millisecond})
		require.Zero(t, m.passOn(29*time.Minute, due), "a reader waited")
		require.Len(t, m.sim.Requests(), 1)
		require.Zero(t, m.passOn(61*time.Minute, due), "a reader waited")
		require.Len(t, m.sim.Requests(), 3, "a request in a token's life")
	})
}

// The accounts of a page that fails are fetched without it. Readers for whom there is a
// live credential wait no longer than usual.
func TestAKnownPageThatFails(t *testing.T) {
	t.Parallel()
	faults := map[string]pipedreamtest.Fault{
		"refused":         {Status: http.StatusForbidden},
		"unknown cursor":  {Status: http.StatusBadRequest},
		"500":             {Status: http.StatusInternalServerError},
		"throttled":       {Status: http.StatusTooManyRequests, Times: 4},
		"hangs":           {Hang: true},
		"not JSON":        {Garbage: true},
		"cut":             {Cut: true},
		"for a while":     {Status: http.StatusServiceUnavailable, Times: 5},
		"throttled often": {Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}, Times: 20},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				due := m.pagesOfAges()
				fault.Kind = pipedreamtest.KindList
				m.sim.AddFault(fault)
				require.LessOrEqual(t, m.passOn(90*time.Minute, due), cache.Patience)
				require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
			})
		})
	}
}

// An account that left its page is asked for by itself.
func TestAccountsThatLeaveTheirPage(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		due := m.pagesOfAges()
		m.sim.AddFault(pipedreamtest.Fault{Delay: 200 * time.Millisecond})
		for _, id := range due[:5] { // to the end of the list
			m.sim.DeleteAccount(id)
			m.sim.SetAccount(oauthAccount(id, 30*time.Minute))
		}
		require.Zero(t, m.passOn(29*time.Minute, due), "a reader waited")
		require.Equal(t, 5, m.sim.Count(pipedreamtest.KindAccount))
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindList))
	})
}

// A reader of an account whose page is being fetched waits for that page.
func TestAReaderJoinsThePageOfAnAccount(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		due := m.pagesOfAges()
		time.Sleep(28 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Delay: time.Second})
		m.periodic()
		time.Sleep(100 * time.Millisecond)
		resp, err := m.handle("read", "creds/"+due[0], map[string]any{"min_ttl": "10m"})
		require.NoError(t, err)
		require.Greater(t, resp.Secret.TTL, 10*time.Minute)
		require.Len(t, m.sim.Requests(), 1)
	})
}

// The budget is too small for all pages at once. They wait for it, and are still
// fetched in time for their readers.
func TestPagesThatWaitForTheBudget(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *mount) {
		const fleet, limit = 500, 8
		m.fleet(fleet)
		m.readAll(fleet)
		_, err := m.write("config", map[string]any{"rate_limit": limit})
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		var ids []string
		for i := range fleet {
			ids = append(ids, accountName(i))
		}
		for range 2 { // in the second life the pages are known
			m.sim.ResetRequests()
			require.Zero(t, m.passOn(time.Hour, ids), "a reader waited")
			require.LessOrEqual(t, m.mostPerMinute(), limit)
			require.LessOrEqual(t, len(m.sim.Requests()), 2*fleet/api.PageLimit)
		}
	})
}
