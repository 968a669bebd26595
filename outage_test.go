package pipedream

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// An outage that is over fails no more readers. The 404 of one account that comes next
// is about that account only.
func TestAnOutageEndsWithTheNextAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 40
		m.fleet(fleet)
		m.readAll(fleet)
		refreshAll := func() (refused int32) {
			var all sync.WaitGroup
			var count atomic.Int32
			for i := range fleet {
				all.Go(func() {
					if _, err := m.write("refresh/"+accountName(i), nil); err != nil {
						count.Add(1)
					}
				})
			}
			all.Wait()
			return count.Load()
		}
		stop := m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusInternalServerError})
		time.Sleep(6 * time.Second)
		refreshAll()
		time.Sleep(31 * time.Second)
		refreshAll()
		stop()
		time.Sleep(61 * time.Second)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: "apn_gone", Delay: 100 * time.Millisecond})
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 200 * time.Millisecond})
		var gone sync.WaitGroup
		gone.Go(func() { _, _ = m.read("creds/apn_gone") })
		time.Sleep(time.Millisecond)
		require.Zero(t, refreshAll(), "healthy accounts that were refused")
		gone.Wait()
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.Len(t, keys, fleet, "live tokens that were kept")
	})
}

// Accounts whose answers make no sense are no outage.
func TestInvalidAnswersAreNoOutage(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet, bad = 40, 3
		m.fleet(fleet)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		for i := range bad {
			m.sim.AddFault(pipedreamtest.Fault{
				Kind: pipedreamtest.KindAccount, AccountID: accountName(i), Status: http.StatusOK, Delay: 100 * time.Millisecond,
				Body: fmt.Sprintf(`{"data":{"id":%q,"expires_at":"soon","credentials":{"a":"b"}}}`, accountName(i)),
			})
		}
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 200 * time.Millisecond})
		require.Len(t, m.readFleet(0, fleet), bad)
	})
}

func TestPipedreamDown(t *testing.T) {
	faults := map[string]pipedreamtest.Fault{
		"500":          {Status: http.StatusInternalServerError},
		"503":          {Status: http.StatusServiceUnavailable},
		"hangs":        {Hang: true},
		"cuts":         {Cut: true},
		"cuts body":    {CutBody: true},
		"HTML":         {Garbage: true},
		"truncated":    {TruncatedJSON: true},
		"empty":        {Empty: true},
		"huge":         {HugeBody: 10 << 20},
		"deep":         {DeepNesting: 100_000},
		"slow":         {SlowBody: 10 * time.Second},
		"redirect":     {Redirect: "https://elsewhere.example"},
		"429":          {Status: http.StatusTooManyRequests},
		"key refused":  {Status: http.StatusUnauthorized},
		"bad request":  {Status: http.StatusBadRequest},
		"bad date":     {Status: http.StatusOK, Body: `{"data":{"id":"apn_github","expires_at":"soon","credentials":{"a":"b"}}}`},
		"number date":  {Status: http.StatusOK, Body: `{"data":{"id":"apn_github","expires_at":17,"credentials":{"a":"b"}}}`},
		"string creds": {Status: http.StatusOK, Body: `{"data":{"id":"apn_github","credentials":"all of them"}}`},
		"a list":       {Status: http.StatusOK, Body: `[1]`},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				token := m.token(github)
				remove := m.sim.AddFault(fault)
				m.start() // only storage has the live token

				// The credential is due again and again. A live one is always served.
				time.Sleep(56 * time.Minute)
				end := m.creds(github).Data["expires_at"].(string)
				expires, err := time.Parse(time.RFC3339, end)
				require.NoError(t, err)
				for time.Until(expires) > 10*time.Second {
					before := time.Now()
					require.Equal(t, token, m.token(github))
					require.LessOrEqual(t, time.Since(before), cache.Patience)
					time.Sleep(5 * time.Second)
				}

				// After its end it is never served, and the answer comes in time.
				time.Sleep(time.Until(expires))
				before := time.Now()
				_, err = m.read("creds/" + github)
				require.Error(t, err)
				require.LessOrEqual(t, time.Since(before), defaultRequestTimeout)
				m.noSecretIn(err.Error())

				// Reads succeed again by themselves within the longest hold-off.
				remove()
				time.Sleep(backoff.LongestHoldOff)
				require.NotEqual(t, token, m.token(github))
				m.noSecretIn(m.logs.String())
			})
		})
	}
}

func TestPassingFaultsAreRetried(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		for _, fault := range []pipedreamtest.Fault{{Status: 500}, {Cut: true}, {CutBody: true}} {
			fault.Times = 2
			m.sim.AddFault(fault)
			m.sim.SetAccount(oauthAccount("apn_flaky", time.Hour))
			_, err := m.write("refresh/apn_flaky", nil)
			require.NoError(t, err)
			time.Sleep(cache.RefreshQuiet)
		}
	})
}

