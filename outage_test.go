package pipedream

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// In these tests, a fault of one account, or between the engine and Pipedream, must
// not harm others.

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

// A 404 of the token endpoint is not about an account.
func TestAMissingTokenEndpointDropsNoToken(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.creds("apn_alice")
		time.Sleep(59*time.Minute + 15*time.Second)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindToken, Status: http.StatusNotFound})
		m.creds("apn_alice")
	})
}

// Neither is the answer of a proxy in front of Pipedream.
func TestAProxysRefusalDropsNoToken(t *testing.T) {
	for _, status := range []int{http.StatusForbidden, http.StatusNotFound} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			bubble(t, func(_ *testing.T, m *mount) {
				m.creds(github)
				time.Sleep(59 * time.Minute)
				m.sim.AddFault(pipedreamtest.Fault{Status: status, Garbage: true})
				m.creds(github)
				_, err := m.read("creds/apn_never_read")
				m.refused(err, http.StatusBadGateway, "in a form that is not Pipedream's")
			})
		})
	}
}

// spend uses n requests of the budget.
func (m *mount) spend(n int) {
	m.Helper()
	for range n {
		release, ok := m.b.budget.TryAcquire()
		require.True(m, ok)
		release()
	}
}

// A reader who joins a fetch ahead makes it as urgent as the reader needs.
func TestAReaderWhoJoinsMakesAFetchUrgent(t *testing.T) {
	tests := map[string]func(*mount) (id string){
		"a page": func(m *mount) string {
			due := m.pagesOfAges()
			time.Sleep(27*time.Minute + 30*time.Second)
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Delay: 2 * time.Second, Status: http.StatusBadRequest})
			return due[1]
		},
		"a retry": func(m *mount) string {
			m.creds(github)
			time.Sleep(55*time.Minute + 30*time.Second)
			m.sim.AddFault(pipedreamtest.Fault{Times: 1, Delay: time.Second, Status: http.StatusBadGateway})
			return github
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				id := prepare(m)
				m.periodic()
				time.Sleep(100 * time.Millisecond)
				m.spend(84)
				_, err := m.write("refresh/"+id, nil)
				require.NoError(t, err)
			})
		})
	}
}

// net/http repeats a request by itself when a reused connection is dead. That request
// counts like any other.
func TestRepeatedRequestsAreCounted(t *testing.T) {
	var got atomic.Int64
	var dead atomic.Bool
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // on loopback
	require.NoError(t, err)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got.Add(1)
		if dead.Load() {
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprintf(w, `{"data":{"id":%q,"credentials":{"api_key":"x"}}}`, strings.TrimPrefix(r.URL.Path, "/v1/accounts/")) //nolint:gosec // no browser reads it
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	m := &mount{T: t, storage: &faultyStorage{storage: &logical.InmemStorage{}}, system: newSystem(), logs: &syncBuffer{}}
	m.b = newBackend(m.storage, nil)
	require.NoError(t, m.b.Setup(t.Context(), &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: m.system, StorageView: m.storage}))
	t.Cleanup(func() { m.b.Cleanup(context.Background()) })
	_, err = m.write("config", map[string]any{
		"api_key": testKey, "base_url": "http://" + listener.Addr().String() + "/v1", "verify": false, "max_retries": 0,
	})
	require.NoError(t, err)
	var readers sync.WaitGroup
	for i := range 8 {
		readers.Go(func() { _, _ = m.read(fmt.Sprintf("creds/apn_a%d", i)) })
	}
	readers.Wait() // up to 8 idle connections are left
	counted, seen := m.b.stats.requests.Load(), got.Load()
	dead.Store(true)
	_, err = m.read("creds/apn_z")
	require.Error(t, err)
	require.Equal(t, got.Load()-seen, m.b.stats.requests.Load()-counted)
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

// A refused token is never served again after a refresh, through a role neither.
func TestRefreshThroughARoleForTheFirstTime(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("alice", map[string]any{"app": "github", "external_user_id": "alice"})
		m.creds("apn_alice")
		time.Sleep(time.Minute)
		m.sim.Rotate("apn_alice")
		resp, err := m.write("refresh/alice", nil)
		require.NoError(t, err)
		require.Equal(t, true, resp.Data["changed"])
		require.Equal(t, m.sim.Token("apn_alice"), m.token("alice"))
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

// One account's 401 is confirmed before everybody is held off.
func TestOneAccountsRefusalHoldsOffNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		const fleet = 50
		m.fleet(fleet)
		token := m.token(github)
		time.Sleep(58 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: github, Status: http.StatusUnauthorized, Delay: 50 * time.Millisecond})
		for i := range fleet {
			m.creds(accountName(i))
			if i < 10 { // while it lives
				require.Equal(t, token, m.token(github))
			} else {
				_, _ = m.read("creds/" + github)
			}
			time.Sleep(7 * time.Second)
		}
		_, err := m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "for account apn_github (HTTP 401)")
	})
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

