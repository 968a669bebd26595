package pipedream

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	testClientID     = "oauth_client_1"
	testClientSecret = "pd_client_secret_1"
	testProject      = "proj_demo1"
)

// connectBubble runs f with a mount that serves a Connect project as an OAuth
// client, in which alice and bob have a GitHub account each.
func connectBubble(t *testing.T, f func(*testing.T, *mount), opts ...pipedreamtest.Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t, opts...)
		m.sim.SetOAuthClient(testClientID, testClientSecret, time.Hour)
		m.sim.SetAccount(connectAccount("apn_alice", "alice"))
		m.sim.SetAccount(connectAccount("apn_bob", "bob"))
		m.configureClient(map[string]any{"project_id": testProject})
		m.sim.ResetRequests()
		f(t, m)
	})
}

func connectAccount(id, user string) pipedreamtest.Account {
	a := oauthAccount(id, time.Hour)
	a.Project, a.Environment, a.ExternalUserID = testProject, "production", user
	return a
}

func (m *mount) configureClient(data map[string]any) {
	m.Helper()
	require.NoError(m, m.writeClient(data))
}

// writeClient writes config with an OAuth client.
func (m *mount) writeClient(data map[string]any) error {
	m.Helper()
	all := map[string]any{"client_id": testClientID, "client_secret": testClientSecret, "base_url": testBaseURL}
	for name, value := range data {
		all[name] = value
	}
	_, err := m.write("config", all)
	return err
}

func TestOAuthClientReadsTheWorkspace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMount(t)
		m.sim.SetOAuthClient(testClientID, testClientSecret, time.Hour)
		m.sim.SetAccount(oauthAccount(github, time.Hour))
		require.ErrorContains(t, m.writeClient(nil), `set project_id, or another scope`)
		m.configureClient(map[string]any{"scope": "*"})
		require.Equal(t, m.sim.Token(github), m.token(github))

		resp, err := m.read("config")
		require.NoError(t, err)
		require.Equal(t, testClientID, resp.Data["client_id"])
		require.NotContains(t, resp.Data, "client_secret")
		require.NotContains(t, resp.Data, "api_key")
	})
}

func TestConnectAccounts(t *testing.T) {
	for name, opts := range map[string][]pipedreamtest.Option{
		"bare answers":    nil,
		"wrapped answers": {pipedreamtest.WithOldConnectForms()},
	} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				require.Equal(t, m.sim.Token("apn_alice"), m.token("apn_alice"))
				resp, err := m.read("accounts/apn_alice")
				require.NoError(t, err)
				require.Equal(t, "alice", resp.Data["external_user_id"])

				resp, err = m.handle(logical.ListOperation, "accounts/", nil)
				require.NoError(t, err)
				require.ElementsMatch(t, []string{"apn_alice", "apn_bob"}, resp.Data["keys"])
				resp, err = m.handle(logical.ListOperation, "accounts/", map[string]any{"external_user_id": "bob"})
				require.NoError(t, err)
				require.Equal(t, []string{"apn_bob"}, resp.Data["keys"])
				require.Equal(t, "bob", resp.Data["key_info"].(map[string]any)["apn_bob"].(map[string]any)["external_user_id"])
				_, err = m.handle(logical.ListOperation, "accounts/", map[string]any{"external_user_id": strings.Repeat("é", 251)})
				m.refused(err, http.StatusBadRequest, "external_user_id")
			}, opts...)
		})
	}
}

func TestAnotherEnvironmentOrProjectHasOtherAccounts(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.creds("apn_alice")
		for _, change := range []map[string]any{{"environment": "development"}, {"environment": "production", "project_id": "proj_other"}} {
			_, err := m.write("config", change)
			require.NoError(t, err)
			synctest.Wait() // until the old cache is deleted
			keys, err := m.cachedKeys()
			require.NoError(t, err)
			require.Empty(t, keys)
			_, err = m.read("creds/apn_alice")
			m.refused(err, http.StatusBadRequest, "apn_alice", "project", "environment")
		}
	})
}

func TestAccessTokenIsSharedAndRenewed(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		var readers sync.WaitGroup
		for i := range 50 {
			m.sim.SetAccount(connectAccount(accountName(i), "carol"))
			readers.Go(func() {
				if _, err := m.read("creds/" + accountName(i)); err != nil {
					t.Errorf("a reader got nothing: %v", err)
				}
			})
		}
		readers.Wait()
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindToken))

		// It is used until a minute before its end.
		time.Sleep(58 * time.Minute)
		_, err := m.write("refresh/apn_alice", nil)
		require.NoError(t, err)
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindToken))
		time.Sleep(time.Minute + time.Second)
		_, err = m.write("refresh/apn_alice", nil)
		require.NoError(t, err)
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindToken))
	})
}

