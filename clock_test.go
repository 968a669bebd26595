package pipedream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// elsewhen is a Pipedream whose clock this machine's is ahead of.
type elsewhen struct {
	next   http.RoundTripper
	ahead  time.Duration
	header map[string]string // replaces headers of the answers
}

func (e *elsewhen) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := e.next.RoundTrip(req)
	if err != nil {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp, err
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(strings.NewReader(shift(string(body), -e.ahead)))
	resp.Header.Del("Content-Length")
	resp.ContentLength = -1
	resp.Header.Set("Date", time.Now().Add(-e.ahead).UTC().Format(http.TimeFormat))
	for name, value := range e.header {
		resp.Header.Set(name, value)
	}
	return resp, nil
}

var writtenTime = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)

// shift changes all times in a text.
func shift(text string, by time.Duration) string {
	return writtenTime.ReplaceAllStringFunc(text, func(written string) string {
		t, err := time.Parse(time.RFC3339Nano, written)
		if err != nil {
			return written
		}
		return t.Add(by).Format(time.RFC3339Nano)
	})
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
				require.Regexp(t, `the clock of this server is 720[01] s `+name+`.* Pipedream's: correct it. Until then`, resp.Warnings[0])
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

// A token that has ended has, whatever this machine's clock shows.
func TestAnEndedTokenBesideAWrongClock(t *testing.T) {
	for _, ahead := range []time.Duration{3 * time.Hour, -3 * time.Hour} {
		clockBubble(t, ahead, func(_ *testing.T, m *mount, _ *elsewhen) {
			m.sim.Update(github, func(a *pipedreamtest.Account) {
				a.Override = map[string]any{"expires_at": time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)}
			})
			_, err := m.read("creds/" + github)
			m.refused(err, http.StatusBadGateway, "have already expired", "Reconnect")
		})
	}
}

const plain = "apn_plain" // ends, and does not say when it is refreshed

// TestATokensLifeByPipedreamsClock reads accounts of all forms for hours, through
// differences and steps of the clock.
func TestATokensLifeByPipedreamsClock(t *testing.T) {
	t.Parallel()
	offsets := []time.Duration{0, time.Minute, -time.Minute, 10 * time.Minute, -10 * time.Minute, 3 * time.Hour, -3 * time.Hour}
	for _, ahead := range offsets {
		for _, step := range offsets {
			for _, restart := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s ahead, step of %s, restart %t", ahead, step, restart), func(t *testing.T) {
					clockBubble(t, ahead, func(t *testing.T, m *mount, e *elsewhen) { livesThrough(t, m, e, step, restart) })
				})
			}
		}
	}
}

func livesThrough(t *testing.T, m *mount, e *elsewhen, step time.Duration, restart bool) {
	t.Helper()
	var wall atomic.Int64 // in nanoseconds, by which this machine's clock was stepped while the plugin ran
	m.b.connections.reset()
	m.b.clock = clock.New(func(now time.Time) time.Time { return now.Round(0).Add(time.Duration(wall.Load())) })
	m.sim.SetAccount(oauthAccount(plain, 40*time.Minute))
	m.sim.Update(plain, func(a *pipedreamtest.Account) { a.Override = map[string]any{"next_refresh_at": nil} })
	for minute := range 30 {
		if minute == 12 {
			if restart {
				m.restartWithStep(e, step)
				for _, id := range []string{github, plain} {
					m.creds(id)
				}
				time.Sleep(time.Minute) // until the first pass that has something to judge
			} else {
				wall.Store(int64(step))
			}
		}
		m.periodic()
		time.Sleep(10 * time.Second)
		for _, id := range []string{github, plain, stripe} {
			resp := m.creds(id)
			now := time.Now()
			require.LessOrEqual(t, resp.Secret.TTL, time.Hour)
			if id == stripe {
				continue
			}
			ends, err := time.Parse(time.RFC3339, resp.Data["expires_at"].(string)) // by Pipedream's clock
			require.NoError(t, err)
			left := ends.Add(e.ahead).Sub(now)
			require.LessOrEqual(t, resp.Secret.TTL, left, "the lease of %s in minute %d", id, 5*minute)
			require.Greater(t, resp.Secret.TTL, left-5*time.Second, "the lease of %s in minute %d", id, 5*minute)
		}
		time.Sleep(5*time.Minute - 10*time.Second)
	}
	require.InDelta(t, (e.ahead + time.Duration(wall.Load())).Seconds(), m.get("status", "clock_ahead"), 2)
	require.Less(t, m.sim.Count(pipedreamtest.KindAccount), 30)
}

