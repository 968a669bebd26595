package pipedream

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// tokenBubble is like connectBubble, with a role that gives each user a Connect token
// for the proxy, one that gives everybody alice's, and one for access tokens.
func tokenBubble(t *testing.T, f func(*testing.T, *mount)) {
	t.Helper()
	connectBubble(t, func(t *testing.T, m *mount) {
		m.config(map[string]any{"allow_access_tokens": true, "allowed_token_scopes": "connect:proxy,connect:accounts:read"})
		m.role("own", map[string]any{
			"credential_type": "connect_token", "scope": "connect:proxy", "external_user_id": eachUsersGithub["external_user_id"],
		})
		m.role("alices", map[string]any{"credential_type": "connect_token", "scope": "connect:proxy", "external_user_id": "alice"})
		m.role("all", map[string]any{"credential_type": "access_token", "scope": "connect:proxy"})
		m.sim.ResetRequests()
		f(t, m)
	})
}

func (m *mount) config(data map[string]any) {
	m.Helper()
	_, err := m.write("config", data)
	require.NoError(m, err)
}

// value reads a token, which must succeed.
func (m *mount) value(path string) string {
	m.Helper()
	resp, err := m.read(path)
	require.NoError(m, err)
	for _, field := range []string{"connect_token", "access_token"} {
		if value, ok := resp.Data[field].(string); ok {
			return value
		}
	}
	m.Fatalf("no token in %v", resp.Data)
	return ""
}

func TestAConnectToken(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		resp, err := m.handleAs("alice", logical.ReadOperation, "creds/own")
		require.NoError(t, err)
		require.Equal(t, 15*time.Minute, resp.Secret.TTL)
		require.False(t, resp.Secret.Renewable)
		value := resp.Data["connect_token"]
		require.Equal(t, map[string]any{
			"connect_token": value, "expires_at": time.Now().Add(15 * time.Minute).UTC().Format(time.RFC3339),
			"pipedream_project_id": testProject, "pipedream_environment": "production",
			"pipedream_external_user_id": "alice", "pipedream_api_url": testBaseURL,
		}, resp.Data)
		require.Equal(t, []map[string]any{{"external_user_id": "alice", "expires_in": 900.0, "scope": "connect:proxy"}}, m.tokenRequests())

		time.Sleep(time.Minute)
		static, err := m.handleAs("alice", logical.ReadOperation, "static-creds/own")
		require.NoError(t, err)
		require.Nil(t, static.Secret)
		require.Equal(t, value, static.Data["connect_token"], "leased reads and others share it")
		require.Equal(t, int64(9*60), static.Data["ttl"], "until a third of its life is left")
		require.Equal(t, int64(15*60), static.Data["rotation_period"])
		require.Equal(t, time.Now().Add(-time.Minute).UTC().Format(time.RFC3339), static.Data["last_vault_rotation"])

		bobs, err := m.handleAs("bob", logical.ReadOperation, "creds/own")
		require.NoError(t, err)
		require.NotEqual(t, value, bobs.Data["connect_token"])
		require.Equal(t, "bob", bobs.Data["pipedream_external_user_id"])
	})
}

func TestAnAccessToken(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		resp, err := m.read("creds/all")
		require.NoError(t, err)
		require.Equal(t, time.Hour, resp.Secret.TTL, "Pipedream chooses its life")
		require.Equal(t, map[string]any{
			"access_token": resp.Data["access_token"], "expires_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
			"pipedream_project_id": testProject, "pipedream_environment": "production", "pipedream_api_url": testBaseURL,
		}, resp.Data)
		require.Contains(t, m.sim.Requests()[0].Body, `"scope":"connect:proxy"`)
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindToken))
	})
}