// A list that is longer than the budget says so at once.
func TestAListLongerThanTheBudget(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(7600)
		_, err := m.handle(logical.ListOperation, "accounts/", nil)
		m.refused(err, http.StatusBadRequest, "7602 accounts", "rate_limit", "app=github")
		require.Len(t, m.sim.Requests(), 1)
	})
}

// A new key can be checked when readers with the old one have used up the budget.
func TestAKeyCanBeRotatedWithoutBudget(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		m.fleet(120)
		require.NotEmpty(t, m.readFleet(0, 120), "the budget is used up")
		m.sim.SetAPIKey("pd_test_key_2")
		_, err := m.write("config", map[string]any{"api_key": "pd_test_key_2"})
		require.NoError(t, err)
		require.LessOrEqual(t, m.mostPerMinute(), defaultRateLimit)
	})
}

// An answer that differs from Pipedream's documentation is understood as it is meant,
// or refused.
func TestAnswersOtherThanDocumented(t *testing.T) {
	tests := map[string]struct {
		status int
		body   string
		code   int
		text   string
	}{
		"dead as a number":             {200, `{"data":{"id":"apn_github","dead":1,"credentials":{"a":"b"}}}`, 400, "is dead"},
		"dead as text":                 {200, `{"data":{"id":"apn_github","dead":"true","credentials":{"a":"b"}}}`, 400, "is dead"},
		"payment":                      {402, `{"error":"x"}`, 400, "payment"},
		"gone":                         {410, `{"error":"x"}`, 400, "is gone"},
		"unprocessable":                {422, `{"error":"x"}`, 400, "rejected the request for account apn_github (HTTP 422)"},
		"bad request":                  {400, `{"error":"x"}`, 400, "rejected the request for account apn_github (HTTP 400)"},
		"an error in a 200":            {200, `{"error":"something else"}`, 502, "an error stands in place of what was asked for"},
		"an error about a field":       {200, `{"error":{"account":["account and user mismatch"]}}`, 502, "an error stands in place of what was asked for"},
		"not found in a 200":           {200, `{"error":"Record not found"}`, 400, "does not know account apn_github"},
		"an end that JSON cannot have": {200, `{"data":{"id":"apn_github","expires_at":"9999-12-31T23:59:59-12:00","credentials":{"a":"b"}}}`, 502, "expires_at"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(_ *testing.T, m *mount) {
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: test.status, Body: test.body})
				_, err := m.read("creds/" + github)
				m.refused(err, test.code, test.text)
			})
		})
	}
}

// An account belongs to the app of a role only if the answer says so.
func TestAnAccountWithoutAnAppBelongsToNoUser(t *testing.T) {
	for name, app := range map[string]string{"none": `null`, "text": `"github"`, "empty": `{}`, "another": `{"id":"app_2","name_slug":"gitlab"}`} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(_ *testing.T, m *mount) {
				m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusOK, Body: fmt.Sprintf(
					`{"page_info":{},"data":[{"id":"apn_x","external_id":"alice","healthy":true,"app":%s,"credentials":{"a":"b"}}]}`, app)})
				_, err := m.read("creds/alices")
				m.refused(err, http.StatusBadRequest, "no healthy account")
			})
		})
	}
}

// An account is found even if the answer has the id of a custom OAuth client instead
// of the app's.
func TestAccountsOfACustomOAuthClient(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.OAuthAppID = "oa_1" })
		other := connectAccount("apn_other", "alice")
		other.OAuthAppID = "oa_2"
		m.sim.SetAccount(other)
		m.role("alices", map[string]any{"app": "github", "external_user_id": "alice", "oauth_app_id": "oa_1"})
		require.Equal(t, "apn_alice", m.creds("alices").Data["pipedream_account_id"])
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindList), "one search for a role's first read")
	})
}

