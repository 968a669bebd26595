package pipedream

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestAConfigWriteDoesNotRefillTheBudget(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		m.configure(map[string]any{"rate_limit": 3, "verify": false})
		m.sim.SetAccount(oauthAccount("apn_third", time.Hour))
		m.sim.SetAccount(oauthAccount("apn_fourth", time.Hour))
		m.creds(github)
		m.creds(stripe)
		for _, limit := range []int{0, 3} {
			m.configure(map[string]any{"rate_limit": limit, "verify": false})
		}
		_, err := m.read("creds/apn_third")
		// The check of the key when the mount was configured counts too.
		m.refused(err, http.StatusTooManyRequests, "rate_limit", "try again in")

		time.Sleep(time.Minute)
		m.creds("apn_third")
	})
}

func TestTheLimitHoldsWhenConnectionsDie(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 400
		m.fleet(fleet)
		for i := range 40 {
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: accountName(i * 10), Cut: true})
		}
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		m.sim.AddFault(pipedreamtest.Fault{Delay: 300 * time.Millisecond})
		var readers sync.WaitGroup
		for i := range fleet {
			readers.Go(func() {
				time.Sleep(time.Duration(i) * 450 * time.Millisecond)
				for range 5 {
					if _, err := m.read("creds/" + accountName(i)); err == nil {
						return
					}
					time.Sleep(10 * time.Second)
				}
			})
		}
		readers.Wait()
		require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
	}, pipedreamtest.WithLimit(0))
}

// A list that is longer than the budget says so at once.
func TestAListLongerThanTheBudget(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(7600)
		_, err := m.handle(logical.ListOperation, "accounts/", nil)
		m.refused(err, http.StatusBadRequest, "7602 accounts", "rate_limit", "app=github")
		require.Len(t, m.sim.Requests(), 1)
	})
}

// A list that the budget can never pay for says so, even if only its pages show that.
func TestAListInPagesTooSmallForTheBudget(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.configureClient(map[string]any{"project_id": testProject, "rate_limit": 20})
		for i := range 200 {
			m.sim.SetAccount(connectAccount(accountName(i), "alice"))
		}
		m.creds("apn_alice") // brings the access token, too
		time.Sleep(2 * time.Minute)
		_, err := m.handle(logical.ListOperation, "accounts/", nil)
		m.refused(err, http.StatusBadRequest, "202 accounts", "rate_limit", "app=github")
	}, pipedreamtest.WithPageCap(10))
}

// A reader who runs out of time because of the mount's own limit, or because others
// were first, is told to come again, and when. Pipedream is not blamed: it answers
// within 100 ms.
func TestPipedreamIsNotBlamedForTheMountsOwnLimit(t *testing.T) {
	t.Parallel()
	// expectTooMany has many read at the same time. None of them may be told that
	// Pipedream is not available.
	expectTooMany := func(m *mount, readers int, read func(i int) error) {
		m.Helper()
		var mu sync.Mutex
		var errs []error
		var all sync.WaitGroup
		for i := range readers {
			all.Go(func() {
				err := read(i)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs = append(errs, err)
				}
			})
		}
		all.Wait()
		require.NotEmpty(m, errs)
		for _, err := range errs {
			m.refused(err, http.StatusTooManyRequests, "try again in ")
		}
	}
	late := pipedreamtest.Fault{Delay: 100 * time.Millisecond}
	t.Run("slots that come free at the last moment", func(t *testing.T) {
		t.Parallel()
		bubble(t, func(_ *testing.T, m *mount) {
			m.fleet(400)
			m.sim.AddFault(late)
			m.creds(github)
			time.Sleep(2 * time.Minute)
			m.spend(98)
			time.Sleep(time.Minute - defaultRequestTimeout + 50*time.Millisecond)
			expectTooMany(m, 400, func(i int) error {
				return m.request(m.Context(), "caller"+strconv.Itoa(i%20), logical.ReadOperation, "creds/"+accountName(i), nil)
			})
		})
	})
	for name, storage := range map[string]time.Duration{"storage is fast": 0, "storage is slow": 3 * time.Second} {
		t.Run("a search that waits for the budget, "+name, func(t *testing.T) {
			t.Parallel()
			connectBubble(t, func(t *testing.T, m *mount) {
				m.configureClient(map[string]any{"rate_limit": 30, "verify": false})
				m.role("github", eachUsersGithub)
				m.sim.AddFault(late)
				_, err := m.as("alice") // so that there is an access token
				require.NoError(t, err)
				time.Sleep(2 * time.Minute)
				m.spend(28)
				time.Sleep(time.Minute - defaultRequestTimeout - time.Second)
				m.slow(storage, 0, 0)
				expectTooMany(m, 20, func(i int) error {
					_, err := m.as("user" + strconv.Itoa(i%4))
					return err
				})
			})
		})
	}
}

// Requests need an access token, and the budget has a slot for only one of the two. They
// wait for the next slot, and nothing is tried again and again until then.
func TestAnAccessTokenThatFindsNoBudget(t *testing.T) {
	for _, fleet := range []int{1, 5, 40} {
		for _, known := range []bool{false, true} {
			for _, refused := range []bool{false, true} {
				for _, left := range []int{0, 1, 2} {
					t.Run(fmt.Sprintf("%d accounts, known %t, list refused %t, %d slots left", fleet, known, refused, left), func(t *testing.T) {
						connectBubble(t, func(t *testing.T, m *mount) {
							for i := range fleet {
								m.sim.SetAccount(connectAccount(accountName(i), "user"))
							}
							m.configureClient(map[string]any{"project_id": testProject, "rate_limit": 60})
							m.sim.SetOAuthClient(testClientID, testClientSecret, 10*time.Minute)
							m.sim.RevokeAccessTokens()
							if refused {
								m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
							}
							if known {
								time.Sleep(2 * time.Minute)
								require.Empty(t, m.readFleet(0, fleet))
							}
							time.Sleep(2 * time.Hour) // the accounts and the access token have ended
							m.spend(58 - left)        // of those that readers may use
							m.sim.ResetRequests()
							began := time.Now()
							for _, err := range m.readFleet(0, fleet) {
								m.refused(err, http.StatusTooManyRequests)
							}
							require.LessOrEqual(t, time.Since(began), defaultRequestTimeout)
							require.LessOrEqual(t, len(m.sim.Requests()), left)
							time.Sleep(time.Minute)
							require.Empty(t, m.readFleet(0, fleet))
						})
					})
				}
			}
		}
	}
}
