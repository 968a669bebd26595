package pipedream

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// staticKey is one way for a key that never expires to change or go away in
// Pipedream.
type staticKey struct {
	field  string        // expires_at: "null" or "absent"
	next   time.Duration // next_refresh_at, after the fetch; 0 for none
	ttl    time.Duration // static_ttl
	age    time.Duration // of the cached key when it changes in Pipedream
	reads  bool          // whether somebody reads from then on
	event  string        // what else happens at that moment
	delete bool          // whether the account is deleted; its key is rotated otherwise
	path   string
}

func (k staticKey) String() string {
	return fmt.Sprintf("%+v", struct {
		field, next, ttl, age string
		reads                 bool
		event                 string
		delete                bool
		path                  string
	}{k.field, k.next.String(), k.ttl.String(), k.age.String(), k.reads, k.event, k.delete, k.path})
}

// account is how Pipedream shows the account.
func (k staticKey) account() pipedreamtest.Account {
	a := keyAccount(stripe)
	a.Override = map[string]any{}
	if k.field == "absent" {
		a.Omit = []string{"expires_at"}
	}
	if k.next != 0 {
		a.Override["next_refresh_at"] = time.Now().Add(k.next).UTC().Format(time.RFC3339Nano)
	}
	return a
}

// stepStored makes the stored times of a credential those of a clock that was ahead
// by d, or behind if d is negative.
func (m *mount) stepStored(id string, d time.Duration) {
	m.Helper()
	entry, err := m.storage.below().Get(m.Context(), m.cacheKey(id))
	require.NoError(m, err)
	var stored map[string]any
	require.NoError(m, json.Unmarshal(entry.Value, &stored))
	for _, name := range []string{"fetched_at", "checked_at"} {
		at, err := time.Parse(time.RFC3339Nano, stored[name].(string))
		require.NoError(m, err)
		stored[name] = at.Add(d).Format(time.RFC3339Nano)
	}
	raw, err := json.Marshal(stored)
	require.NoError(m, err)
	require.NoError(m, m.storage.below().Put(m.Context(), &logical.StorageEntry{Key: m.cacheKey(id), Value: raw}))
}

// servedFor changes the key in Pipedream. It returns for how long after that a
// reader may use the old one: until the last lease, or ttl, that comes with it ends.
func (k staticKey) servedFor(m *mount) time.Duration {
	m.configure(map[string]any{"static_ttl": k.ttl.String(), "rate_limit": 0})
	m.sim.SetAccount(k.account())
	last := time.Now()
	// read notes how long a reader may use the old key, and reports whether there was
	// one.
	read := func() bool {
		resp, err := m.read(k.path + stripe)
		if err != nil {
			m.refused(err, http.StatusBadRequest, "does not know account")
			return false
		}
		if resp.Data["api_key"] != "sk_live_0123456789" {
			return false
		}
		var ttl time.Duration
		if resp.Secret != nil {
			ttl = resp.Secret.TTL
		} else {
			ttl = time.Duration(resp.Data["ttl"].(int64)) * time.Second
		}
		require.GreaterOrEqual(m, ttl, time.Second)
		if end := time.Now().Add(ttl); end.After(last) {
			last = end
		}
		return true
	}
	require.True(m, read())
	time.Sleep(k.age)
	read() // it may have to be fetched again by now
	changed := time.Now()
	if k.delete {
		m.sim.DeleteAccount(stripe)
	} else {
		m.sim.Update(stripe, func(a *pipedreamtest.Account) { a.Credentials = map[string]any{"api_key": "sk_live_rotated"} })
	}
	switch k.event {
	case "the clock was 30 min ahead":
		m.stepStored(stripe, 30*time.Minute)
		m.start()
	case "the clock was 50 h ahead":
		m.stepStored(stripe, 50*time.Hour)
		m.start()
	case "the clock was 30 min behind":
		m.stepStored(stripe, -30*time.Minute)
		m.start()
	case "a restart":
		m.start()
	}
	m.periodic()
	if k.reads {
		for read() && time.Since(changed) < 3*k.ttl {
			time.Sleep(k.ttl/53 + 100*time.Millisecond)
			m.periodic()
		}
		return last.Sub(changed)
	}
	// The first reader comes late.
	for _, part := range []time.Duration{9, 10, 19} {
		time.Sleep(time.Until(changed.Add(k.ttl * part / 20)))
		m.periodic()
	}
	read()
	return last.Sub(changed)
}