// Fat accounts and pages leave memory as it was.
func TestLargeAnswersDoNotGrowMemory(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		_, err := m.write("config", map[string]any{"rate_limit": 0})
		require.NoError(t, err)
		fat := fmt.Sprintf(`{"data":{"id":"%%s","credentials":{"token":"%s"}}}`, strings.Repeat("x", 3_900_000))
		before := heap()
		for i := range 60 {
			id := fmt.Sprintf("apn_fat%d", i)
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: id, Times: 1, Status: http.StatusOK, Body: fmt.Sprintf(fat, id)})
			_, err := m.read("creds/" + id)
			m.refused(err, http.StatusBadGateway, id, "more than 1 MiB")
		}
		require.Less(t, heap(), before+32<<20)
	})
}

// Refresh tokens are left out under any name, and wherever they are.
func TestRefreshTokensUnderOtherNames(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.SetAccount(pipedreamtest.Account{ID: "apn_odd", RawCredentials: json.RawMessage(
			`{"token":"t","refresh_token_v2":"pdr","GoogleRefreshToken":"pdr","tokens":{"refresh_token":"pdr","access":1.50},"text":"{\"refreshToken\":\"pdr\",\"a\":[1]}"}`)})
		data := m.creds("apn_odd").Data
		require.Equal(t, map[string]any{"token": "t", "tokens": `{"access":1.50}`, "text": `{"a":[1]}`, "pipedream_account_id": "apn_odd"}, data)
	})
}

// A read or list shows no control characters, which a terminal would obey.
func TestNoControlCharactersAreShown(t *testing.T) {
	const bad = "\x1b]0;gone\x07\x1b[2J"
	clean := func(t *testing.T, data any) {
		t.Helper()
		raw, err := json.Marshal(data)
		require.NoError(t, err)
		require.NotContains(t, string(raw), `\u001b`)
		require.NotContains(t, string(raw), `\u0007`)
	}
	connectBubble(t, func(t *testing.T, m *mount) {
		a := connectAccount("apn_bad", "user"+bad)
		a.Name, a.Error, a.Unhealthy = "n"+bad, "e"+bad, true
		a.App = pipedreamtest.App{ID: "app_" + bad, Slug: "s" + bad, Name: "N" + bad, AuthType: "oauth" + bad}
		a.Credentials = map[string]any{"field" + bad: "value"}
		m.sim.SetAccount(a)
		for _, path := range []string{"creds/apn_bad", "static-creds/apn_bad", "accounts/apn_bad"} {
			resp, err := m.read(path)
			require.NoError(t, err)
			clean(t, resp.Data)
		}
		resp, err := m.handle(logical.ListOperation, "accounts/", nil)
		require.NoError(t, err)
		clean(t, resp.Data)
	})
}

// A credential without an end has an announced refresh. It is not fetched before that,
// and its lease ends by then.
func TestACredentialWithoutExpiryThatIsRefreshed(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		next := time.Now().Add(50 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: "apn_gh", Status: http.StatusOK, Body: fmt.Sprintf(
			`{"data":{"id":"apn_gh","expires_at":null,"next_refresh_at":%q,"credentials":{"token":"t"}}}`, next.Format(time.RFC3339))})
		for time.Until(next) > 2*time.Second {
			require.LessOrEqual(t, m.creds("apn_gh").Secret.TTL, time.Until(next))
			m.periodic()
			require.Len(t, m.sim.Requests(), 1)
			time.Sleep(min(10*time.Minute, max(time.Second, time.Until(next)-time.Second)))
		}
		time.Sleep(time.Minute)
		m.creds("apn_gh")
		require.Len(t, m.sim.Requests(), 2)
	})
}

// rate_limit is what Pipedream allows for the kind of connection, unless it is set.
func TestRateLimitByKindOfConnection(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		requireLimit := func(limit int) {
			t.Helper()
			for _, path := range []string{"config", "status"} {
				resp, err := m.read(path)
				require.NoError(t, err)
				require.Equal(t, limit, resp.Data["rate_limit"], path)
			}
		}
		m.creds("apn_alice")
		requireLimit(400)
		m.configureClient(map[string]any{"project_id": testProject, "rate_limit": 50})
		m.creds("apn_alice")
		requireLimit(50)
		m.configureClient(map[string]any{"project_id": testProject, "rate_limit": -1})
		m.creds("apn_alice")
		requireLimit(400)
	})
	bubble(t, func(t *testing.T, m *mount) {
		resp, err := m.read("config")
		require.NoError(t, err)
		require.Equal(t, 100, resp.Data["rate_limit"])
	})
}

