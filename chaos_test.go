package pipedream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/durable"
	"vault-plugin-secrets-pipedream/internal/fetch"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

var tryAgain = regexp.MustCompile(`try again in (\d+) s`)

// toldToWait returns how long a 429 says to wait.
func toldToWait(t *testing.T, err error) time.Duration {
	t.Helper()
	coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // a wrapped one would lose its code on gRPC
	match := tryAgain.FindStringSubmatch(err.Error())
	if !ok || coded.Code() != http.StatusTooManyRequests || match == nil {
		t.Errorf("neither served nor told when to try again: %v", err)
		return time.Minute
	}
	seconds, _ := strconv.Atoi(match[1])
	return time.Duration(seconds) * time.Second
}

// Everything restarts at once: none of 2,000 accounts is cached, and each has a reader
// who comes again when told to.
func TestThousandsOfColdAccounts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fleet int
		fault func(*mount)
	}{
		"by the list": {2000, func(*mount) {}},
		"one by one": {1000, func(m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		}},
		"with answers after 4 s":  {500, func(m *mount) { m.sim.AddFault(pipedreamtest.Fault{Delay: 4 * time.Second}) }},
		"with every fifth a 500":  {500, func(m *mount) { everyFifth(m, pipedreamtest.Fault{Status: http.StatusInternalServerError}) }},
		"with every fifth cut up": {500, func(m *mount) { everyFifth(m, pipedreamtest.Fault{CutBody: true}) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				test.fault(m)
				m.readAFleet(test.fleet)
				require.LessOrEqual(t, pipedreamtest.MostPerMinute(m.sim.Requests()), defaultRateLimit)
			})
		})
	}
}

// everyFifth makes every fifth of the next thousand requests meet a fault.
func everyFifth(m *mount, fault pipedreamtest.Fault) {
	fault.Times = 1
	for i := range 200 {
		fault.After = 4 * (i + 1)
		m.sim.AddFault(fault)
	}
}

// readAFleet reads that many cold accounts at once until all have been served. At 100
// a minute that takes long, and readers who come a little late take longer.
func (m *mount) readAFleet(fleet int) {
	m.Helper()
	for i := range fleet {
		m.sim.SetAccount(oauthAccount(accountName(i), 24*time.Hour))
	}
	began := time.Now()
	var readers sync.WaitGroup
	for i := range fleet {
		readers.Go(func() {
			for {
				before := time.Now()
				resp, err := m.b.HandleRequest(m.Context(), &logical.Request{
					Operation: logical.ReadOperation, Path: "creds/" + accountName(i), Storage: m.storage, MountPoint: "pipedream/",
				})
				if took := time.Since(before); took > defaultRequestTimeout {
					m.Errorf("a reader waited for %s", took)
				}
				if err == nil {
					if resp.Data["pipedream_account_id"] != accountName(i) || resp.Data["oauth_access_token"] != m.sim.Token(accountName(i)) {
						m.Errorf("the reader of %s got %s", accountName(i), resp.Data["pipedream_account_id"])
					}
					return
				}
				time.Sleep(toldToWait(m.T, err))
			}
		})
	}
	readers.Wait()
	took := time.Since(began)
	m.Logf("all were served after %s, with %d requests", took, len(m.sim.Requests()))
	require.LessOrEqual(m, took, time.Duration(fleet/defaultRateLimit)*3*time.Minute/2)
}

