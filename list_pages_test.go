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

// A page serves readers of its accounts for a minute, and is then forgotten. An
// account that nobody reads is not stored.
func TestAPageIsRememberedForAMinute(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(90)
		m.readAll(40)
		m.sim.ResetRequests()
		stored, err := m.cachedKeys()
		require.NoError(t, err)
		require.Len(t, stored, 40, "only accounts that were read are stored")
		m.creds(accountName(60))
		require.Empty(t, m.sim.Requests())
		time.Sleep(2 * time.Minute)
		m.creds(accountName(61))
		require.Len(t, m.sim.Requests(), 1)
	})
}

// A page does not serve these reads, each of which costs a request of its own.
func TestReadsThatAPageDoesNotServe(t *testing.T) {
	const id = "apn_00085"
	tests := map[string]struct {
		change func(*pipedreamtest.Account) // before the page comes
		then   func(*mount)                 // after it
		fails  bool
	}{
		"an account near its end": {
			change: func(a *pipedreamtest.Account) {
				a.TokenLife, a.OmitNextRefresh, a.RefreshBefore = time.Minute, true, time.Second
			},
			then: func(*mount) { time.Sleep(10 * time.Second) },
		},
		"a dead account":          {change: func(a *pipedreamtest.Account) { a.Dead = true }, fails: true},
		"one without credentials": {change: func(a *pipedreamtest.Account) { a.NoCredentials = true }, fails: true},
		"a refresh":               {then: func(m *mount) { _, _ = m.write("refresh/"+id, nil) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.fleet(90)
				if test.change != nil {
					m.sim.Update(id, test.change)
				}
				m.readAll(40)
				time.Sleep(time.Second)
				m.sim.ResetRequests()
				if test.then != nil {
					test.then(m)
				}
				_, err := m.read("creds/" + id)
				require.Equal(t, test.fails, err != nil, "%v", err)
				require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
			})
		})
	}
}

// A page replaces no credential that was fetched after it, and an account that has
// failed since is not served from it.
func TestAPageReplacesNothingNewer(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(90)
		const rotated, deleted = "apn_00085", "apn_00086"
		m.readAll(40)
		_, err := m.write("refresh/"+deleted, nil)
		require.NoError(t, err)
		m.sim.DeleteAccount(deleted)
		time.Sleep(6 * time.Second)
		_, err = m.write("refresh/"+deleted, nil)
		m.refused(err, http.StatusBadRequest, "does not know")

		m.sim.Rotate(rotated)
		_, err = m.write("refresh/"+rotated, nil)
		require.NoError(t, err)
		m.fleetPage()
		require.Equal(t, m.sim.Token(rotated), m.token(rotated))
		_, err = m.read("creds/" + deleted)
		m.refused(err, http.StatusBadRequest, "does not know")
	})
}

// fleetPage reads accounts of a page that is remembered.
func (m *mount) fleetPage() {
	m.Helper()
	for i := 40; i < 80; i++ {
		m.creds(accountName(i))
	}
}

// Refresh tokens from a page are left out like any other.
func TestAPageBringsNoRefreshToken(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(90)
		m.readAll(40)
		m.sim.ResetRequests()
		require.NotContains(t, m.creds(accountName(80)).Data, "oauth_refresh_token")
		require.Empty(t, m.sim.Requests())
		raw, err := m.storage.below().Get(t.Context(), m.cacheKey(accountName(80)))
		require.NoError(t, err)
		require.NotContains(t, string(raw.Value), "pdrefresh_")
	})
}

// The lease of a credential that never expires counts from when its page was asked
// for, not from the read.
func TestALeaseCountsFromThePage(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(80)
		m.sim.SetAccount(keyAccount("apn_key"))
		m.readAll(40)
		time.Sleep(30 * time.Second)
		m.sim.ResetRequests()
		require.LessOrEqual(t, m.creds("apn_key").Secret.TTL, time.Hour-30*time.Second)
		require.Empty(t, m.sim.Requests())
	})
}

// A page that came a moment ago serves readers however short tokens live.
func TestTokensOfAMinuteOnAPage(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{70 * time.Second, 90 * time.Second} {
		t.Run(life.String(), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				for i := range 90 {
					m.sim.SetAccount(oauthAccount(accountName(i), life))
				}
				m.readAll(40)
				m.sim.ResetRequests()
				time.Sleep(time.Second)
				for i := 40; i < 90; i++ {
					m.creds(accountName(i))
				}
				require.LessOrEqual(t, len(m.sim.Requests()), 5)
			})
		})
	}
}
