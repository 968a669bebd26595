package pipedream

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/credential"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestCredsOAuth(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		resp := m.creds(github)

		require.Equal(t, m.sim.Token(github), resp.Data["oauth_access_token"])
		require.Equal(t, github, resp.Data["pipedream_account_id"])
		require.Equal(t, "github", resp.Data["pipedream_app"])
		require.Equal(t, "Octo Cat", resp.Data["pipedream_account_name"])
		require.NotContains(t, resp.Data, "oauth_refresh_token")
		for name, value := range resp.Data {
			require.IsType(t, "", value, name)
		}

		expires, err := time.Parse(time.RFC3339, resp.Data["expires_at"].(string))
		require.NoError(t, err)
		require.WithinDuration(t, m.sim.ExpiresAt(github), expires, time.Second)
		require.Equal(t, time.Hour, resp.Secret.TTL)
		require.False(t, resp.Secret.Renewable)
		require.Empty(t, resp.Warnings)
	})
}

func TestCredsAreTheSameBytesUntilTheTokenChanges(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		first, err := json.Marshal(m.creds(github).Data)
		require.NoError(t, err)
		time.Sleep(30 * time.Minute)
		second, err := json.Marshal(m.creds(github).Data)
		require.NoError(t, err)
		require.Equal(t, string(first), string(second))
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
	})
}

func TestCredsByUpdate(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		read := m.creds(github)
		updated, err := m.write("creds/"+github, nil)
		require.NoError(t, err)
		require.Equal(t, read.Data, updated.Data)
		require.Equal(t, read.Secret.TTL, updated.Secret.TTL)
	})
}

func TestCredsOfAKeyAccount(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		resp := m.creds(stripe)
		require.Equal(t, "sk_live_0123456789", resp.Data["api_key"])
		require.NotContains(t, resp.Data, "expires_at")
		require.NotContains(t, resp.Data, "pipedream_account_name")
		require.Equal(t, defaultStaticTTL, resp.Secret.TTL)
	})
}

// A key rotated in Pipedream must reach every reader within static_ttl. So a reader who
// comes later gets a shorter lease.
func TestLeaseOfAKeyEndsWhenItIsConfirmed(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(stripe)
		time.Sleep(50 * time.Minute)
		m.sim.Update(stripe, func(a *pipedreamtest.Account) { a.Credentials = map[string]any{"api_key": "sk_live_rotated"} })
		late := m.creds(stripe)
		require.Equal(t, 10*time.Minute, late.Secret.TTL)
		time.Sleep(late.Secret.TTL)
		require.Equal(t, "sk_live_rotated", m.creds(stripe).Data["api_key"])
	})
}

func TestLeaseTTL(t *testing.T) {
	tests := map[string]struct {
		life     time.Duration
		maxLease time.Duration
		want     time.Duration
	}{
		"an hour":               {life: time.Hour, want: time.Hour},
		"rounded down":          {life: 90*time.Second + 900*time.Millisecond, want: 90 * time.Second},
		"3 s":                   {life: 3 * time.Second, want: 3 * time.Second},
		"2 s":                   {life: 2 * time.Second, want: 2 * time.Second},
		"above the mount's max": {life: 48 * time.Hour, maxLease: 24 * time.Hour, want: 24 * time.Hour},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *mount) {
				if test.maxLease > 0 {
					m.system.MaxLeaseTTLVal = test.maxLease
				}
				a := oauthAccount("apn_life", test.life)
				a.OmitNextRefresh = true
				a.RefreshBefore = time.Nanosecond
				m.sim.SetAccount(a)
				resp := m.creds("apn_life")
				require.Equal(t, test.want, resp.Secret.TTL)
				require.Empty(t, resp.Warnings)
			})
		})
	}
}

// A lease under a second would be rounded to 0, which Vault takes for 768 h. One under
// two seconds is too short for consul-template.
func TestACredentialAtItsEndIsFetchedAgain(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.SetAccount(oauthAccount("apn_brief", 10*time.Second))
		first := m.token("apn_brief")
		time.Sleep(time.Until(m.sim.ExpiresAt("apn_brief")) - 1900*time.Millisecond)
		resp := m.creds("apn_brief")
		require.NotEqual(t, first, resp.Data["oauth_access_token"])
		require.GreaterOrEqual(t, resp.Secret.TTL, credential.MinServable)
		require.LessOrEqual(t, resp.Secret.TTL, 10*time.Second)
	})
}

func TestAnExpiredCredentialIsNeverServed(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		a := oauthAccount("apn_stuck", 5*time.Second)
		a.NoRefresh = true
		m.sim.SetAccount(a)
		m.creds("apn_stuck")
		time.Sleep(10 * time.Second)
		_, err := m.read("creds/apn_stuck")
		m.refused(err, http.StatusBadGateway, "apn_stuck", "expired")
	})
}

func TestCredsValuesKeepTheirExactText(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.SetAccount(pipedreamtest.Account{
			ID: "apn_odd",
			RawCredentials: json.RawMessage(`{"big": 1152921504606846976, "fraction": 1.10, "yes": true, "none": null,
				"list": [1, "two"], "object": {"b": 1, "a": {"c": null}}, "empty": "", "": "no name", "quote": "\"<é&>"}`),
		})
		data := m.creds("apn_odd").Data
		require.Equal(t, map[string]any{
			"big": "1152921504606846976", "fraction": "1.10", "yes": "true",
			"list": `[1,"two"]`, "object": `{"b":1,"a":{"c":null}}`, "empty": "", "": "no name", "quote": `"<é&>`,
			"pipedream_account_id": "apn_odd",
		}, data)
	})
}