// readFleet reads accounts of the fleet at once, and returns the errors of those that
// are not served.
func (m *mount) readFleet(from, to int) (errs []error) {
	m.Helper()
	var mu sync.Mutex
	var readers sync.WaitGroup
	for i := from; i < to; i++ {
		readers.Go(func() {
			before := time.Now()
			_, err := m.b.HandleRequest(m.Context(), &logical.Request{
				Operation: logical.ReadOperation, Path: "creds/" + accountName(i), Storage: m.storage, MountPoint: "pipedream/",
			})
			if took := time.Since(before); took > defaultRequestTimeout {
				m.Errorf("a reader waited for %s", took)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	readers.Wait()
	return errs
}

// The list only saves requests. If it is slow, broken or too large, its readers are
// served one by one, as there is budget for all of them.
func TestAListThatFailsFailsNoReader(t *testing.T) {
	faults := map[string]pipedreamtest.Fault{
		"hangs":     {Hang: true},
		"slow":      {Delay: 25 * time.Second},
		"500":       {Status: http.StatusInternalServerError},
		"403":       {Status: http.StatusForbidden},
		"404":       {Status: http.StatusNotFound},
		"HTML":      {Garbage: true},
		"too large": {HugeBody: 10 << 20},
		"no list":   {Status: http.StatusOK, Body: `{"data":[],"page_info":{"end_cursor":null}}`},
		"endless":   {Status: http.StatusOK, Body: `{"data":[{"id":"apn_other","credentials":{"a":"b"}}],"page_info":{"end_cursor":"x","total_count":5000}}`},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				const fleet = 30
				for i := range fleet {
					m.sim.SetAccount(oauthAccount(accountName(i), 24*time.Hour))
				}
				fault.Kind = pipedreamtest.KindList
				m.sim.AddFault(fault)
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 100 * time.Millisecond})
				errs := m.readFleet(0, fleet)
				require.Empty(t, errs, "%d of %d readers were not served", len(errs), fleet)
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

// A client that asks for an unknown account all the time, from many connections, leaves
// enough of the budget to others.
func TestAStuckClientLeavesTheBudgetToOthers(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		_, err := m.write("config", map[string]any{"rate_limit": 20})
		require.NoError(t, err)
		const others = 10
		for i := range others {
			m.sim.SetAccount(oauthAccount(accountName(i), 12*time.Hour))
		}
		ctx, stop := context.WithCancel(t.Context())
		var stuck sync.WaitGroup
		for range 10 {
			stuck.Go(func() {
				for ctx.Err() == nil {
					_, _ = m.b.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/apn_nobody", Storage: m.storage})
					time.Sleep(200 * time.Millisecond)
				}
			})
		}
		for i := range others {
			time.Sleep(6 * time.Second)
			m.creds(accountName(i))
		}
		stop()
		stuck.Wait()
	})
}

// Storage that hangs delays a reader by its time-outs. The reader still gets the
// credential.
func TestStorageThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.slow(time.Hour, time.Hour, time.Hour)
		before := time.Now()
		require.Equal(t, m.sim.Token(github), m.token(github))
		require.LessOrEqual(t, time.Since(before), 2*durable.Timeout)
		require.Contains(t, m.logs.String(), "could not be read from storage")
		require.Contains(t, m.logs.String(), "could not be stored")

		before = time.Now()
		m.token(github)
		require.Zero(t, time.Since(before), "a warm read waits for no storage")
	})
}

// A dead account is dropped at once, even for readers who come while storage is still
// deleting it.
func TestAnEvictedCredentialStaysEvicted(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead = true })
		time.Sleep(59 * time.Minute)
		m.slow(0, 0, 2*time.Second)

		var readers sync.WaitGroup
		for _, after := range []time.Duration{0, 100 * time.Millisecond, 600 * time.Millisecond} { // it is being deleted
			readers.Go(func() {
				time.Sleep(after)
				if _, err := m.read("creds/" + github); err == nil {
					t.Errorf("a reader %s after the first was served the credential of a dead account", after)
				}
			})
		}
		readers.Wait()
		_, err := m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "dead")
	})
}

// It does not come back if storage cannot delete it.
func TestAnEvictedCredentialThatStorageKeepsIsNotServed(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		m.creds(github)
		m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead = true })
		time.Sleep(59 * time.Minute)
		m.storage.fail(nil, nil, errStorage, nil)
		_, err := m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "dead")
		_, err = m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "dead")
	})
}

