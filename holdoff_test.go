package pipedream

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestHoldOffGrowsAndEnds(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		for range 10 * 60 * 10 {
			_, err := m.read("creds/apn_nobody")
			require.Error(t, err)
			time.Sleep(100 * time.Millisecond)
		}
		// 1, 2, 4 and so on to 300 s, less up to a quarter. So a client stuck on an
		// unknown account cannot use up the budget.
		require.LessOrEqual(t, m.sim.Count(pipedreamtest.KindAccount), 11)
		require.GreaterOrEqual(t, m.sim.Count(pipedreamtest.KindAccount), 8)

		m.sim.SetAccount(oauthAccount("apn_nobody", time.Hour))
		time.Sleep(backoff.LongestLasting)
		m.creds("apn_nobody")
	})
}

func TestARefusedKeyHoldsOffTheMount(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.SetAPIKey("pd_rotated_key")
		_, err := m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "401", "pipedream/config")
		_, err = m.read("creds/" + stripe)
		m.refused(err, http.StatusBadRequest, "401")
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))

		// A write of config ends the hold-off.
		m.configure(map[string]any{"api_key": "pd_rotated_key"})
		m.creds(github)
	})
}

func TestThrottledByPipedream(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{
			Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"40"}}, Times: 1,
		})
		before := time.Now()
		_, err := m.read("creds/" + github)
		m.refused(err, http.StatusTooManyRequests, "try again in 40 s")
		require.Zero(t, time.Since(before), "it does not wait if that would take longer than request_timeout")

		time.Sleep(30 * time.Second)
		_, err = m.read("creds/" + stripe)
		m.refused(err, http.StatusTooManyRequests, "try again in 10 s")
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))

		time.Sleep(10 * time.Second)
		m.creds(github)
	})
}

func TestReadersWaitForAShortRetryAfter(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{
			Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"3"}}, Times: 1,
		})
		before := time.Now()
		m.creds(github)
		require.Equal(t, 3*time.Second, time.Since(before))
	})
}

// While a request waits for the end of a 429 within its own time, those who can wait as
// long are not told to come again. Nothing more goes out for them until then.
func TestThoseWhoWaitAreServedAfterA429(t *testing.T) {
	t.Parallel()
	for _, wait := range []string{"2", "5", "9", "10", "12", "18"} {
		for _, readers := range []int{5, 40} {
			for _, kind := range []pipedreamtest.Kind{pipedreamtest.KindList, pipedreamtest.KindAccount} {
				t.Run(fmt.Sprintf("%s s, %d readers, %s", wait, readers, kind), func(t *testing.T) {
					t.Parallel()
					bubble(t, func(t *testing.T, m *mount) {
						m.fleet(998)
						if kind == pipedreamtest.KindAccount {
							m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
						}
						m.sim.AddFault(pipedreamtest.Fault{
							Kind: kind, After: 3, Times: 1, Delay: 60 * time.Millisecond,
							Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {wait}},
						})
						m.sim.AddFault(pipedreamtest.Fault{Delay: 60 * time.Millisecond})
						var all sync.WaitGroup
						read := func(caller string, i int) {
							all.Go(func() {
								if err := m.request(t.Context(), caller, logical.ReadOperation, "creds/"+accountName(i), nil); err != nil {
									t.Errorf("%s: %s", accountName(i), err)
								}
							})
						}
						if kind == pipedreamtest.KindList {
							for i := range 50 { // they begin a walk
								read("e1", i)
							}
							time.Sleep(100 * time.Millisecond)
						}
						for i := range readers {
							read("e2", 500+i)
						}
						all.Wait()
					})
				})
			}
		}
	}
}

// A 401 or 429 holds off the whole mount, including readers who came before it and wait
// for their turn. Requests that are under way cannot be stopped.
func TestAHoldOffOfTheMountStopsTheQueue(t *testing.T) {
	for name, fault := range map[string]pipedreamtest.Fault{
		"throttled":   {Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"40"}}},
		"key refused": {Status: http.StatusUnauthorized},
	} {
		for _, list := range []int{http.StatusOK, http.StatusForbidden} {
			t.Run(fmt.Sprintf("%s, list %d", name, list), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mount) {
					const fleet = 60
					for i := range 2 * fleet {
						m.sim.SetAccount(oauthAccount(accountName(i), 24*time.Hour))
					}
					if list != http.StatusOK { // that is remembered for some minutes
						m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: list})
						require.Empty(t, m.readFleet(0, fleet))
						time.Sleep(2 * time.Minute)
					}
					m.sim.ResetRequests()
					fault.Delay = 100 * time.Millisecond
					m.sim.AddFault(fault)
					m.readFleet(fleet, 2*fleet)
					require.LessOrEqual(t, len(m.sim.Requests()), fetch.MaxSingles+3, "the accounts, the list, and whether the key works; the others find a hold-off")
				})
			})
		}
	}
}