// A queue that Pipedream serves slowly is no sign that it is down. Readers who come
// late are served too.
func TestALongQueueIsNoOutage(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const early, late = 88, 5
		m.fleet(early + late)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 1990 * time.Millisecond})
		var readers sync.WaitGroup
		for i := range early + late {
			readers.Go(func() {
				if i >= early {
					time.Sleep(10 * time.Second)
				}
				_, err := m.read("creds/" + accountName(i))
				switch {
				case err == nil:
				case i >= early:
					t.Errorf("reader %d was refused: %v", i, err)
				default:
					toldToWait(t, err)
				}
			})
		}
		readers.Wait()
		require.LessOrEqual(t, len(m.sim.Requests()), 100)
	})
}

// If Pipedream itself does not answer, everybody is told that, whatever they wait
// for.
func TestReadersAreToldThatPipedreamDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for _, kind := range []pipedreamtest.Kind{pipedreamtest.KindToken, pipedreamtest.KindAccount, pipedreamtest.KindList, ""} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			connectBubble(t, func(t *testing.T, m *mount) {
				m.role("github", eachUsersGithub)
				for i := range 60 {
					m.sim.SetAccount(connectAccount(accountName(i), "carol"))
				}
				m.start()
				m.sim.AddFault(pipedreamtest.Fault{Kind: kind, Delay: time.Hour})
				var all sync.WaitGroup
				if kind != pipedreamtest.KindList {
					readers := 60
					if kind == pipedreamtest.KindAccount {
						readers = 6 // more would be served by the list
					}
					for i := range readers {
						all.Go(func() {
							_, err := m.read("creds/" + accountName(i))
							m.refused(err, http.StatusBadGateway, "did not answer in time")
						})
					}
				}
				if kind != pipedreamtest.KindAccount {
					for _, user := range []string{"alice", "bob"} {
						all.Go(func() {
							_, err := m.as(user)
							m.refused(err, http.StatusBadGateway, "did not answer in time")
						})
					}
				}
				all.Wait()
				require.NotEmpty(t, m.sim.Requests())
			})
		})
	}
}

// If Pipedream hangs, many readers get the same error as one reader would, and are held
// off. A 429 would be wrong, since the budget is not used up.
func TestManyReadersOfAPipedreamThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 30
		for i := range fleet {
			m.sim.SetAccount(oauthAccount(accountName(i), 24*time.Hour))
		}
		remove := m.sim.AddFault(pipedreamtest.Fault{Hang: true})
		for _, err := range m.readFleet(0, fleet) {
			m.refused(err, http.StatusBadGateway, "Pipedream is not available")
		}
		before := time.Now()
		m.readFleet(0, fleet)
		require.Zero(t, time.Since(before), "held off")

		remove()
		time.Sleep(backoff.LongestHoldOff)
		require.Empty(t, m.readFleet(0, fleet))
	})
}

// A token endpoint that hangs is an outage like any other. The error comes in time, and
// the next one at once.
func TestATokenEndpointThatHangs(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		remove := m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindToken, Hang: true})
		m.start()
		before := time.Now()
		_, err := m.read("creds/apn_alice")
		m.refused(err, http.StatusBadGateway, "Pipedream is not available")
		require.LessOrEqual(t, time.Since(before), defaultRequestTimeout)

		before = time.Now()
		_, err = m.read("creds/apn_alice")
		m.refused(err, http.StatusBadGateway, "Pipedream is not available")
		require.Zero(t, time.Since(before), "held off")

		remove()
		time.Sleep(backoff.LongestHoldOff)
		m.creds("apn_alice")
	})
}

// request_timeout bounds the whole read of a role for a user, not each of its requests.
// Vault's own client gives up after 60 s.
func TestARoleOfAUserAnswersWithinRequestTimeout(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
		m.creds("alices")
		time.Sleep(61 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 15 * time.Second, Status: http.StatusNotFound})
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Delay: 15 * time.Second})
		before := time.Now()
		_, _ = m.read("creds/alices")
		require.LessOrEqual(t, time.Since(before), defaultRequestTimeout)
	})
}

// Several slow answers about one account are Pipedream's fault, and not that of a queue.
func TestSlowAnswersOneAfterTheOther(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.creds("apn_alice")
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Dead = true })
		m.sim.RevokeAccessTokens()
		m.start()
		m.sim.AddFault(pipedreamtest.Fault{Delay: 8 * time.Second})
		time.Sleep(10 * time.Second)
		_, err := m.write("refresh/apn_alice", nil)
		m.refused(err, http.StatusBadGateway, "did not answer in time")
	})
}