// restartWithStep restarts the plugin on a machine whose clock is changed meanwhile. The
// clock of a bubble cannot be set, so everybody else's times change in its place.
func (m *mount) restartWithStep(e *elsewhen, step time.Duration) {
	m.Helper()
	e.ahead += step
	keys, err := logical.CollectKeys(m.Context(), m.storage.below())
	require.NoError(m, err)
	for _, key := range keys {
		entry, err := m.storage.below().Get(m.Context(), key)
		require.NoError(m, err)
		entry.Value = []byte(shift(string(entry.Value), -step))
		require.NoError(m, m.storage.below().Put(m.Context(), entry))
	}
	m.start()
	m.b.transport = e
}

// What was known about the clock outlives a restart, so tokens are judged rightly even if
// Pipedream cannot be reached then.
func TestAWrongClockOutlivesARestart(t *testing.T) {
	for _, ahead := range []time.Duration{time.Minute, -10 * time.Minute, 3 * time.Hour, -3 * time.Hour} {
		clockBubble(t, ahead, func(t *testing.T, m *mount, e *elsewhen) {
			m.creds(github)
			m.periodic()
			require.Equal(t, 1, m.storage.writes(clockPath))
			for range 10 {
				time.Sleep(time.Minute)
				m.periodic()
			}
			require.Equal(t, 1, m.storage.writes(clockPath), "it is stored when it has changed")

			m.start()
			m.b.transport = e
			m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusServiceUnavailable})
			began := time.Now()
			resp := m.creds(github)
			require.LessOrEqual(t, time.Since(began), 5*time.Second)
			left := time.Until(m.sim.ExpiresAt(github))
			require.LessOrEqual(t, resp.Secret.TTL, left)
			require.Greater(t, resp.Secret.TTL, left-3*time.Second)
			require.InDelta(t, ahead.Seconds(), m.get("status", "clock_ahead"), 1)
			began = time.Now()
			m.creds(github)
			require.Zero(t, time.Since(began), "nobody waits again")

			time.Sleep(left)
			_, err := m.read("creds/" + github)
			m.refused(err, http.StatusBadGateway, "Pipedream is not available")
		})
	}
}

// Another server of the cluster has another clock.
func TestAWrongClockOfAnotherServer(t *testing.T) {
	clockBubble(t, 0, func(t *testing.T, m *mount, e *elsewhen) {
		e.ahead = -3 * time.Hour
		m.creds(github)
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: clockPath, Value: []byte(`{"ahead":{"another.example":7200}}`)}))
		m.start()
		m.b.transport = e
		require.LessOrEqual(t, m.creds(github).Secret.TTL, time.Hour, "it asked for the time")
		m.periodic()
		entry, err := m.storage.Get(t.Context(), clockPath)
		require.NoError(t, err)
		require.Contains(t, string(entry.Value), `"another.example":7200`)
		require.Regexp(t, `-1080\d|-10799`, string(entry.Value))
	})
}