func TestARefusedAccessTokenIsReplacedOnce(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.creds("apn_alice")
		m.sim.RevokeAccessTokens()
		m.creds("apn_bob")
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindToken))

		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: http.StatusUnauthorized})
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusUnauthorized})
		requests := len(m.sim.Requests())
		time.Sleep(time.Minute)
		_, err := m.write("refresh/apn_alice", nil)
		m.refused(err, http.StatusBadRequest, "OAuth client", "pipedream/config")
		require.Len(t, m.sim.Requests(), requests+5, "refused, twice, a new token, refused again, twice")
	})
}

func TestTokenEndpointFaults(t *testing.T) {
	tests := map[string]struct {
		fault pipedreamtest.Fault
		code  int
	}{
		"refused":           {pipedreamtest.Fault{Status: http.StatusUnauthorized}, http.StatusBadRequest},
		"invalid client":    {pipedreamtest.Fault{Status: http.StatusBadRequest, Body: `{"error":"invalid_client"}`}, http.StatusBadRequest},
		"down":              {pipedreamtest.Fault{Status: http.StatusInternalServerError}, http.StatusBadGateway},
		"throttled":         {pipedreamtest.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"50"}}}, http.StatusTooManyRequests},
		"HTML":              {pipedreamtest.Fault{Garbage: true}, http.StatusBadGateway},
		"no token":          {pipedreamtest.Fault{Status: http.StatusOK, Body: `{"expires_in":3600}`}, http.StatusBadGateway},
		"a token with a CR": {pipedreamtest.Fault{Status: http.StatusOK, Body: `{"access_token":"pd_a\r\npd_b","expires_in":3600}`}, http.StatusBadGateway},
		"no end":            {pipedreamtest.Fault{Status: http.StatusOK, Body: `{"access_token":"pd_a"}`}, http.StatusBadGateway},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				test.fault.Kind = pipedreamtest.KindToken
				remove := m.sim.AddFault(test.fault)
				_, err := m.read("creds/apn_alice")
				m.refused(err, test.code)
				require.Zero(t, m.sim.Count(pipedreamtest.KindAccount))
				remove()
				time.Sleep(time.Minute)
				m.creds("apn_alice")
			})
		})
	}
}

func TestAccessTokensOfAnyLife(t *testing.T) {
	for name, life := range map[string]time.Duration{"brief": 10 * time.Second, "a minute": time.Minute, "years": 100 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				m.sim.SetOAuthClient(testClientID, testClientSecret, life)
				m.start()
				m.creds("apn_alice")
				m.creds("apn_bob")
				require.Equal(t, 1, m.sim.Count(pipedreamtest.KindToken))
			})
		})
	}
}

// No secret may be sent where the other one was meant to go.
func TestSwitchingAuthentication(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.SetOAuthClient(testClientID, testClientSecret, time.Hour)
		m.creds(github)

		m.configureClient(map[string]any{"scope": "*"})
		m.creds(github)
		require.Equal(t, 2, m.sim.Count(pipedreamtest.KindAccount), "the cache was emptied")
		entry, err := m.storage.Get(t.Context(), "config")
		require.NoError(t, err)
		require.NotContains(t, string(entry.Value), testKey)

		_, err = m.write("config", map[string]any{"base_url": "http://[::1]/v1"})
		m.refused(err, http.StatusBadRequest, "client_secret")
		_, err = m.write("config", map[string]any{"client_id": "another"})
		m.refused(err, http.StatusBadRequest, "client_secret")

		m.configure(nil)
		m.creds(github)
		require.Equal(t, 3, m.sim.Count(pipedreamtest.KindAccount))
		entry, err = m.storage.Get(t.Context(), "config")
		require.NoError(t, err)
		require.NotContains(t, string(entry.Value), testClientSecret)
	})
}

func TestAClientSecretCanBeRotatedAlone(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.sim.SetOAuthClient(testClientID, "pd_client_secret_2", time.Hour)
		_, err := m.write("config", map[string]any{"client_secret": "pd_client_secret_wrong"})
		m.refused(err, http.StatusBadRequest, "nothing was changed")
		_, err = m.write("config", map[string]any{"client_secret": "pd_client_secret_2"})
		require.NoError(t, err)
		m.creds("apn_alice")
	})
}

// Connect returns no credentials for accounts that use Pipedream's own OAuth client.
func TestAccountsOfPipedreamsOwnClient(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.NoCredentials = true })
		_, err := m.read("creds/apn_alice")
		m.refused(err, http.StatusBadRequest, "no credentials", "Pipedream's own OAuth client")
	})
}
