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

// An account can become another user's while its token stays the same.
func TestAnAccountThatChangesOwner(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.sim.DeleteAccount("apn_bob")
		m.role("github", eachUsersGithub)
		_, err := m.as("alice")
		require.NoError(t, err)
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.ExternalUserID = "bob" })
		time.Sleep(time.Minute)
		_, err = m.as("bob")
		require.NoError(t, err, "bob gets his account")
		_, err = m.as("alice")
		require.Error(t, err, "alice does not get bob's account")
		m.start()
		_, err = m.as("bob")
		require.NoError(t, err, "bob gets his account after a restart")
	})
}

// The owner that a fetch found is known after a restart.
func TestARestartRemembersTheOwner(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.sim.DeleteAccount("apn_bob")
		m.role("github", eachUsersGithub)
		_, err := m.as("alice")
		require.NoError(t, err)
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.ExternalUserID = "bob" })
		time.Sleep(time.Minute)
		_, err = m.write("refresh/apn_alice", nil) // the engine learns of it
		require.NoError(t, err)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusInternalServerError})
		_, err = m.as("alice")
		require.Error(t, err)
		m.start()
		_, err = m.as("alice")
		require.Error(t, err, "alice and bob's account")
	})
}

// readForAliceAndBob reads the accounts of two users, each with a role of their own.
func (m *mount) readForAliceAndBob() {
	m.Helper()
	m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
	m.role("bobs", map[string]any{"app": "github", "external_user_id": "bob"})
	m.creds("alices")
	m.creds("bobs")
}

// Users are found with a new client while the cache of the old one is still being
// emptied. They are not forgotten.
func TestEmptyingTheCacheKeepsUsersFoundMeanwhile(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.readForAliceAndBob()
		m.slow(0, 0, time.Second)
		var write sync.WaitGroup
		write.Go(m.rotateClient)
		time.Sleep(500 * time.Millisecond)
		m.creds("alices")
		m.creds("bobs")
		write.Wait()
		m.stayRemembered("alices", "bobs")
	})
}

// A sweep that has seen a user's old account does not forget the new one.
func TestASweepForgetsNoUserWhoConnectedAgain(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
		m.creds("alices")
		time.Sleep(2 * time.Hour)
		m.start()
		m.sim.DeleteAccount("apn_alice")
		m.sim.SetAccount(connectAccount("apn_alice2", "alice")) // she connected it again
		m.slowOnce("get", m.aliceKey(), 2*time.Second)
		var sweep sync.WaitGroup
		sweep.Go(m.periodic)
		time.Sleep(time.Second)
		m.creds("alices")
		sweep.Wait()
		m.stayRemembered("alices")
	})
}

// Neither does a sweep that began under an earlier configuration.
func TestASweepThatBeganBeforeAChangeOfKey(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.readForAliceAndBob()
		time.Sleep(2 * time.Hour)
		m.start()
		m.slow(500*time.Millisecond, 0, 0)
		var sweep sync.WaitGroup
		sweep.Go(m.periodic)
		time.Sleep(100 * time.Millisecond)
		m.rotateClient()
		m.creds("alices")
		m.creds("bobs")
		sweep.Wait()
		m.stayRemembered("alices", "bobs")
	})
}

// A reader gives up before storage has answered. That is no reason to ask Pipedream.
func TestAReaderOfARoleWhoGivesUpCostsNoSearch(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
		m.creds("alices")
		m.start()
		m.sim.ResetRequests()
		m.slow(2*time.Second, 0, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.b.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/alices", Storage: m.storage})
		require.Error(t, err)
		time.Sleep(10 * time.Second)
		require.Empty(t, m.sim.Requests(), "requests for a live token")
	})
}

// Nothing is stored for a user who was never found, so nothing needs to be deleted.
func TestAUserWithoutAnAccountCostsNoWrite(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("carols", map[string]any{"app": "github", "external_user_id": "carol"})
		for range 10 {
			_, err := m.read("creds/carols")
			m.refused(err, http.StatusBadRequest)
			time.Sleep(time.Minute)
		}
		require.Empty(t, m.storage.dels)
	})
}

// The answer for one account may not say whose it is. The owner is then the one that
// the list named, and a new token has no owner until the list is asked.
func TestAnOwnerIsNotForgotten(t *testing.T) {
	tests := map[string]func(*mount){
		"bob reads":   func(m *mount) { _, _ = m.as("bob") },
		"alice reads": func(*mount) {},
		"a restart": func(m *mount) {
			_, _ = m.as("bob")
			m.start()
		},
		"after its end": func(m *mount) {
			time.Sleep(2 * time.Hour)
			m.periodic()
			_, _ = m.as("bob")
		},
	}
	for name, after := range tests {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				m.sim.DeleteAccount("apn_bob")
				m.role("github", eachUsersGithub)
				_, err := m.as("alice")
				require.NoError(t, err)
				m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.ExternalUserID, a.OmitOwner = "bob", true })
				time.Sleep(time.Minute)
				_, err = m.as("bob")
				require.NoError(t, err, "the list says it is bob's")
				time.Sleep(59 * time.Minute) // another token
				after(m)
				_, err = m.as("alice")
				require.Error(t, err, "alice does not get bob's account")
				_, err = m.as("bob")
				require.NoError(t, err, "bob gets his account")
			})
		})
	}
}