// reserved are the names that the documentation lists.
var reserved = []string{
	"expires_at", "certificate", "expiration", "secret_id", "secret_id_ttl", "rotation_period", "rotation_schedule",
	"last_vault_rotation", "ttl", "metadata", "data", "error", "renewable", "lease_id", "lease_duration", "lease_renewable",
	"request_id", "refresh_interval", "_raw",
}

func TestReservedNamesAreRenamed(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		credentials := map[string]any{"credential_ttl": "taken", "plain": "kept", "http_status_code": 500, "pipedream_app": "mine"}
		for _, name := range reserved {
			credentials[name] = "value of " + name
		}
		a := oauthAccount("apn_reserved", time.Hour)
		a.Credentials = credentials
		m.sim.SetAccount(a)
		data := m.creds("apn_reserved").Data

		for _, name := range reserved {
			if name != "expires_at" {
				require.NotContains(t, data, name)
			}
			if name != "ttl" {
				require.Equal(t, "value of "+name, data["credential_"+name])
			}
		}
		require.Equal(t, "taken", data["credential_ttl"])
		require.Equal(t, "value of ttl", data["credential_credential_ttl"])
		require.Equal(t, "500", data["credential_http_status_code"])
		require.Equal(t, "mine", data["credential_pipedream_app"])
		require.Equal(t, "github", data["pipedream_app"])
		require.Equal(t, "kept", data["plain"])
		_, err := time.Parse(time.RFC3339, data["expires_at"].(string))
		require.NoError(t, err)
	})
}

func TestRefreshTokens(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		require.NotContains(t, m.creds(github).Data, "oauth_refresh_token")
		stored, err := m.storage.below().Get(t.Context(), m.cacheKey(github))
		require.NoError(t, err)
		require.NotContains(t, string(stored.Value), "pdrefresh_", "what is not exposed is not stored either")

		_, err = m.write("config", map[string]any{"expose_refresh_token": true})
		require.NoError(t, err)
		exposed := m.creds(github).Data
		require.Contains(t, exposed["oauth_refresh_token"], "pdrefresh_")

		_, err = m.write("config", map[string]any{"expose_refresh_token": false})
		require.NoError(t, err)
		requests := m.sim.Count(pipedreamtest.KindAccount)
		require.NotContains(t, m.creds(github).Data, "oauth_refresh_token")
		require.Equal(t, requests, m.sim.Count(pipedreamtest.KindAccount))
	})
}

func TestARefreshTokenAloneIsNoCredential(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		m.sim.SetAccount(pipedreamtest.Account{ID: "apn_rt", Credentials: map[string]any{"oauth_refresh_token": "pdrefresh_only"}})
		_, err := m.read("creds/apn_rt")
		m.refused(err, http.StatusBadRequest, "apn_rt", "expose_refresh_token")
	})
}

func TestBadAccountIDsCostNoRequest(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		for _, id := range []string{"", "..", "../config", "a b", "apn_", "apn_é", "github", "%2e%2e", "apn_a;b", "apn_" + strings.Repeat("x", 10_000)} {
			for _, path := range []string{"creds/", "static-creds/", "accounts/"} {
				if path == "accounts/" && id == "" {
					continue // that is the list
				}
				_, err := m.read(path + id)
				m.refused(err, http.StatusBadRequest, "account_id")
			}
			_, err := m.write("refresh/"+id, nil)
			m.refused(err, http.StatusBadRequest, "account_id")
		}
		require.Empty(t, m.sim.Requests())
	})
}

func TestMinTTLOfARead(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		a := oauthAccount(github, time.Hour)
		a.OmitNextRefresh = true
		a.RefreshBefore = 30 * time.Minute
		m.sim.SetAccount(a)
		first := m.token(github)
		time.Sleep(35 * time.Minute)
		require.Equal(t, first, m.token(github))

		resp, err := m.handle(logical.ReadOperation, "creds/"+github, map[string]any{"min_ttl": "30m"})
		require.NoError(t, err)
		require.NotEqual(t, first, resp.Data["oauth_access_token"])

		_, err = m.handle(logical.ReadOperation, "creds/"+github, map[string]any{"min_ttl": "soon"})
		require.ErrorContains(t, err, "min_ttl")
	})
}

func TestRevokeNeedsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		secret := m.creds(github).Secret
		_, err := m.handle(logical.DeleteOperation, "config", nil)
		require.NoError(t, err)
		m.sim.Close()
		m.storage.fail(errStorage, errStorage, errStorage, errStorage)

		_, err = m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.RevokeOperation, Secret: secret, Storage: m.storage})
		require.NoError(t, err)
		_, err = m.b.HandleRequest(t.Context(), &logical.Request{Operation: logical.RenewOperation, Secret: secret, Storage: m.storage})
		require.ErrorIs(t, err, logical.ErrUnsupportedOperation)
	})
}

func TestRevokeDoesNotEvict(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		for range 10 {
			_, err := m.b.HandleRequest(t.Context(), &logical.Request{
				Operation: logical.RevokeOperation, Secret: m.creds(github).Secret, Storage: m.storage,
			})
			require.NoError(t, err)
		}
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))
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