// A key that never expires can be rotated, or its account deleted, at any moment.
// While Pipedream can be reached, no reader has the old one for longer than
// static_ttl: not until the end of a lease, nor of a ttl.
func TestAChangedKeyIsServedForStaticTTLAtMost(t *testing.T) {
	t.Parallel()
	events := []string{"nothing", "a restart", "the clock was 30 min ahead", "the clock was 50 h ahead", "the clock was 30 min behind"}
	for _, event := range events {
		t.Run(event, func(t *testing.T) {
			t.Parallel()
			for _, ttl := range []time.Duration{2 * time.Second, 3 * time.Second, time.Hour} {
				for _, next := range []time.Duration{0, 9 * time.Minute, 3 * time.Hour, 80 * 365 * 24 * time.Hour} {
					for _, age := range []time.Duration{0, ttl - 1700*time.Millisecond, ttl - 300*time.Millisecond} {
						for variant := range 8 {
							k := staticKey{field: "null", next: next, ttl: ttl, age: max(0, age), reads: variant&1 != 0, event: event, delete: variant&2 != 0, path: "creds/"}
							if variant&4 != 0 {
								k.field, k.path = "absent", "static-creds/"
							}
							bubble(t, func(t *testing.T, m *mount) {
								require.LessOrEqual(t, k.servedFor(m), ttl, "%v", k)
							})
						}
					}
				}
			}
		})
	}
}

// A key that is read stays while Pipedream cannot confirm it, for as long as that
// lasts, and over restarts. That costs a write a day at most. One that nobody reads
// for a week goes.
func TestAKeyThatIsReadStays(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, outage := range map[string]func(*mount){
		"Pipedream is down":  func(m *mount) { m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusBadGateway}) },
		"the key is revoked": func(m *mount) { m.sim.SetAPIKey("pd_test_key_2") },
	} {
		for restarts, every := range map[string]time.Duration{"no restart": 0, "a restart a day": day, "two restarts a day": day / 2} {
			t.Run(name+", "+restarts, func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T, m *mount) {
					m.creds(stripe)
					outage(m)
					written := m.storage.writes(m.cacheKey(stripe))
					const days = 30
					began := time.Now()
					next := began.Add(every)
					for time.Since(began) < days*day {
						time.Sleep(20 * time.Minute)
						m.periodic()
						require.Equal(t, "sk_live_0123456789", m.creds(stripe).Data["api_key"], "after %s", time.Since(began))
						if every > 0 && time.Now().After(next) {
							next = next.Add(every)
							m.start()
						}
					}
					require.LessOrEqual(t, m.storage.writes(m.cacheKey(stripe))-written, days)
					lastRead := time.Now()
					stored := func() bool {
						keys, err := m.cachedKeys()
						require.NoError(t, err)
						return len(keys) > 0
					}
					for stored() && time.Since(lastRead) < 20*day {
						time.Sleep(time.Hour)
						m.periodic()
					}
					require.GreaterOrEqual(t, time.Since(lastRead), 7*day)
					require.LessOrEqual(t, time.Since(lastRead), 8*day+2*time.Hour)
				})
			})
		}
	}
}

// A token whose end Pipedream hides is refreshed when Pipedream announced it, also right
// after it was fetched.
func TestAnAnnouncedRefreshRightAfterAFetch(t *testing.T) {
	for _, before := range []time.Duration{2 * time.Second, 10 * time.Second, 50 * time.Second, 5 * time.Minute} {
		t.Run(before.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				a := oauthAccount("apn_hidden", time.Hour)
				a.HideExpiry, a.RefreshBefore = true, time.Nanosecond
				m.sim.SetAccount(a)
				time.Sleep(time.Hour - before)
				require.LessOrEqual(t, m.creds("apn_hidden").Secret.TTL, max(before, 10*time.Second)+time.Second)
				time.Sleep(max(before, 10*time.Second) + time.Second)
				require.Equal(t, m.sim.Token("apn_hidden"), m.token("apn_hidden"))
			})
		})
	}
}
