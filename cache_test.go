package pipedream

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestReadersOfAColdAccountShareOneRequest(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{AccountID: github, Delay: 2 * time.Second})
		var readers sync.WaitGroup
		for range 500 {
			readers.Go(func() {
				if resp, err := m.read("creds/" + github); err != nil || resp.Data["oauth_access_token"] == "" {
					t.Errorf("a reader got nothing: %v", err)
				}
			})
		}
		readers.Wait()
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
	})
}

func TestAReaderThatGivesUpDoesNotCancelTheFetch(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{AccountID: github, Delay: 3 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var patient sync.WaitGroup
		patient.Go(func() {
			if _, err := m.read("creds/" + github); err != nil {
				t.Errorf("the patient reader got nothing: %v", err)
			}
		})
		_, err := m.b.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + github, Storage: m.storage})
		m.refused(err, http.StatusBadGateway)
		patient.Wait()
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
	})
}

func TestAWarmReadTouchesNoStorage(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		used := m.storage.used()
		m.creds(github)
		_, err := m.read("static-creds/" + github)
		require.NoError(t, err)
		require.Equal(t, used, m.storage.used())
	})
}

func TestATokenIsStoredOnceInItsLife(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		for range 12 * 60 {
			m.creds(github)
			m.periodic()
			time.Sleep(time.Minute)
		}
		// A token is refreshed every 55 minutes.
		require.LessOrEqual(t, m.storage.writes("cache/"), 14)
	})
}

func TestARestartCostsNoRequest(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		oauth, key := m.creds(github).Data, m.creds(stripe).Data
		time.Sleep(time.Minute)
		m.start()
		require.Equal(t, oauth, m.creds(github).Data)
		require.Equal(t, key, m.creds(stripe).Data)
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount))
	})
}

func TestDueCredentialsAreFetchedBeforeTheyAreServed(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		a := oauthAccount(github, time.Hour)
		a.OmitNextRefresh, a.RefreshBefore = true, 10*time.Minute
		m.sim.SetAccount(a)
		first := m.token(github)
		time.Sleep(55*time.Minute + time.Second)
		require.NotEqual(t, first, m.token(github))
	})
}

// After Pipedream's own refresh the old token is still valid for a while. Readers do
// not wait for the new one, and the next reader gets it.
func TestReadersDoNotWaitForAnEarlyRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		a := oauthAccount(github, time.Hour)
		a.RefreshBefore = 30 * time.Minute
		m.sim.SetAccount(a)
		first := m.token(github)
		time.Sleep(31 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{AccountID: github, Delay: 2 * time.Second, Times: 1})
		before := time.Now()
		require.Equal(t, first, m.token(github))
		require.Zero(t, time.Since(before))
		time.Sleep(3 * time.Second)
		require.NotEqual(t, first, m.token(github))
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount))
	})
}

// Before Pipedream's own refresh, a request can only bring the same token, so min_ttl
// alone causes none.
func TestNoRequestBeforePipedreamRefreshes(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		a := oauthAccount(github, time.Hour)
		a.RefreshBefore = 2 * time.Minute
		m.sim.SetAccount(a)
		first := m.token(github)
		time.Sleep(57 * time.Minute) // under min_ttl
		require.Equal(t, first, m.token(github))
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))

		time.Sleep(2 * time.Minute) // one minute left: a reader waits for the new one
		require.NotEqual(t, first, m.token(github))
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount))
	})
}