// The sweep drops expired credentials, but none that was fetched since the sweep began.
func TestTheSweepKeepsCredentialsFetchedMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 20
		for i := range fleet {
			m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
			m.creds(accountName(i))
		}
		time.Sleep(61 * time.Minute)
		m.slow(0, 0, 100*time.Millisecond)
		var sweep sync.WaitGroup
		sweep.Go(m.periodic)
		time.Sleep(time.Second) // half of them are swept
		for i := range fleet {
			m.creds(accountName(i))
		}
		sweep.Wait()
		requests := m.sim.Count(pipedreamtest.KindAccount) + m.sim.Count(pipedreamtest.KindList)
		for i := range fleet {
			m.creds(accountName(i))
		}
		require.Equal(t, requests, m.sim.Count(pipedreamtest.KindAccount)+m.sim.Count(pipedreamtest.KindList), "requests for live tokens")
	})
}

// A credential that is read from storage while another account is dropped is still
// served. After a restart, a sweep drops thousands.
func TestAnEvictionTouchesNoOtherAccount(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.SetAccount(oauthAccount("apn_brief", 20*time.Second))
		m.creds("apn_brief")
		token := m.token(github)
		time.Sleep(time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusInternalServerError})
		m.sim.ResetRequests()
		m.start()
		m.slow(100*time.Millisecond, 0, 0)
		var sweep sync.WaitGroup
		sweep.Go(m.periodic)
		for range 10 {
			time.Sleep(30 * time.Millisecond)
			m.b.InvalidateKey(t.Context(), m.cacheKey(github))
			require.Equal(t, token, m.token(github))
		}
		sweep.Wait()
		require.Empty(t, m.sim.Requests())
	})
}

// A fetch that was under way when the key changed replaces nothing that the new key
// fetched.
func TestAFetchWithTheOldKeyReplacesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{AccountID: github, Delay: 10 * time.Second, Times: 1})
		var old sync.WaitGroup
		old.Go(func() { _, _ = m.read("creds/" + github) })
		time.Sleep(time.Second)
		m.sim.SetAPIKey("pd_test_key_2")
		m.configure(map[string]any{"api_key": "pd_test_key_2"})
		m.creds(github)
		requests := len(m.sim.Requests())
		old.Wait()
		m.creds(github)
		m.start()
		m.creds(github)
		require.Len(t, m.sim.Requests(), requests, "requests for a live token")
	})
}

// Readers fetch with a new key while the cache of the old one is still being emptied.
// What they fetch stays, even after a restart.
func TestEmptyingTheCacheKeepsCredentialsFetchedMeanwhile(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 20
		for i := range fleet {
			m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
		}
		require.Empty(t, m.readFleet(0, fleet))
		m.slow(0, 0, 100*time.Millisecond)
		m.sim.SetAPIKey("pd_test_key_2")
		var write sync.WaitGroup
		write.Go(func() { m.configure(map[string]any{"api_key": "pd_test_key_2"}) })
		time.Sleep(150 * time.Millisecond)
		require.Empty(t, m.readFleet(0, fleet))
		write.Wait()
		m.sim.ResetRequests()
		m.start()
		require.Empty(t, m.readFleet(0, fleet))
		require.Empty(t, m.sim.Requests(), "requests for live tokens")
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

// panicking is a transport that panics, like a bug in any code below it.
type panicking struct{}

func (panicking) RoundTrip(*http.Request) (*http.Response, error) { panic("pdtok_in_a_panic") }

// One bug must not end the process, which other mounts share. That includes bugs in
// goroutines that the engine starts. Each case runs in a process of its own, which
// would end.
func TestAPanicEndsNoProcess(t *testing.T) {
	const variable = "TEST_A_PANIC_IN"
	reads := map[string]func(*mount) error{
		"an account": func(m *mount) error {
			m.configure(map[string]any{"verify": false})
			return ignoreAnswer(m.read("creds/" + github))
		},
		"metadata": func(m *mount) error {
			m.configure(map[string]any{"verify": false})
			return ignoreAnswer(m.read("accounts/" + github))
		},
		"a list": func(m *mount) error {
			m.configure(map[string]any{"verify": false})
			return ignoreAnswer(m.handle(logical.ListOperation, "accounts/", nil))
		},
		"the check of a key": func(m *mount) error {
			return ignoreAnswer(m.write("config", map[string]any{"api_key": testKey, "base_url": testBaseURL}))
		},
		"the search for a user's account": func(m *mount) error {
			m.configureClient(map[string]any{"verify": false, "project_id": testProject})
			m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
			return ignoreAnswer(m.read("creds/alices"))
		},
		"a workspace token": func(m *mount) error {
			m.configureClient(map[string]any{"verify": false})
			return ignoreAnswer(m.read("creds/" + github))
		},
	}
	if name := os.Getenv(variable); name != "" {
		synctest.Test(t, func(t *testing.T) {
			m := newMount(t)
			m.b.transport = panicking{}
			require.Error(t, reads[name](m))
			require.NotContains(t, m.logs.String(), "pdtok_in_a_panic")
		})
		return
	}
	for name := range reads {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAPanicEndsNoProcess$") //nolint:gosec // this test itself
			again.Env = append(os.Environ(), variable+"="+name)
			output, err := again.CombinedOutput()
			require.NoError(t, err, string(output[:min(len(output), 1000)]))
		})
	}
}