// A role with an app tells which account the token is for. That needs no credentials.
func TestATokenWithItsAccount(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		a := connectAccount("apn_bare", "carol")
		a.NoCredentials = true
		m.sim.SetAccount(a)
		m.role("github", map[string]any{
			"credential_type": "connect_token", "scope": "connect:proxy", "app": "github", "external_user_id": eachUsersGithub["external_user_id"],
		})
		resp, err := m.as("carol")
		require.NoError(t, err)
		require.Equal(t, "apn_bare", resp.Data["pipedream_account_id"])
		require.Equal(t, "github", resp.Data["pipedream_app"])

		_, err = m.as("dave")
		m.refused(err, http.StatusBadRequest, `external user "dave" has no healthy account with app "github"`, "vault write -force pipedream/connect/github")
		require.Len(t, m.tokenRequests(), 1, "no token without an account")
		id, err := m.sim.Click(m.link("dave", nil))
		require.NoError(t, err)
		resp, err = m.as("dave")
		require.NoError(t, err, "at the first read after the click")
		require.Equal(t, id, resp.Data["pipedream_account_id"])

		// A second account changes nothing by itself, and the first one's end shows.
		time.Sleep(time.Hour)
		m.sim.SetAccount(connectAccount("apn_later", "carol"))
		resp, err = m.as("carol")
		require.NoError(t, err)
		require.Equal(t, "apn_bare", resp.Data["pipedream_account_id"])
		m.sim.DeleteAccount("apn_bare")
		time.Sleep(10 * time.Second)
		_, err = m.handleAs("carol", logical.UpdateOperation, "refresh/github")
		require.NoError(t, err)
		resp, err = m.as("carol")
		require.NoError(t, err)
		require.Equal(t, "apn_later", resp.Data["pipedream_account_id"])
	})
}

// tokenOfGithub gives each user a Connect token with their GitHub account.
func (m *mount) tokenOfGithub() {
	m.Helper()
	m.role("github", map[string]any{
		"credential_type": "connect_token", "scope": "connect:proxy", "app": "github",
		"external_user_id": eachUsersGithub["external_user_id"], "token_ttl": "4h",
	})
}

// A token lives for hours. The account beside it is the one that connect/ names.
func TestATokensAccountFollowsALink(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		a := connectAccount("apn_second", "alice")
		a.OAuthAppID, a.CreatedAt, a.Name = "oa_ours", time.Now().Add(-time.Hour), "work"
		m.sim.SetAccount(a)
		m.setClient("apn_alice")
		m.tokenOfGithub()
		before, err := m.as("alice")
		require.NoError(t, err)
		require.Equal(t, "apn_alice", before.Data["pipedream_account_id"])
		require.Equal(t, "apn_second", m.click(m.link("alice", map[string]any{"account": "work"})))
		for range 3 {
			time.Sleep(10 * time.Second)
			resp, err := m.as("alice")
			require.NoError(t, err)
			require.Equal(t, "apn_second", resp.Data["pipedream_account_id"])
			require.Equal(t, before.Data["connect_token"], resp.Data["connect_token"], "it opens both")
			require.Equal(t, "apn_second", m.connect("alice", logical.ReadOperation, nil).Data["account_id"])
		}
	})
}

func TestATokensAccountIsRemoved(t *testing.T) {
	for name, remove := range removals {
		t.Run(name, func(t *testing.T) {
			tokenBubble(t, func(t *testing.T, m *mount) {
				m.tokenOfGithub()
				_, err := m.as("alice")
				require.NoError(t, err)
				_, err = remove(m)
				require.NoError(t, err)
				for range 3 {
					_, err = m.as("alice")
					m.refused(err, http.StatusBadRequest, `external user "alice" has no healthy account with app "github"`)
					time.Sleep(time.Hour)
				}
			})
		})
	}
}

// The same for an account without credentials, in place of one that is gone.
func TestATokensAccountFollowsALinkWithoutCredentials(t *testing.T) {
	for name, gone := range map[string]bool{"gone": true, "still there": false} {
		t.Run(name, func(t *testing.T) {
			tokenBubble(t, func(t *testing.T, m *mount) {
				a := connectAccount("apn_bare", "carol")
				a.NoCredentials = true
				m.sim.SetAccount(a)
				m.tokenOfGithub()
				_, err := m.as("carol")
				require.NoError(t, err)
				time.Sleep(time.Minute)
				wish := map[string]any{"reconnect": true}
				if gone {
					m.sim.DeleteAccount("apn_bare")
					wish = nil
				}
				link, connected := m.link("carol", wish), "apn_other"
				if gone {
					connected = m.click(link)
					m.sim.Update(connected, func(a *pipedreamtest.Account) { a.NoCredentials = true })
				} else { // whoever opens a link can sign in to another account
					other := connectAccount(connected, "carol")
					other.NoCredentials = true
					m.sim.SetAccount(other)
				}
				for range 3 {
					time.Sleep(20 * time.Second)
					resp, err := m.as("carol")
					require.NoError(t, err)
					require.Equal(t, m.connect("carol", logical.ReadOperation, nil).Data["account_id"], resp.Data["pipedream_account_id"])
				}
				resp, err := m.as("carol")
				require.NoError(t, err)
				require.Equal(t, connected, resp.Data["pipedream_account_id"])
			})
		})
	}
}