// Storage with something else in it, or that cannot be read or written, is no reason to
// fail.
func TestAClockThatCannotBeStored(t *testing.T) {
	clockBubble(t, 3*time.Hour, func(t *testing.T, m *mount, e *elsewhen) {
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: clockPath, Value: []byte(`[]`)}))
		m.storage.fail(nil, logical.ErrReadOnly, nil, nil)
		m.creds(github)
		m.periodic()
		m.start()
		m.b.transport = e
		require.LessOrEqual(t, m.creds(stripe).Secret.TTL, time.Hour)
		require.LessOrEqual(t, m.creds(github).Secret.TTL, time.Hour)
	})
}

// Answers that do not tell the time change nothing.
func TestAnswersThatDoNotTellTheTime(t *testing.T) {
	wrong := func(by time.Duration) string { return time.Now().Add(by).UTC().Format(http.TimeFormat) }
	for name, header := range map[string]func(i int) map[string]string{
		"no Date":             func(int) map[string]string { return map[string]string{"Date": ""} },
		"no time in Date":     func(int) map[string]string { return map[string]string{"Date": "yesterday"} },
		"a Date in year 9999": func(int) map[string]string { return map[string]string{"Date": "Fri, 31 Dec 9999 23:59:59 GMT"} },
		"kept by a cache":     func(int) map[string]string { return map[string]string{"Date": wrong(-time.Hour), "Age": "3600"} },
		"a wrong one at times": func(i int) map[string]string {
			if i%2 == 0 {
				return map[string]string{"Date": wrong(3 * time.Hour)}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			clockBubble(t, 0, func(t *testing.T, m *mount, e *elsewhen) {
				for i := range 10 {
					e.header = header(i)
					_, err := m.write("refresh/"+github, nil)
					require.NoError(t, err)
					resp := m.creds(github)
					left := time.Until(m.sim.ExpiresAt(github))
					require.Equal(t, left.Truncate(time.Second), resp.Secret.TTL)
					time.Sleep(4 * time.Minute)
				}
				require.NotContains(t, m.logs.String(), "the clock of this server")
			})
		})
	}
}

// The answers of what config was not allowed to name do not tell the time.
func TestARefusedConfigTellsNoTime(t *testing.T) {
	clockBubble(t, 0, func(t *testing.T, m *mount, e *elsewhen) {
		m.creds(github)
		e.ahead = 3 * time.Hour
		m.sim.ResetRequests()
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		for range 5 {
			time.Sleep(2 * time.Second)
			_, err := m.write("config", map[string]any{"api_key": testKey, "org_id": "o_1"})
			m.refused(err, http.StatusBadRequest)
		}
		require.Equal(t, 5, m.sim.Count(pipedreamtest.KindMe), "answers with a Date")
		require.Equal(t, int64(0), m.get("status", "clock_ahead"))
	})
}

// Waits until a date end by Pipedream's clock, even if a gateway writes no Date.
func TestAWaitUntilADateByPipedreamsClock(t *testing.T) {
	for _, ahead := range []time.Duration{3 * time.Hour, -3 * time.Hour} {
		for name, header := range map[string]func(until time.Time) map[string]string{
			"Retry-After": func(until time.Time) map[string]string {
				return map[string]string{"Retry-After": until.UTC().Format(http.TimeFormat)}
			},
			"X-RateLimit-Reset": func(until time.Time) map[string]string {
				return map[string]string{"X-RateLimit-Reset": strconv.FormatInt(until.Unix(), 10)}
			},
		} {
			t.Run(fmt.Sprint(name, ahead), func(t *testing.T) {
				clockBubble(t, ahead, func(t *testing.T, m *mount, e *elsewhen) {
					m.creds(github)
					remove := m.sim.AddFault(pipedreamtest.Fault{AccountID: stripe, Status: http.StatusTooManyRequests})
					defer remove()
					e.header = header(time.Now().Add(5*time.Minute - ahead))
					e.header["Date"] = ""
					_, err := m.read("creds/" + stripe)
					m.refused(err, http.StatusTooManyRequests)
					until, err := time.Parse(time.RFC3339, m.get("status", "held_off_until").(string))
					require.NoError(t, err)
					require.InDelta(t, (5 * time.Minute).Seconds(), time.Until(until).Seconds(), 3)
				})
			})
		}
	}
}