// Users are served even if no answer for one account says whose it is.
func TestUsersOfAnswersWithoutAnOwner(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		for _, who := range []string{"alice", "bob"} {
			m.sim.Update("apn_"+who, func(a *pipedreamtest.Account) { a.OmitOwner = true })
		}
		const lives = 10
		for minute := range lives * 60 {
			for _, who := range []string{"alice", "bob"} {
				resp, err := m.as(who)
				require.NoError(t, err)
				require.Equal(t, "apn_"+who, resp.Data["pipedream_account_id"])
			}
			if minute%7 == 0 {
				m.periodic()
			}
			if minute%50 == 49 {
				m.start()
			}
			time.Sleep(time.Minute)
		}
		require.LessOrEqual(t, m.sim.Count(pipedreamtest.KindList), 2*(lives+1))
	})
}

// An invalid id gets into no error, log line, path or key of storage.
func TestAUserWhoseAccountHasAnInvalidID(t *testing.T) {
	const words = "pdtok_of_somebody"
	for name, id := range map[string]string{
		"words": words, "control": words + "\\u001b[31m", "a folder": "users/abc", "up": "../role/x", "too long": strings.Repeat("a", 300_000),
	} {
		t.Run(name, func(t *testing.T) {
			for _, credentials := range []string{"null", `{"a":"b"}`} {
				connectBubble(t, func(t *testing.T, m *mount) {
					m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
					m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusOK, Body: fmt.Sprintf(
						`{"page_info":{},"data":[{"id":"%s","external_id":"alice","healthy":true,"app":{"name_slug":"github"},"credentials":%s}]}`, id, credentials)})
					_, err := m.read("creds/alices")
					m.refused(err, http.StatusBadRequest, `external user "alice" has no healthy account`)
					require.NotContains(t, err.Error()+m.logs.String(), words)
					require.Less(t, len(m.logs.String()), 100_000)
					require.Zero(t, m.storage.writes("cache/"))
				})
			}
		})
	}
}

// While storage cannot be read, nobody knows which account a user has. They are told
// so, and get no other account in its place.
func TestAUserWhoseAccountCannotBeRead(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		require.Equal(t, "apn_alice", m.accountOf("alice"))
		m.sim.SetAccount(connectAccount("apn_second", "alice"))
		m.start()
		_, err := m.as("bob") // loads config and role
		require.NoError(t, err)
		m.storage.fail(errStorage, nil, nil, nil)
		_, err = m.as("alice")
		m.refused(err, http.StatusInternalServerError, "could not be read from Vault's storage")
		m.storage.fail(nil, nil, nil, nil)
		m.slowOnce("get", m.aliceKey(), 30*time.Second)
		_, err = m.as("alice")
		m.refused(err, http.StatusInternalServerError, "could not be read from Vault's storage")
		require.Equal(t, "apn_alice", m.accountOf("alice"))
	})
}

// What storage refuses at first is stored by the next pass.
func TestAUserWhoseAccountCouldNotBeStored(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		m.storage.fail(nil, errStorage, nil, nil)
		require.Equal(t, "apn_alice", m.accountOf("alice"))
		m.periodic()
		m.storage.fail(nil, nil, nil, nil)
		m.periodic()
		m.sim.SetAccount(connectAccount("apn_second", "alice"))
		m.sim.ResetRequests()
		m.start()
		require.Equal(t, "apn_alice", m.accountOf("alice"))
		require.Empty(t, m.sim.Requests(), "its credential was stored, too")
	})
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

// An account turns unhealthy, and is read every three hours.
func TestAnUnhealthyAccountThatIsRarelyRead(t *testing.T) {
	ownBubble(t, func(t *testing.T, m *mount) {
		m.served("alice")
		time.Sleep(time.Minute)
		a := connectAccount("apn_second", "alice")
		a.OAuthAppID = "oa_ours"
		m.sim.SetAccount(a)
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Unhealthy = true })
		for range 5 {
			for range 3 * 60 {
				time.Sleep(time.Minute)
				m.periodic()
			}
			id, _ := m.served("alice")
			require.Equal(t, "apn_second", id)
		}
	})
}