// It was removed after a restart, and nobody can tell what there is now.
func TestATokensAccountIsRemovedInAnOutage(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		m.tokenOfGithub()
		_, err := m.as("alice")
		require.NoError(t, err)
		m.start()
		_, err = m.handle(logical.DeleteOperation, "accounts/apn_alice", nil)
		require.NoError(t, err)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusServiceUnavailable})
		_, err = m.as("alice")
		m.refused(err, http.StatusBadGateway, "Pipedream is not available")
	})
}

// Deleted in Pipedream, and then disconnected through Vault.
func TestATokensAccountIsGoneAlready(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		m.tokenOfGithub()
		_, err := m.as("alice")
		require.NoError(t, err)
		m.sim.DeleteAccount("apn_alice")
		_, err = m.disconnect("alice", nil)
		require.NoError(t, err)
		_, err = m.as("alice")
		m.refused(err, http.StatusBadRequest, `external user "alice" has no healthy account with app "github"`)
	})
}

// A user without an account is looked for ever more rarely, until somebody asks for a refresh.
func TestARefreshFindsTheAccountOfAToken(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		m.tokenOfGithub()
		for range 20 {
			_, err := m.as("carol")
			require.Error(t, err)
			time.Sleep(time.Minute)
		}
		_, err := m.as("carol")
		require.Error(t, err)
		m.sim.SetAccount(connectAccount("apn_carol", "carol"))
		_, err = m.as("carol")
		require.Error(t, err)
		time.Sleep(6 * time.Second)
		_, err = m.handleAs("carol", logical.UpdateOperation, "refresh/github")
		require.NoError(t, err)
		resp, err := m.as("carol")
		require.NoError(t, err)
		require.Equal(t, "apn_carol", resp.Data["pipedream_account_id"])
	})
}

// connect/ and a link take an account for what the role's reads do, whatever its state.
func TestAConnectionWithoutCredentials(t *testing.T) {
	for name, unhealthy := range map[string]bool{"healthy": false, "unhealthy": true} {
		t.Run(name, func(t *testing.T) {
			tokenBubble(t, func(t *testing.T, m *mount) {
				a := connectAccount("apn_bare", "carol")
				a.NoCredentials, a.Unhealthy = true, unhealthy
				m.sim.SetAccount(a)
				m.tokenOfGithub()
				resp, err := m.as("carol")
				require.NoError(t, err)
				require.Equal(t, "apn_bare", resp.Data["pipedream_account_id"])
				got := m.connect("carol", logical.ReadOperation, nil)
				require.Equal(t, true, got.Data["connected"])
				require.Equal(t, "apn_bare", got.Data["account_id"])
				require.Equal(t, "apn_bare", reconnects(t, m.link("carol", map[string]any{"reconnect": true})))
			})
		})
	}
}

// However many read one token, it costs one request in its life.
func TestReadersShareAToken(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		for range 3 {
			var all sync.WaitGroup
			values := make(chan string, 1000)
			for range 1000 {
				all.Go(func() { values <- m.value("static-creds/alices") })
			}
			all.Wait()
			close(values)
			first := <-values
			for value := range values {
				require.Equal(t, first, value)
			}
			time.Sleep(3 * time.Minute)
		}
		require.Len(t, m.tokenRequests(), 1)
	})
}

func TestEachUserCostsOneToken(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		for range 2 {
			for i := range 1000 {
				_, err := m.handleAs(fmt.Sprintf("user-%d", i), logical.ReadOperation, "static-creds/own")
				require.NoError(t, err)
			}
		}
		require.Len(t, m.tokenRequests(), 1000)
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindToken), "with one access token")
	})
}