// A credential stored by a clock that was ahead has no longer lease than others, and
// a refresh brings the key that Pipedream has now.
func TestAClockThatWasAhead(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		ahead := time.Now().Add(48 * time.Hour)
		entry, err := logical.StorageEntryJSON(m.cacheKey(stripe), &credential.Credential{
			AccountID: stripe, Fields: map[string]string{"api_key": "old"}, FetchedAt: ahead, CheckedAt: ahead,
		})
		require.NoError(t, err)
		require.NoError(t, m.storage.Put(t.Context(), entry))
		require.LessOrEqual(t, m.creds(stripe).Secret.TTL, time.Hour)
		_, err = m.write("refresh/"+stripe, nil)
		require.NoError(t, err)
		require.NotEqual(t, "old", m.creds(stripe).Data["api_key"])
	})
}

// A token for Pipedream's API ends when Pipedream says, even if it was made before any other
// answer could tell that this machine's clock is wrong.
func TestATokenMadeBesideAWrongClock(t *testing.T) {
	for path, life := range map[string]time.Duration{"creds/alices": 15 * time.Minute, "creds/all": time.Hour} {
		for _, ahead := range []time.Duration{0, time.Minute, -time.Minute, 3 * time.Hour, -3 * time.Hour} {
			t.Run(fmt.Sprintf("%s, %s ahead", path, ahead), func(t *testing.T) {
				tokenBubble(t, func(t *testing.T, m *mount) {
					m.start()
					m.b.transport = &elsewhen{next: m.sim.Transport(), ahead: ahead}
					m.b.connections.reset()
					first := m.value(path)
					for range 3 { // the first answers that tell the time, and those after them
						resp, err := m.read(path)
						require.NoError(t, err)
						require.LessOrEqual(t, resp.Secret.TTL, life)
						require.Greater(t, resp.Secret.TTL, life-time.Minute)
						require.Equal(t, first, m.value(path))
						ends, err := time.Parse(time.RFC3339, resp.Data["expires_at"].(string)) // by Pipedream's clock
						require.NoError(t, err)
						require.InDelta(t, resp.Secret.TTL.Seconds(), time.Until(ends.Add(ahead)).Seconds(), 5)
						time.Sleep(10 * time.Second)
						m.creds("apn_bob")
					}
					time.Sleep(life)
					require.NotEqual(t, first, m.value(path))
				})
			})
		}
	}
}

// Pipedream is down for half a minute at the start. The clock was ahead, and was corrected
// while the plugin did not run, so the stored token has ended.
func TestAnOutageAtTheStartAfterAWrongClock(t *testing.T) {
	clockBubble(t, 2*time.Hour, func(t *testing.T, m *mount, e *elsewhen) {
		time.Sleep(time.Minute)
		m.creds(stripe)
		m.creds(github)
		m.periodic() // stores the difference
		time.Sleep(time.Minute)
		e.ahead = 0
		m.start()
		m.b.transport = e
		remove := m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusServiceUnavailable})
		m.periodic()
		_, _ = m.read("creds/" + github)
		time.Sleep(30 * time.Second)
		remove()
		for minute := range 40 {
			time.Sleep(time.Minute)
			m.periodic()
			synctest.Wait()
			ends, err := time.Parse(time.RFC3339, m.creds(github).Data["expires_at"].(string))
			require.NoError(t, err)
			require.True(t, ends.After(time.Now()), "minute %d: the token has ended", minute)
		}
	})
}

