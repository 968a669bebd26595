package pipedream

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
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

// use uses up what requests of a class may have of the budget.
func (m *mount) use(class pace.Class) {
	m.Helper()
	for {
		release, err := m.b.budget.Acquire(m.b.budget.NewClaim(class, pace.Caller{}).With(m.Context()))
		if err != nil {
			return
		}
		release()
	}
}

// One account's 401 holds nobody else off, even if there is no budget to confirm it.
func TestOneAccountsRefusalIsConfirmedWithoutBudget(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.configure(map[string]any{"verify": false, "rate_limit": 40})
		m.sim.AddFault(pipedreamtest.Fault{AccountID: "apn_odd", Status: http.StatusUnauthorized})
		m.creds(github)
		_, err := m.read("creds/apn_odd")
		require.Error(t, err)
		time.Sleep(2 * time.Second)
		for range 19 { // all but one of the slots for unproven requests
			release, err := m.b.budget.Acquire(m.b.budget.NewClaim(pace.Unproven, pace.Caller{Name: "somebody"}).With(t.Context()))
			require.NoError(t, err)
			release()
		}
		m.creds(stripe)
		_, err = m.read("creds/apn_odd")
		require.Error(t, err)
		m.sim.SetAccount(oauthAccount("apn_new", time.Hour))
		m.creds("apn_new")
	})
}

// A new OAuth client can be checked when readers have used up the budget. The check
// takes an access token too.
func TestAClientCanBeRotatedWithoutBudget(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.configureClient(map[string]any{"project_id": testProject, "rate_limit": 100})
		m.creds("apn_alice")
		m.use(pace.Known)
		m.rotateClient()
	})
}

// A connection that was replaced asks for no more pages of the list.
func TestAReplacedConnectionEndsItsList(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(3000)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Delay: time.Second})
		for i := range 12 {
			_, err := m.read("creds/apn_guess" + accountName(i))
			require.Error(t, err)
		}
		time.Sleep(2500 * time.Millisecond)
		m.sim.ResetRequests()
		m.configure(map[string]any{"min_ttl": 600, "verify": false})
		time.Sleep(2 * time.Minute)
		require.LessOrEqual(t, m.sim.Count(pipedreamtest.KindList), 1)
	})
}

// A sweep that began before a change of key deletes nothing of the new key's cache.
func TestASweepDuringAChangeOfKey(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.slow(time.Second, 0, 0)
		go m.periodic()
		time.Sleep(100 * time.Millisecond)
		m.sim.SetAPIKey("pd_test_key_2")
		m.configure(map[string]any{"api_key": "pd_test_key_2"})
		m.creds(github)
		time.Sleep(time.Minute)
		m.sim.ResetRequests()
		m.start()
		m.creds(github)
		require.Empty(t, m.sim.Requests(), "requests for a live token")
	})
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