// A token is due when a third of its life is left, or less if less is demanded. Nobody
// gets more by min_ttl.
func TestWhenATokenIsDue(t *testing.T) {
	for ttl, cases := range map[string]map[string]time.Duration{
		"15m": {"0": 10 * time.Minute, "6m": 10 * time.Minute, "100h": 10 * time.Minute},
		"1m":  {"0": 40 * time.Second, "50s": 40 * time.Second},
		"4h":  {"0": 4*time.Hour - 5*time.Minute, "1h": 3 * time.Hour, "3h": 160 * time.Minute},
	} {
		for minTTL, due := range cases {
			tokenBubble(t, func(t *testing.T, m *mount) {
				m.role("alices", map[string]any{"token_ttl": ttl})
				read := func() any {
					resp, err := m.handle(logical.ReadOperation, "static-creds/alices", map[string]any{"min_ttl": minTTL})
					require.NoError(t, err)
					return resp.Data["connect_token"]
				}
				first := read()
				time.Sleep(due)
				require.Equal(t, first, read(), "%s, min_ttl %s", ttl, minTTL)
				time.Sleep(time.Second)
				second := read()
				require.NotEqual(t, first, second, "%s, min_ttl %s", ttl, minTTL)
				require.Equal(t, second, read())
			})
		}
	}
}

// A live token is served whatever Pipedream says. Each failure holds only its own kind
// of token off.
func TestATokenOutlivesAnOutage(t *testing.T) {
	for _, status := range []int{http.StatusTooManyRequests, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusInternalServerError} {
		tokenBubble(t, func(t *testing.T, m *mount) {
			connect, access := m.value("creds/alices"), m.value("creds/all")
			remove := m.sim.AddFault(pipedreamtest.Fault{
				Where:  func(r pipedreamtest.Request) bool { return r.Method == http.MethodPost },
				Status: status, Header: http.Header{"Retry-After": {"60"}},
			})
			time.Sleep(14 * time.Minute)
			m.sim.ResetRequests()
			for range 50 {
				require.Equal(t, connect, m.value("creds/alices"), "status %d", status)
				require.Equal(t, access, m.value("static-creds/all"))
			}
			require.LessOrEqual(t, len(m.sim.Requests()), 9, "status %d holds off", status)
			time.Sleep(2 * time.Minute)
			_, err := m.read("creds/alices")
			require.Error(t, err, "it has ended")
			m.refused(err, map[int]int{429: 429, 500: 502, 401: 400, 403: 400, 404: 400}[status])
			remove()
			time.Sleep(time.Minute)
			require.NotEqual(t, connect, m.value("creds/alices"))
		})
	}
}

// The limit of one user holds nobody else off, and no reader of accounts.
func TestA429OfOneUser(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{
			Kind: pipedreamtest.KindConnectToken, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"60"}},
			Where: func(r pipedreamtest.Request) bool { return strings.Contains(r.Body, `"alice"`) },
		})
		_, err := m.handleAs("alice", logical.ReadOperation, "creds/own")
		m.refused(err, http.StatusTooManyRequests, "there are no more Connect tokens for this external user at the moment", "try again in 60 s")
		sent := len(m.tokenRequests())
		_, err = m.read("creds/alices")
		m.refused(err, http.StatusTooManyRequests, "try again in 60 s")
		require.Len(t, m.tokenRequests(), sent, "she is held off through any role")
		_, err = m.handleAs("bob", logical.ReadOperation, "creds/own")
		require.NoError(t, err)
		m.creds("apn_alice")
	})
}

// The request for a token goes on when the reader who caused it is gone.
func TestATokenIsKeptForTheNextReader(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindConnectToken, Delay: 10 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.b.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/alices", Storage: m.storage})
		require.Error(t, err)
		time.Sleep(10 * time.Second)
		m.value("creds/alices")
		require.Len(t, m.tokenRequests(), 1)
	})
}

// A write of config ends all tokens that were kept, and so does a restart, as after a
// seal. Nothing of them is ever stored.
func TestTokensAreInMemoryAlone(t *testing.T) {
	for name, end := range map[string]func(*mount){
		"a write of config": func(m *mount) { m.config(map[string]any{"min_ttl": "2m"}) },
		"a restart":         (*mount).start,
		"another client":    (*mount).rotateClient,
		"another project":   func(m *mount) { m.config(map[string]any{"project_id": "proj_other", "verify": false}) },
		"another environment": func(m *mount) {
			m.config(map[string]any{"environment": "development"})
		},
	} {
		tokenBubble(t, func(t *testing.T, m *mount) {
			before := m.storage.writes("")
			connect, access := m.value("static-creds/alices"), m.value("static-creds/all")
			m.value("creds/alices")
			require.Equal(t, before, m.storage.writes(""), "reads of tokens store nothing")
			end(m)
			require.NotEqual(t, connect, m.value("static-creds/alices"), name)
			require.NotEqual(t, access, m.value("static-creds/all"), name)
		})
	}
}

