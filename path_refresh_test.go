package pipedream

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		old := m.token(github)
		time.Sleep(time.Minute)

		resp, err := m.write("refresh/"+github, nil)
		require.NoError(t, err)
		require.Equal(t, map[string]any{
			"changed": false, "expires_at": m.sim.ExpiresAt(github).UTC().Format(time.RFC3339),
		}, resp.Data)

		time.Sleep(time.Minute)
		m.sim.Rotate(github)
		resp, err = m.write("refresh/"+github, nil)
		require.NoError(t, err)
		require.Equal(t, true, resp.Data["changed"])
		require.NotEqual(t, old, m.token(github))
		require.Equal(t, m.sim.Token(github), m.token(github))
		require.Equal(t, 3, m.sim.Count(pipedreamtest.KindAccount))
	})
}

func TestASecondRefreshCostsNoRequest(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		time.Sleep(time.Minute)
		m.sim.Rotate(github)
		for i := range 4 {
			resp, err := m.write("refresh/"+github, nil)
			require.NoError(t, err)
			require.Equal(t, i == 0, resp.Data["changed"], "whoever comes second could have read it already")
			time.Sleep(time.Second)
		}
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount))
		time.Sleep(cache.RefreshQuiet)
		_, err := m.write("refresh/"+github, nil)
		require.NoError(t, err)
		require.Equal(t, 3, m.sim.Count(pipedreamtest.KindAccount))
	})
}

func TestRefreshOfAKeyAccount(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(stripe)
		time.Sleep(time.Minute)
		m.sim.Update(stripe, func(a *pipedreamtest.Account) { a.Credentials = map[string]any{"api_key": "sk_live_rotated"} })
		resp, err := m.write("refresh/"+stripe, nil)
		require.NoError(t, err)
		require.Equal(t, map[string]any{"changed": true}, resp.Data)
		require.Equal(t, "sk_live_rotated", m.creds(stripe).Data["api_key"])
	})
}

// One caller's token was refused. Others must keep the live one while Pipedream cannot
// be asked for another.
func TestARefreshThatFailsKeepsWhatIsCached(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		token := m.token(github)
		time.Sleep(time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusInternalServerError})
		_, err := m.write("refresh/"+github, nil)
		m.refused(err, http.StatusBadGateway, "500")
		require.Equal(t, token, m.token(github))
	})
}

// changed says what the caller can act on: whether a read now returns other
// credentials than one just before the call.
func TestChangedComparesWithWhatAReaderHad(t *testing.T) {
	t.Parallel()
	for seed := range 20 {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			connectBubble(t, func(t *testing.T, m *mount) {
				dice := rand.New(rand.NewPCG(uint64(seed), 3)) //nolint:gosec // dice
				m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
				names := []string{"apn_alice", "alices"}
				for range 200 {
					name := names[dice.IntN(2)]
					switch dice.IntN(4) {
					case 0:
						m.sim.Rotate("apn_alice")
					case 1:
						m.start()
					case 2:
						time.Sleep(time.Duration(dice.IntN(90)) * time.Minute)
					default:
						time.Sleep(time.Duration(dice.IntN(9000)) * time.Millisecond)
					}
					m.token(name)
					synctest.Wait() // it may have begun a fetch in the background
					before := m.token(name)
					resp, err := m.write("refresh/"+name, nil)
					require.NoError(t, err)
					require.Equal(t, before != m.token(name), resp.Data["changed"])
				}
			})
		})
	}
}

// The app refuses a token that was fetched a moment ago. The refresh sends no request,
// and does not say that there is another token.
func TestARefreshJustAfterARead(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		time.Sleep(2 * time.Second)
		resp, err := m.write("refresh/"+github, nil)
		require.NoError(t, err)
		require.Equal(t, false, resp.Data["changed"])

		resp, err = m.write("refresh/"+stripe, nil)
		require.NoError(t, err)
		require.Equal(t, true, resp.Data["changed"], "nobody had any before")

		time.Sleep(time.Minute)
		m.start()
		resp, err = m.write("refresh/"+github, nil)
		require.NoError(t, err)
		require.Equal(t, false, resp.Data["changed"], "a read would have returned it, from storage")
	})
}

// A refresh that failed brought nothing, so the next one does not report the token of
// before as a success.
func TestAFailedRefreshIsNoRefresh(t *testing.T) {
	t.Parallel()
	fault := func(f pipedreamtest.Fault) func(*mount) func() {
		return func(m *mount) func() { return m.sim.AddFault(f) }
	}
	for name, fail := range map[string]func(*mount) (back func()){
		"an outage":             fault(pipedreamtest.Fault{Status: http.StatusBadGateway}),
		"a 429":                 fault(pipedreamtest.Fault{Status: http.StatusTooManyRequests}),
		"a 401":                 fault(pipedreamtest.Fault{Status: http.StatusUnauthorized}),
		"an answer in HTML":     fault(pipedreamtest.Fault{Status: http.StatusForbidden, Body: "<html>"}),
		"no answer":             fault(pipedreamtest.Fault{Delay: time.Hour}),
		"the connection breaks": fault(pipedreamtest.Fault{Cut: true}),
		"the budget is used up": func(m *mount) func() {
			m.configure(map[string]any{"rate_limit": 20, "verify": false})
			m.creds(github)
			m.spend(18)
			return func() { m.configure(map[string]any{"rate_limit": 100, "verify": false}) }
		},
		"the account is held off": func(m *mount) func() {
			back := m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusBadGateway})
			for range 3 {
				_, err := m.write("refresh/"+github, nil)
				m.refused(err, http.StatusBadGateway)
			}
			return back
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				refused := m.token(github)
				time.Sleep(20 * time.Minute)
				back := fail(m)
				for range 4 {
					_, err := m.write("refresh/"+github, nil)
					require.Error(t, err, "nothing was fetched")
					require.Equal(t, refused, m.token(github), "it lives, and others may need it")
					time.Sleep(time.Second)
				}
				back()
				m.sim.Rotate(github)
				began := time.Now()
				resp, err := m.write("refresh/"+github, nil)
				for err != nil && time.Since(began) < time.Minute {
					time.Sleep(time.Second)
					resp, err = m.write("refresh/"+github, nil)
				}
				require.NoError(t, err)
				require.Equal(t, true, resp.Data["changed"])
				require.Equal(t, m.sim.Token(github), m.token(github))
			})
		})
	}
}

// A token that an app refused is not served again after a refresh, through a role neither,
// whether the role was read before or not.
func TestRefreshThroughARole(t *testing.T) {
	for _, read := range []string{"alices", "apn_alice"} {
		t.Run(read, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
				m.creds(read)
				time.Sleep(time.Minute)
				m.sim.Rotate("apn_alice")
				resp, err := m.write("refresh/alices", nil)
				require.NoError(t, err)
				require.Equal(t, true, resp.Data["changed"])
				require.Equal(t, m.sim.Token("apn_alice"), m.token("alices"))
			})
		})
	}
}

// changed compares what reads return, and not what is stored.
func TestARefreshAfterRefreshTokensAreHidden(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.configure(map[string]any{"expose_refresh_token": true})
		m.creds(github)
		m.configure(map[string]any{"expose_refresh_token": false})
		time.Sleep(time.Minute)
		before := m.creds(github).Data
		resp, err := m.write("refresh/"+github, nil)
		require.NoError(t, err)
		require.Equal(t, before, m.creds(github).Data)
		require.Equal(t, false, resp.Data["changed"])
	})
}