// While Pipedream still hands out the same token, it is asked again only after a
// quarter of the remaining life, and not by every reader.
func TestReadersDoNotAllAskForTheSameToken(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		a := oauthAccount(github, 40*time.Second)
		a.OmitNextRefresh = true
		a.RefreshBefore = time.Millisecond
		m.sim.SetAccount(a)
		for range 38 {
			m.creds(github)
			time.Sleep(time.Second)
		}
		// At 0, 10, 17.5, ... s, and once a second in the last four.
		require.LessOrEqual(t, m.sim.Count(pipedreamtest.KindAccount), 14)
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

func TestFailuresOfTheAccountEvict(t *testing.T) {
	tests := map[string]struct {
		change func(*mount)
		code   int
		text   string
		cost   int // in requests: it is asked for twice, and once whether a refusal is about the account
	}{
		"unknown": {func(m *mount) { m.sim.DeleteAccount(github) }, http.StatusBadRequest, "does not know", 3},
		"forbidden": {func(m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{AccountID: github, Status: http.StatusForbidden})
		}, http.StatusBadRequest, "access", 3},
		"dead": {func(m *mount) {
			m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead, a.Error = true, "pdtok_leak: invalid_grant" })
		}, http.StatusBadRequest, "dead: Pipedream can no longer refresh its credentials (invalid_grant)", 2},
		"no credentials": {func(m *mount) {
			m.sim.Update(github, func(a *pipedreamtest.Account) { a.NoCredentials = true })
		}, http.StatusBadRequest, "no credentials", 2},
		"another account": {func(m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{AccountID: github, WrongAccount: stripe})
		}, http.StatusBadGateway, "another account", 2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				m.creds(github)
				test.change(m)
				time.Sleep(59 * time.Minute)
				m.sim.ResetRequests()
				_, err := m.read("creds/" + github)
				m.refused(err, test.code, github, test.text)
				require.Len(t, m.sim.Requests(), test.cost)

				stored, err := m.storage.below().Get(t.Context(), m.cacheKey(github))
				require.NoError(t, err)
				require.Nil(t, stored)

				// The account is held off: the next answer comes at once and costs no request.
				asked := m.sim.Count(pipedreamtest.KindAccount)
				_, err = m.read("creds/" + github)
				m.refused(err, test.code, github, test.text)
				require.Equal(t, asked, m.sim.Count(pipedreamtest.KindAccount))
			})
		})
	}
}

func TestNotFoundIn200(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		_, err := m.read("creds/apn_nobody")
		m.refused(err, http.StatusBadRequest, "apn_nobody", "does not know")
	}, pipedreamtest.WithNotFoundAs200())
}

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

// An account that is connected after its first failures is found within half a minute,
// or at once after a refresh or a write of config.
func TestANewlyConnectedAccountIsNoticed(t *testing.T) {
	ends := map[string]struct {
		end  func(*mount)
		wait time.Duration
	}{
		"by itself":  {func(*mount) {}, 30 * time.Second},
		"by refresh": {func(m *mount) { _, _ = m.write("refresh/apn_late", nil) }, 0},
		"by config":  {func(m *mount) { m.configure(nil) }, 0},
	}
	for name, test := range ends {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				for range 25 {
					_, err := m.read("creds/apn_late")
					m.refused(err, http.StatusBadRequest, "does not know")
					time.Sleep(time.Second)
				}
				m.sim.SetAccount(oauthAccount("apn_late", time.Hour))
				test.end(m)
				for began := time.Now(); ; time.Sleep(time.Second) {
					if _, err := m.read("creds/apn_late"); err == nil {
						break
					}
					require.LessOrEqual(t, time.Since(began), test.wait)
				}
			})
		})
	}
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

func TestStorageFaults(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.storage.fail(nil, errStorage, errStorage, errStorage)
		m.creds(github)
		require.Contains(t, m.logs.String(), "could not be stored")

		m.storage.fail(nil, nil, nil, nil)
		m.start()
		m.creds(stripe) // loads config
		m.storage.fail(errStorage, errStorage, errStorage, errStorage)
		m.creds(github)
		require.Contains(t, m.logs.String(), "could not be read from storage")
		m.periodic()
		m.noSecretIn(m.logs.String())
	})
}

func TestInvalidStoredEntries(t *testing.T) {
	for name, value := range map[string]string{
		"not JSON":        "pdtok_leak{",
		"null":            "null",
		"another account": `{"credential":{"account_id":"apn_other","fields":{"a":"b"}},"cache_id":"x"}`,
		"no fields":       `{"credential":{"account_id":"apn_github"}}`,
		"another cache":   `{"credential":{"account_id":"apn_github","fields":{"a":"b"},"fetched_at":"2100-01-01T00:00:00Z"},"cache_id":"other","checked_at":"2100-01-01T00:00:00Z"}`,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: "cache/" + github, Value: []byte(value)}))
				require.Equal(t, m.sim.Token(github), m.token(github))
				require.NotContains(t, m.logs.String(), "pdtok_leak")
			})
		})
	}
}

func TestPeriodicFetchesAheadOfReaders(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.SetAccount(oauthAccount("apn_unread", time.Hour))
		m.creds("apn_unread")
		m.creds(github)
		m.creds(stripe)
		m.sim.AddFault(pipedreamtest.Fault{Delay: time.Second})
		for range 3 * 60 {
			time.Sleep(time.Minute)
			before := time.Now()
			m.creds(github)
			m.creds(stripe)
			require.Zero(t, time.Since(before), "readers need not wait")
			m.periodic()
		}
		counts := map[string]int{}
		for _, r := range m.sim.Requests() {
			counts[r.AccountID]++
		}
		require.LessOrEqual(t, counts["apn_unread"], 2, "nobody read it after its first fetch ahead")
		require.LessOrEqual(t, counts[github], 9)
		require.LessOrEqual(t, counts[stripe], 5)
	})
}