func ignoreAnswer(_ *logical.Response, err error) error { return err }

func TestDurationsThatDoNotFit(t *testing.T) {
	for _, seconds := range []string{"9223372037", "18446744075", "99999999999999", "9223372036854775807", "300000000h"} {
		for _, field := range []string{"min_ttl", "static_ttl", "request_timeout"} {
			t.Run(fmt.Sprintf("%s=%s", field, seconds), func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mount) {
					if _, err := m.write("config", map[string]any{field: seconds}); err != nil {
						require.ErrorContains(t, err, field)
						return
					}
					resp, err := m.read("config")
					require.NoError(t, err)
					require.Equal(t, seconds, fmt.Sprint(resp.Data[field]), "the stored time is the one that was written")
				})
			})
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

// Fetches ahead that wait for their turn with a replaced key send no request.
func TestAReplacedKeyIsNoLongerUsed(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 60
		for i := range fleet {
			m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
		}
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		require.Empty(t, m.readFleet(0, fleet))
		time.Sleep(58 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: time.Second})
		m.periodic() // has all of them fetched ahead
		time.Sleep(100 * time.Millisecond)
		m.sim.SetAPIKey("pd_test_key_2")
		m.configure(map[string]any{"api_key": "pd_test_key_2"})
		m.sim.ResetRequests()
		time.Sleep(5 * time.Minute)
		require.LessOrEqual(t, len(m.sim.Requests()), 1, "requests with the old key, after the new one was stored")
	})
}

// Accounts for which Pipedream never answers do not keep the readers of others waiting.
func TestSlowAccountsHoldUpNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const slow = 12
		for i := range slow {
			m.sim.SetAccount(oauthAccount(accountName(i), time.Hour))
			m.sim.AddFault(pipedreamtest.Fault{AccountID: accountName(i), Hang: true})
		}
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Hang: true})
		var stuck sync.WaitGroup
		stuck.Go(func() { m.readFleet(0, slow) })
		time.Sleep(time.Second)
		before := time.Now()
		_, err := m.read("creds/" + github)
		waited := time.Since(before)
		stuck.Wait()
		require.NoError(t, err)
		require.LessOrEqual(t, waited, cache.Patience)
	})
}

// A caller whose metadata is empty where a template uses it is refused. The caller is
// not the user whose id is the rest of the template.
func TestAnEmptyDirectiveFindsNobody(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{"app": "github", "external_user_id": "alice{{identity.entity.metadata.suffix}}"})
		m.system.knows(&logical.Entity{ID: "entity-1", Metadata: map[string]string{"suffix": ""}})
		_, err := m.b.HandleRequest(t.Context(), &logical.Request{
			Operation: logical.ReadOperation, Path: "creds/github", Storage: m.storage, MountPoint: "pipedream/", EntityID: "entity-1",
		})
		m.refused(err, http.StatusBadRequest)
		require.Empty(t, m.sim.Requests())
	})
}