// After any trouble no goroutine of a fetch is left, nothing is held off, and accounts
// are served again.
func TestChaosLeavesNothingBehind(t *testing.T) {
	seeds := 12 // make soak runs more
	if more, err := strconv.Atoi(os.Getenv("CHAOS_SEEDS")); err == nil {
		seeds = more
	}
	for seed := range seeds {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, m *mount) {
				m.chaos(rand.New(rand.NewPCG(uint64(seed), 9))) //nolint:gosec // dice
				time.Sleep(6 * time.Minute)
				synctest.Wait()
				stacks := stacksOfBubble(t)
				require.Contains(t, stacks, "TestChaosLeavesNothingBehind")
				require.NotContains(t, stacks, "internal/fetch.(*Fetcher)", "goroutines of a fetch")
				for _, i := range []int{1, 100, 399} {
					require.Equal(t, m.sim.Token(accountName(i)), m.token(accountName(i)))
				}
				resp, err := m.read("status")
				require.NoError(t, err)
				require.Zero(t, resp.Data["held_off_accounts"])
			}, pipedreamtest.WithLimit(0))
		})
	}
}

// stacksOfBubble returns the stacks of the goroutines in the bubble of its caller.
func stacksOfBubble(t *testing.T) string {
	t.Helper()
	stacks := make([]byte, 1<<20)
	n := runtime.Stack(stacks, true)
	for ; n == len(stacks); n = runtime.Stack(stacks, true) {
		stacks = make([]byte, 2*len(stacks))
	}
	all := strings.Split(string(stacks[:n]), "\n\n") // the caller's is the first
	header, _, _ := strings.Cut(all[0], "\n")
	_, bubble, ok := strings.Cut(header, ", synctest bubble ")
	require.True(t, ok, header)
	var own []string
	for _, stack := range all {
		if header, _, _ := strings.Cut(stack, "\n"); strings.HasSuffix(header, ", synctest bubble "+bubble) {
			own = append(own, stack)
		}
	}
	return strings.Join(own, "\n\n")
}

// chaos makes everything happen at once: faults, passes, writes of config, and readers
// who give up.
func (m *mount) chaos(r *rand.Rand) {
	m.fleet(400)
	faults := []pipedreamtest.Fault{
		{Hang: true},
		{Cut: true},
		{Garbage: true},
		{Status: 500},
		{Status: 403},
		{Status: 404},
		{CutBody: true},
		{Delay: 7 * time.Second},
		{Status: 429, Header: http.Header{"Retry-After": {"3"}}},
		{Status: 401},
	}
	var under sync.WaitGroup
	var removes []func()
	for range 200 {
		switch r.IntN(9) {
		case 0:
			fault := faults[r.IntN(len(faults))]
			fault.Times = 1 + r.IntN(20)
			removes = append(removes, m.sim.AddFault(fault))
		case 1:
			if r.IntN(3) == 0 {
				_, _ = m.write("config", map[string]any{"min_ttl": 60 + r.IntN(100), "rate_limit": []int{0, 5, 100}[r.IntN(3)]})
			}
		case 2:
			under.Go(m.periodic)
		default:
			from := r.IntN(350)
			for i := from; i < from+r.IntN(50); i++ {
				under.Go(func() {
					ctx, cancel := context.WithTimeout(m.Context(), time.Duration(i%30+1)*time.Second)
					defer cancel()
					request := &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + accountName(i), Storage: m.storage}
					if i%2 == 1 {
						request.Operation, request.Path = logical.UpdateOperation, "refresh/"+accountName(i)
					}
					_, _ = m.b.HandleRequest(ctx, request)
				})
			}
		}
		time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
	}
	under.Wait()
	for _, remove := range removes {
		remove()
	}
}

// An element of a list that is no object does not hide the others.
func TestAListElementThatIsNoObject(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{
			Kind: pipedreamtest.KindList, Status: http.StatusOK,
			Body: `{"page_info":{"total_count":3},"data":[{"id":"apn_a"},"x",{"id":"not an id"},null]}`,
		})
		resp, err := m.handle(logical.ListOperation, "accounts/", nil)
		require.NoError(t, err)
		require.Equal(t, []string{"apn_a"}, resp.Data["keys"])
	})
}