func TestPeriodicDropsExpiredCredentials(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.start() // in storage only
		m.sim.SetAccount(oauthAccount("apn_second", time.Hour))
		m.creds("apn_second") // in memory too
		m.periodic()
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.ElementsMatch(t, []string{github, "apn_second"}, keys)

		m.sim.Close()
		time.Sleep(61 * time.Minute)
		m.periodic()
		keys, err = m.cachedKeys()
		require.NoError(t, err)
		require.Empty(t, keys)
	})
}

// Keys that nobody reads any more are not kept forever.
func TestPeriodicDropsAbandonedKeys(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(stripe)
		for range 8 * 24 {
			time.Sleep(time.Hour)
			m.periodic()
		}
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.Empty(t, keys)
		require.LessOrEqual(t, m.sim.Count(pipedreamtest.KindAccount), 2)
	})
}

// On a standby, where another node writes storage, a pass does nothing.
func TestPeriodicOnAStandby(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
		time.Sleep(2 * time.Hour)
		m.periodic()
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.Equal(t, []string{github}, keys)
	})
}

func TestPeriodicUnconfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: "cache/apn_left", Value: []byte("{}")}))
		m.periodic()
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.Empty(t, keys)
	})
}

// A write on another node reaches this one only as an invalidation.
func TestInvalidate(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.sim.SetAPIKey("pd_other_key")
		entry, err := m.storage.Get(t.Context(), "config")
		require.NoError(t, err)
		var c config
		require.NoError(t, entry.DecodeJSON(&c))
		c.APIKey, c.CacheID = "pd_other_key", "another"
		require.NoError(t, writeConfig(t.Context(), m.storage, &c))
		m.b.InvalidateKey(t.Context(), "config")

		m.creds(github)
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount), "the cache of the old key is not served")

		require.NoError(t, m.storage.Delete(t.Context(), m.cacheKey(github)))
		m.b.InvalidateKey(t.Context(), m.cacheKey(github))
		m.creds(github)
		require.Equal(t, 3, m.sim.Count(pipedreamtest.KindAccount))
	})
}

// Accounts come and go for two days. There are new ones every hour, and each is read
// for two hours. Accounts that are gone take neither memory nor storage.
func TestDaysOfAccountsThatComeAndGo(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, m *mount) {
		const each = 5
		most := 0
		for hour := range 2 * 24 {
			for i := range each {
				m.sim.SetAccount(oauthAccount(accountName(hour*each+i), time.Hour))
			}
			for range 3 {
				for i := max(0, hour-1) * each; i < (hour+1)*each; i++ {
					_, err := m.read("creds/" + accountName(i))
					require.NoError(t, err)
				}
				m.periodic()
				time.Sleep(20 * time.Minute)
			}
			if hour > 1 {
				m.sim.DeleteAccount(accountName((hour - 2) * each))
			}
			keys, err := m.cachedKeys()
			require.NoError(t, err)
			most = max(most, len(keys), m.cachedInMemory())
		}
		require.LessOrEqual(t, most, 6*each, "accounts kept at a time")
	})
}

// Storage can take longer than a credential still lives. It is not served after its
// end.
func TestACredentialThatEndsWhileItIsStored(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		a := oauthAccount("apn_late", time.Hour)
		a.NoRefresh, a.OmitNextRefresh = true, true
		m.sim.SetAccount(a)
		time.Sleep(time.Hour - 4*time.Second)
		m.slow(0, time.Hour, 0) // gives up after 5 s
		resp, err := m.read("creds/apn_late")
		if err == nil {
			end, perr := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
			require.NoError(t, perr)
			require.True(t, time.Now().Before(end), "served %s after its end, leased for %s", time.Since(end), resp.Secret.TTL)
		}
	})
}

// A reader gives up before storage has answered. That is no reason to ask Pipedream.
func TestAReaderWhoGivesUpCostsNoFetch(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		m.start()
		m.sim.ResetRequests()
		m.slow(2*time.Second, 0, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.b.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + github, Storage: m.storage})
		require.Error(t, err)
		time.Sleep(10 * time.Second)
		require.Empty(t, m.sim.Requests(), "requests for a live token")
	})
}
