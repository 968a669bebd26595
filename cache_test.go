package pipedream

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/durable"
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