// Storage fails once, or its reader goes away, while it is asked how far the clock is from
// Pipedream's. Pipedream is down.
func TestAStartThatCannotReadTheClock(t *testing.T) {
	for name, hinder := range map[string]func(*mount){
		"storage fails once": func(m *mount) {
			m.storage.fail(errStorage, nil, nil, nil)
			_, err := m.read("creds/" + github)
			require.Error(m, err)
			m.storage.fail(nil, nil, nil, nil)
		},
		"its reader goes away": func(m *mount) {
			m.slowOnce("get", clockPath, 2*time.Second)
			ctx, cancel := context.WithTimeout(m.Context(), time.Second)
			defer cancel()
			_, _ = m.b.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + github, Data: map[string]any{}, Storage: m.storage})
		},
	} {
		for _, ahead := range []time.Duration{-2 * time.Hour, 2 * time.Hour} {
			for _, ended := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s ahead, ended %t", name, ahead, ended), func(t *testing.T) {
					clockBubble(t, ahead, func(t *testing.T, m *mount, e *elsewhen) {
						time.Sleep(time.Minute)
						m.creds(stripe)
						m.creds(github)
						m.periodic() // stores the difference
						time.Sleep(time.Minute)
						if ended {
							time.Sleep(time.Hour)
						}
						m.start()
						m.b.transport = e
						m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusServiceUnavailable})
						hinder(m)
						for range 3 {
							_, err := m.read("creds/" + github)
							require.Equal(t, ended, err != nil, "%v", err)
							require.Equal(t, int64(ahead.Seconds()), m.get("status", "clock_ahead"))
							m.periodic()
							time.Sleep(time.Minute)
						}
					})
				})
			}
		}
	}
}

// The clock was behind, and was corrected while the plugin did not run. No pass deletes what
// has ended only by what was known before.
func TestAPassAfterACorrectedClock(t *testing.T) {
	clockBubble(t, -2*time.Hour, func(_ *testing.T, m *mount, e *elsewhen) {
		time.Sleep(time.Minute)
		m.creds(stripe)
		m.creds(github)
		m.periodic()
		e.ahead = 0
		time.Sleep(90 * time.Minute)
		m.start()
		m.b.transport = e
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: http.StatusServiceUnavailable})
		m.periodic()
		synctest.Wait()
		time.Sleep(5 * time.Second)
		m.creds(github)
	})
}

// The clock jumps ahead by mistake. No pass deletes what has ended only by that.
func TestAPassAfterAJump(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		var wall atomic.Int64
		m.b.connections.reset()
		m.b.clock = clock.New(func(now time.Time) time.Time { return now.Round(0).Add(time.Duration(wall.Load())) })
		m.creds(github)
		m.creds(stripe)
		time.Sleep(time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: github, Status: http.StatusServiceUnavailable})
		wall.Store(int64(2 * time.Hour))
		m.periodic()
		_, err := m.write("refresh/"+stripe, nil) // tells the time
		require.NoError(t, err)
		m.creds(github)
	})
}

// A gateway with another clock answers with 200 in place of Pipedream. That tells no time.
func TestAGatewaysClock(t *testing.T) {
	for _, fault := range []pipedreamtest.Fault{{Garbage: true}, {Status: http.StatusOK, Body: "<html>"}, {Status: http.StatusOK, Body: "{}"}} {
		for _, ahead := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
			t.Run(fmt.Sprintf("%q, %s ahead", fault.Body, ahead), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mount) {
					e := &elsewhen{next: m.sim.Transport()}
					m.b.transport = e
					m.configure(map[string]any{"verify": false})
					m.creds(github)
					m.creds(stripe)
					remove := m.sim.AddFault(fault)
					e.ahead = -ahead
					for range 10 {
						_, _ = m.read("creds/apn_cold")
						time.Sleep(2 * time.Second)
					}
					m.periodic()
					m.creds(github)
					e.ahead = 0
					remove()
					m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusServiceUnavailable})
					m.creds(github)
					time.Sleep(time.Hour)
					_, err := m.read("creds/" + github)
					require.Error(t, err, "its token has ended")
				})
			})
		}
	}
}