// For hours everything happens at once, with several seeds. Pipedream fails in changing
// ways, keys are rotated, config is rewritten, the plugin restarts and passes run, while
// accounts of all lives are read.
func TestHoursOfTrouble(t *testing.T) {
	t.Parallel()
	for seed := range 2 {
		for name, connect := range map[string]bool{"workspace": false, "project": true} {
			t.Run(fmt.Sprintf("%s %d", name, seed), func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T, m *mount) {
					slow := time.Duration(seed) * 100 * time.Millisecond
					m.slow(slow, 2*slow, 3*slow)
					h := &hours{
						mount: m, connect: connect, until: time.Now().Add(time.Hour), known: map[string]time.Time{},
						requests: make(chan struct{}, 100), writing: make(chan struct{}, 1),
					}
					h.run(rand.New(rand.NewPCG(uint64(seed), 1))) //nolint:gosec // dice, and few of them
					m.noSecretIn(m.logs.String())
					require.NotContains(t, m.logs.String(), "panic")
					require.Greater(t, h.served, 500)
					t.Logf("%d reads were served and %d not, with %d requests", h.served, h.refused, len(m.sim.Requests()))
				})
			})
		}
	}
}

type hours struct {
	*mount
	connect bool // a role for each user of a project, read as an OAuth client
	until   time.Time

	// requests has a place for each request under way. A restart takes all of them, so that it comes between requests.
	// It is not an RWMutex, because the clock of a bubble stops while a goroutine waits for one.
	requests chan struct{}
	writing  chan struct{} // has one place, for a write of config

	mu              sync.Mutex // guards the fields below
	epoch           int        // changes when the whole cache is dropped
	known           map[string]time.Time
	rotating        bool // whether reads may use the old key or the new one
	served, refused int
	key             string
}

func (h *hours) run(r *rand.Rand) {
	const fleet = 40
	lives := []time.Duration{0, 20 * time.Second, 3 * time.Minute, 20 * time.Minute, time.Hour, 8 * time.Hour}
	h.key = testKey
	if h.connect {
		h.key = testClientSecret
		h.sim.SetOAuthClient(testClientID, h.key, 20*time.Minute)
		h.configureClient(map[string]any{"project_id": testProject})
	}
	var group sync.WaitGroup
	for i := range fleet {
		a := keyAccount(accountName(i))
		if life := lives[i%len(lives)]; life > 0 {
			a = oauthAccount(accountName(i), life)
			a.OmitNextRefresh = i%4 == 0
		}
		name := a.ID
		if h.connect {
			name = fmt.Sprintf("role-%d", i)
			a.Project, a.Environment, a.ExternalUserID = testProject, "production", fmt.Sprintf("user-%d", i)
			h.role(name, map[string]any{"app": a.App.Slug, "external_user_id": a.ExternalUserID})
		}
		h.sim.SetAccount(a)
		own := rand.New(rand.NewPCG(r.Uint64(), 2)) //nolint:gosec // dice
		group.Go(func() {
			for time.Now().Before(h.until) {
				h.readOne(name, a.ID)
				time.Sleep(time.Duration(1+own.IntN(90)) * time.Second)
			}
		})
	}
	every := func(least, most time.Duration, f func(*rand.Rand)) {
		own := rand.New(rand.NewPCG(r.Uint64(), 3)) //nolint:gosec // dice
		group.Go(func() {
			for time.Sleep(least); time.Now().Before(h.until); time.Sleep(least + time.Duration(own.Int64N(int64(most-least)))) {
				f(own)
			}
		})
	}
	every(time.Minute, time.Minute+time.Second, func(*rand.Rand) {
		defer h.enter(1)()
		h.periodic()
	})
	every(10*time.Second, 4*time.Minute, h.fault)
	every(5*time.Minute, 20*time.Minute, func(r *rand.Rand) {
		h.rewrite("config", map[string]any{"static_ttl": 60 + r.IntN(600), "max_retries": r.IntN(4), "min_ttl": r.IntN(600), "rate_limit": 60 + r.IntN(40)})
	})
	every(20*time.Minute, 40*time.Minute, func(*rand.Rand) { h.rotate() })
	every(10*time.Minute, 30*time.Minute, func(*rand.Rand) {
		defer h.enter(cap(h.requests))()
		h.start()
	})
	group.Wait()
}

