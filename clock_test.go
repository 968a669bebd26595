package pipedream

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// elsewhen is a Pipedream whose clock this machine's is ahead of.
type elsewhen struct {
	next  http.RoundTripper
	ahead time.Duration
}

func (e *elsewhen) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := e.next.RoundTrip(req)
	if err == nil {
		resp.Header.Set("Date", time.Now().Add(-e.ahead).UTC().Format(http.TimeFormat))
	}
	return resp, err
}

// clockBubble is like bubble, on a machine whose clock is ahead of Pipedream's.
func clockBubble(t *testing.T, ahead time.Duration, f func(*testing.T, *mount, *elsewhen)) {
	t.Helper()
	bubble(t, func(t *testing.T, m *mount) {
		e := &elsewhen{next: m.sim.Transport(), ahead: ahead}
		m.b.transport = e
		m.configure(nil)
		f(t, m, e)
	})
}

func TestAWrongClockIsFound(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"ahead": 2 * time.Hour, "behind": -2 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			clockBubble(t, ahead, func(t *testing.T, m *mount, e *elsewhen) {
				time.Sleep(time.Minute)
				m.creds(stripe)
				resp, err := m.read("status")
				require.NoError(t, err)
				require.InDelta(t, ahead.Seconds(), resp.Data["clock_ahead"], 1)
				require.Len(t, resp.Warnings, 1)
				require.Regexp(t, `the clock of this server is 720[01] s `+name+`.* Pipedream's: correct it`, resp.Warnings[0])
				require.Contains(t, m.logs.String(), "the clock of this server differs from Pipedream's")
				require.InDelta(t, ahead.Seconds(), m.metric(metricPrefix+"clock_ahead_seconds"), 1)

				e.ahead = 0 // it was corrected
				for range 2 {
					time.Sleep(2 * time.Hour)
					m.creds(stripe)
				}
				resp, err = m.read("status")
				require.NoError(t, err)
				require.Equal(t, int64(0), resp.Data["clock_ahead"])
				require.Empty(t, resp.Warnings)
			})
		})
	}
}

func TestARightClockIsNoMatter(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Second, -time.Second, 20 * time.Second} {
		clockBubble(t, ahead, func(t *testing.T, m *mount, _ *elsewhen) {
			time.Sleep(time.Minute)
			m.creds(stripe)
			resp, err := m.read("status")
			require.NoError(t, err)
			require.Empty(t, resp.Warnings)
			require.NotContains(t, m.logs.String(), "the clock of this server")
		})
	}
}

// Before Pipedream has told the time, nobody claims to know it.
func TestAnUnknownClock(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.start()
		resp, err := m.read("status")
		require.NoError(t, err)
		require.NotContains(t, resp.Data, "clock_ahead")
		text, _ := m.metrics()
		require.NotContains(t, text, "clock_ahead")
	})
}

// A token that seems to have ended because the clock is ahead is no reason to
// reconnect the account.
func TestAnEndedTokenBesideAWrongClock(t *testing.T) {
	clockBubble(t, 2*time.Hour, func(t *testing.T, m *mount, e *elsewhen) {
		m.sim.Update(github, func(a *pipedreamtest.Account) {
			a.Override = map[string]any{"expires_at": time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)}
		})
		_, err := m.read("creds/" + github)
		m.refused(err, http.StatusBadGateway, "have already expired", "the clock of this server is 720", "ahead of Pipedream's: correct it")
		require.NotContains(t, err.Error(), "Reconnect")

		e.ahead = 0
		time.Sleep(10 * time.Minute)
		for range 2 {
			_, err = m.write("refresh/"+github, nil)
			time.Sleep(10 * time.Minute)
		}
		m.refused(err, http.StatusBadGateway, "have already expired", "Reconnect")
	})
}