// What was asked for before a change of client is handed out to those who asked then,
// and to nobody after.
func TestATokenOfTheClientBefore(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindConnectToken, Times: 1, Delay: 5 * time.Second, Performed: true})
		var early string
		var read sync.WaitGroup
		read.Go(func() { early = m.value("creds/alices") })
		time.Sleep(time.Second)
		m.rotateClient()
		late := m.value("creds/alices")
		read.Wait()
		require.NotEqual(t, early, late)
		require.Equal(t, late, m.value("creds/alices"))
	})
}

func TestRefreshOfAToken(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		old := m.value("creds/alices")
		resp, err := m.write("refresh/alices", nil)
		require.NoError(t, err)
		require.Equal(t, false, resp.Data["changed"], "it was made a moment ago")
		time.Sleep(10 * time.Second)
		resp, err = m.write("refresh/alices", nil)
		require.NoError(t, err)
		require.Equal(t, true, resp.Data["changed"])
		require.Equal(t, time.Now().Add(15*time.Minute).UTC().Format(time.RFC3339), resp.Data["expires_at"])
		require.NotEqual(t, old, m.value("creds/alices"))

		time.Sleep(10 * time.Second)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindConnectToken, Status: http.StatusInternalServerError})
		current := m.value("creds/alices")
		_, err = m.write("refresh/alices", nil)
		m.refused(err, http.StatusBadGateway, "no Connect token could be made: Pipedream is not available")
		require.Equal(t, current, m.value("creds/alices"), "the old one stays")
	})
}

// One caller who has tokens replaced all the time costs the others nothing.
func TestOneCallerCannotUseUpAUsersTokens(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		for i := range 20 {
			m.role(fmt.Sprintf("alices-%d", i), map[string]any{
				"credential_type": "connect_token", "scope": "connect:proxy", "external_user_id": "alice", "token_ttl": fmt.Sprintf("%dm", 10+i),
			})
		}
		refused := 0
		for i := range 300 {
			if _, err := m.handleAs("mallory", logical.UpdateOperation, fmt.Sprintf("refresh/alices-%d", i%20)); err != nil {
				m.refused(err, http.StatusTooManyRequests, "you have had 10 tokens replaced in the last minute")
				refused++
			}
			time.Sleep(time.Second)
		}
		require.Greater(t, refused, 200)
		require.LessOrEqual(t, len(m.tokenRequests()), 60, "in five minutes")
		_, err := m.handleAs("bob", logical.UpdateOperation, "refresh/alices")
		require.NoError(t, err)
	})
}

// A backend that may name any user shares the limit with others.
func TestCallersShareTheLimitOfTokens(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindConnectToken, Delay: 100 * time.Millisecond})
		users := make([]string, 1050)
		for i := range users {
			users[i] = fmt.Sprintf("role-%d", i)
			m.role(users[i], map[string]any{"credential_type": "connect_token", "scope": "connect:proxy", "external_user_id": fmt.Sprintf("u%d", i)})
		}
		var all sync.WaitGroup
		for _, user := range users {
			all.Go(func() { _, _ = m.handleAs("greedy", logical.ReadOperation, "creds/"+user) })
		}
		time.Sleep(time.Second)
		for i := range 100 {
			_, err := m.handleAs(fmt.Sprintf("modest-%d", i), logical.ReadOperation, "creds/own")
			require.NoError(t, err, "reader %d", i)
		}
		all.Wait()
		require.LessOrEqual(t, len(m.tokenRequests()), maxConnectTokens)
	})
}

// An account that is gone is not named beside a new token either, while nobody can list what
// there is.
func TestATokensAccountOfARemovedUser(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		tokenBubble(t, func(t *testing.T, m *mount) {
			m.tokenOfGithub()
			_, err := m.as("alice")
			require.NoError(t, err)
			time.Sleep(time.Minute)
			m.sim.DeleteAccount("apn_alice")
			if restarted {
				m.start()
			}
			_, err = m.handle(logical.DeleteOperation, "users/alice", nil)
			require.NoError(t, err)
			time.Sleep(time.Minute)
			if restarted {
				m.start()
			}
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusServiceUnavailable})
			_, err = m.as("alice")
			require.Error(t, err)
		})
	}
}