func (h *hours) enter(places int) (leave func()) {
	for range places {
		h.requests <- struct{}{}
	}
	return func() {
		for range places {
			<-h.requests
		}
	}
}

func (h *hours) rewrite(path string, data map[string]any) {
	h.writing <- struct{}{}
	defer func() { <-h.writing }()
	defer h.enter(1)()
	if _, err := h.b.HandleRequest(h.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: path, Data: data, Storage: h.storage}); err != nil {
		h.Errorf("config was refused: %v", err)
	}
}

func (h *hours) fault(r *rand.Rand) {
	faults := []pipedreamtest.Fault{
		{Hang: true},
		{Delay: 3 * time.Second},
		{Cut: true},
		{CutBody: true},
		{Status: 500},
		{Status: 429},
		{Garbage: true},
		{TruncatedJSON: true},
		{Status: 429, Header: http.Header{"Retry-After": {"20"}}},
		{HugeBody: 5 << 20, Times: 10},
		{Kind: pipedreamtest.KindList, Hang: true},
		{Kind: pipedreamtest.KindList, Status: 500},
		{Kind: pipedreamtest.KindAccount, Hang: true},
		{SlowBody: 50 * time.Millisecond},
	}
	remove := h.sim.AddFault(faults[r.IntN(len(faults))])
	time.Sleep(time.Duration(1+r.IntN(180)) * time.Second)
	remove()
}

// rotate replaces the key in Pipedream, and a little later in Vault.
func (h *hours) rotate() {
	h.mu.Lock()
	h.key += "1"
	key := h.key
	h.mu.Unlock()
	data := map[string]any{"api_key": key, "verify": false}
	h.sim.SetAPIKey(key)
	if h.connect {
		data = map[string]any{"client_secret": key, "verify": false}
		h.sim.SetOAuthClient(testClientID, key, 20*time.Minute)
		h.sim.RevokeAccessTokens()
	}
	time.Sleep(30 * time.Second)
	h.mu.Lock()
	h.epoch++
	h.rotating = true
	clear(h.known)
	h.mu.Unlock()
	h.rewrite("config", data)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch++
	h.rotating = false
	clear(h.known)
}

// readOne reads an account and checks the outcome. It must be a live token, or a
// documented error while there was no live token to serve.
func (h *hours) readOne(name, id string) {
	defer h.enter(1)()
	h.mu.Lock()
	epoch, alive := h.epoch, h.known[id]
	h.mu.Unlock()
	before := time.Now()
	resp, err := h.b.HandleRequest(h.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + name, Storage: h.storage})
	after := time.Now()
	if took := after.Sub(before); took > defaultRequestTimeout+2*durable.Timeout {
		h.Errorf("a read of %s took %s", id, took)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.refused++
		coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // a wrapped one would lose its code on gRPC
		if !ok || coded.Code() == http.StatusBadRequest && !strings.Contains(err.Error(), "Pipedream refused the ") || coded.Code() == http.StatusInternalServerError {
			h.Errorf("not a documented error: %v", err)
		}
		if epoch == h.epoch && after.Before(alive.Add(-credential.MinServable)) {
			h.Errorf("%s was refused with %s of its token left: %v", id, alive.Sub(after), err)
		}
		return
	}
	h.served++
	if resp.Data["pipedream_account_id"] != id {
		h.Errorf("%s got the credentials of %s", name, resp.Data["pipedream_account_id"])
	}
	end := before.Add(100 * time.Hour)
	if text, ok := resp.Data["expires_at"].(string); ok {
		// Readers see the end rounded down.
		if end, err = time.Parse(time.RFC3339, text); err != nil || !before.Before(end.Add(time.Second)) {
			h.Errorf("%s was served %s after its end", id, before.Sub(end))
		}
	}
	if resp.Secret.TTL < time.Second || resp.Secret.TTL > max(time.Second, end.Add(time.Second).Sub(before)) {
		h.Errorf("%s was leased for %s with %s left", id, resp.Secret.TTL, end.Sub(before))
	}
	if epoch == h.epoch && !h.rotating {
		h.known[id] = end
	}
}
