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

	"vault-plugin-secrets-pipedream/internal/cache"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// withSlack gives alice an account of another app, on a custom OAuth client.
func (m *mount) withSlack() {
	a := connectAccount("apn_slack", "alice")
	a.App = pipedreamtest.App{ID: "app_slack", Slug: "slack", Name: "Slack", AuthType: "oauth"}
	a.OAuthAppID, a.Dead, a.Error = "oa_slack", true, "invalid_grant"
	m.sim.SetAccount(a)
}

func TestReadUser(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		time.Sleep(time.Minute)
		m.withSlack()
		resp, err := m.read("users/alice")
		require.NoError(t, err)
		require.Equal(t, "alice", resp.Data["external_user_id"])
		accounts, ok := resp.Data["accounts"].([]any)
		require.True(t, ok)
		require.Len(t, accounts, 2)
		require.Subset(t, accounts[0], map[string]any{"id": "apn_slack", "app": "slack", "dead": true, "healthy": false, "error": "invalid_grant"})
		require.Subset(t, accounts[1], map[string]any{"id": "apn_alice", "app": "github", "dead": false, "healthy": true, "has_credentials": true})
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindList), "one for all apps")
		for user, written := range map[string]string{"carol": "carol", "J\u00e9": "b64:SsOp", "a/../bob": "b64:YS8uLi9ib2I"} {
			resp, err = m.read("users/" + written)
			require.NoError(t, err)
			require.Equal(t, user, resp.Data["external_user_id"])
			require.Empty(t, resp.Data["accounts"])
		}
		_, err = m.read("users/J\u00e9")
		m.refused(err, http.StatusBadRequest, "is written b64:SsOp in a path")
		_, err = m.read("users/")
		m.refused(err, http.StatusBadRequest, "must end in an external user id")
		for _, r := range m.sim.Requests() {
			require.NotContains(t, r.Path, "bob")
		}
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusBadGateway})
		_, err = m.read("users/alice")
		m.refused(err, http.StatusBadGateway, "Pipedream is not available")
	})
}

func TestRemoveUser(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.withSlack()
		m.sim.Update("apn_slack", func(a *pipedreamtest.Account) { a.Dead = false })
		m.role("github", eachUsersGithub)
		m.role("slack", map[string]any{"app": "slack", "oauth_app_id": "oa_slack", "external_user_id": "alice"})
		_, err := m.as("alice")
		require.NoError(t, err)
		_, err = m.as("bob")
		require.NoError(t, err)
		m.creds("slack")
		resp, err := m.handle(logical.DeleteOperation, "users/alice", nil)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"apn_alice", "apn_slack"}, resp.Data["disconnected"])
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.Len(t, keys, 3, "bob, his account, and that alice was removed: %v", keys)
		for range 2 {
			_, err = m.read("creds/slack")
			require.Error(t, err)
			_, err = m.as("alice")
			require.Error(t, err)
			_, err = m.as("bob")
			require.NoError(t, err)
			m.start()
		}
		resp, err = m.handle(logical.DeleteOperation, "users/alice", nil)
		require.NoError(t, err)
		require.Empty(t, resp.Data["disconnected"])
		require.Contains(t, strings.Join(resp.Warnings, ""), `does not know external user "alice"`)
		time.Sleep(10 * time.Minute)
		m.sim.SetAccount(connectAccount("apn_again", "alice"))
		resp, err = m.as("alice")
		require.NoError(t, err, "who comes back is served again")
		require.Equal(t, "apn_again", resp.Data["pipedream_account_id"])
	})
}

// What alice had is in storage alone, and Pipedream no longer lists it.
func forgottenBubble(t *testing.T, f func(*testing.T, *mount)) {
	t.Helper()
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		m.role("alices", map[string]any{"account_id": "apn_alice"})
		_, err := m.as("alice")
		require.NoError(t, err)
		m.creds("apn_bob")
		time.Sleep(time.Minute)
		m.start()
		m.sim.DeleteAccount("apn_alice")
		f(t, m)
	})
}

// A removal outlives restarts, also for accounts that were deleted before it.
func TestARemovedUserStaysRemoved(t *testing.T) {
	for name, down := range map[string]bool{"Pipedream answers": false, "Pipedream is down": true} {
		t.Run(name, func(t *testing.T) {
			forgottenBubble(t, func(t *testing.T, m *mount) {
				_, err := m.handle(logical.DeleteOperation, "users/alice", nil)
				require.NoError(t, err)
				if down {
					m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusServiceUnavailable})
				}
				for range 3 {
					_, err = m.as("alice")
					require.Error(t, err)
					_, err = m.askAs("alice", logical.ReadOperation, "creds/github", map[string]any{"account": "apn_alice"})
					require.Error(t, err)
					for _, path := range []string{"creds/apn_alice", "static-creds/apn_alice", "creds/alices"} {
						_, err = m.read(path)
						require.Error(t, err, path)
					}
					m.creds("apn_bob")
					m.periodic()
					m.start()
				}
			})
		})
	}
}

// A refused removal changes nothing, also after a restart.
func TestAUserWhoIsNotRemovedIsServed(t *testing.T) {
	for _, before := range []bool{false, true} {
		connectBubble(t, func(t *testing.T, m *mount) {
			m.role("github", eachUsersGithub)
			if before { // removed once, and back since
				_, err := m.handle(logical.DeleteOperation, "users/alice", nil)
				require.NoError(t, err)
				time.Sleep(10 * time.Minute)
				m.sim.SetAccount(connectAccount("apn_alice", "alice"))
			}
			_, err := m.as("alice")
			require.NoError(t, err)
			time.Sleep(time.Minute)
			m.sim.AddFault(pipedreamtest.Fault{Where: isRemoval, Status: http.StatusForbidden})
			_, err = m.handle(logical.DeleteOperation, "users/alice", nil)
			m.refused(err, http.StatusBadRequest, "was not removed, and nothing was changed")
			m.start()
			m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusServiceUnavailable})
			_, err = m.as("alice")
			require.NoError(t, err, "from storage")
		})
	}
}

// If storage cannot note it, nobody is removed.
func TestARemovalOfAUserThatCannotBeStored(t *testing.T) {
	forgottenBubble(t, func(t *testing.T, m *mount) {
		m.storage.fail(nil, errStorage, nil, nil)
		_, err := m.handle(logical.DeleteOperation, "users/alice", nil)
		m.refused(err, http.StatusInternalServerError, "nothing was changed", "Vault's storage could not be written to")
		require.Empty(t, m.removes())
	})
}

// If storage cannot tell who was removed, nobody is served from it.
func TestRemovalsThatCannotBeRead(t *testing.T) {
	forgottenBubble(t, func(t *testing.T, m *mount) {
		_, err := m.handle(logical.DeleteOperation, "users/alice", nil)
		require.NoError(t, err)
		m.creds("apn_bob")
		time.Sleep(time.Minute)
		m.start()
		m.storage.fail(nil, nil, nil, errStorage)
		m.creds("apn_bob")
		_, err = m.as("alice")
		require.Error(t, err)
		require.Contains(t, m.logs.String(), "which users were removed could not be read from storage")
	})
}

// storeRemovals has storage remember removals.
func (m *mount) storeRemovals(at map[string]time.Time) {
	m.Helper()
	entries := map[string]map[string]time.Time{}
	for id, when := range at {
		key := cache.Prefix + m.storedConfig().UsersID + "/removed/" + cache.User{ExternalID: id}.Key()[:2]
		if entries[key] == nil {
			entries[key] = map[string]time.Time{}
		}
		entries[key][id] = when
	}
	for key, value := range entries {
		entry, err := logical.StorageEntryJSON(key, value)
		require.NoError(m, err)
		require.NoError(m, m.storage.Put(m.Context(), entry))
	}
}

// The clock of the server was ahead when alice was removed, and is right by now. She is
// back.
func TestARemovalByAClockThatWasAhead(t *testing.T) {
	tokenBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		m.storeRemovals(map[string]time.Time{"alice": time.Now().Add(10 * time.Minute)})
		m.start()
		m.sim.ResetRequests()
		for _, path := range []string{"creds/github", "creds/own", "creds/apn_alice"} {
			_, err := m.handleAs("alice", logical.ReadOperation, path)
			require.NoError(t, err, path)
		}
		m.tokenOfGithub()
		_, err := m.as("alice")
		require.NoError(t, err)
		require.LessOrEqual(t, len(m.sim.Requests()), 10)
	})
}

// However many were removed, each of them stays so.
func TestManyRemovedUsersStayRemoved(t *testing.T) {
	forgottenBubble(t, func(t *testing.T, m *mount) {
		_, err := m.handle(logical.DeleteOperation, "users/alice", nil)
		require.NoError(t, err)
		many := map[string]time.Time{"alice": time.Now()}
		for i := range 20_000 {
			many[fmt.Sprintf("user-%d", i)] = time.Now().Add(time.Duration(i) * time.Millisecond)
		}
		m.storeRemovals(many)
		time.Sleep(time.Minute)
		m.start()
		_, err = m.read("creds/alices")
		require.Error(t, err)
		m.creds("apn_bob")
	})
}

// Two removals of a user overlap. One is refused, and the other one succeeds later.
func TestARefusedRemovalBesideOneThatSucceeds(t *testing.T) {
	forgottenBubble(t, func(t *testing.T, m *mount) {
		remove := func(answer pipedreamtest.Fault) <-chan error {
			answer.Where, answer.Times = isRemoval, 1
			m.sim.AddFault(answer)
			done := make(chan error, 1)
			go func() {
				_, err := m.handle(logical.DeleteOperation, "users/alice", nil)
				done <- err
			}()
			time.Sleep(500 * time.Millisecond)
			return done
		}
		refused := remove(pipedreamtest.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}, Delay: time.Second})
		removed := remove(pipedreamtest.Fault{Performed: true, Status: http.StatusNoContent, Delay: 3 * time.Second})
		require.Error(t, <-refused)
		require.NoError(t, <-removed)
		m.start()
		_, err := m.read("creds/alices")
		require.Error(t, err)
		_, err = m.as("alice")
		require.Error(t, err)
	})
}

// The first client after a restart gives up while storage is asked who was removed.
func TestAClientThatGivesUpWhileRemovalsAreRead(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		_, err := m.as("alice")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		_, err = m.handle(logical.DeleteOperation, "users/bob", nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		m.start()
		m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusServiceUnavailable})
		m.slowOnce("get", cache.Prefix+m.storedConfig().UsersID+"/removed/"+cache.User{ExternalID: "bob"}.Key()[:2], 100*time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err = m.b.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/apn_alice", Storage: m.storage, MountPoint: "pipedream/"})
		require.Error(t, err)
		time.Sleep(time.Second)
		_, err = m.as("alice")
		require.NoError(t, err, "from storage")
	})
}

// Storage hangs at the start, and many users were removed.
func TestRemovalsThatHang(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.creds(github)
		many := map[string]time.Time{}
		for i := range 2000 {
			many[fmt.Sprintf("user-%d", i)] = time.Now()
		}
		m.storeRemovals(many)
		m.start()
		m.delay(func(op, key string) time.Duration {
			if op == "get" && strings.Contains(key, "/removed/") {
				return time.Hour
			}
			return 0
		})
		began := time.Now()
		m.creds(github)
		require.LessOrEqual(t, time.Since(began), 6*time.Second)
	})
}

// The sweeps delete what storage has of a removed user, and of nobody else.
func TestSweepsDeleteWhatARemovedUserHad(t *testing.T) {
	forgottenBubble(t, func(t *testing.T, m *mount) {
		_, err := m.handle(logical.DeleteOperation, "users/alice", nil)
		require.NoError(t, err)
		m.periodic()
		keys, err := m.cachedKeys()
		require.NoError(t, err)
		require.NotContains(t, keys, "apn_alice")
		require.Contains(t, keys, "apn_bob")
	})
}

// Storage remembers a removal for a month.
func TestARemovalIsForgottenInTheEnd(t *testing.T) {
	forgottenBubble(t, func(t *testing.T, m *mount) {
		removals := func() []string {
			keys, err := m.storage.List(t.Context(), cache.Prefix+m.storedConfig().UsersID+"/removed/")
			require.NoError(t, err)
			return keys
		}
		_, err := m.handle(logical.DeleteOperation, "users/alice", nil)
		require.NoError(t, err)
		time.Sleep(29 * 24 * time.Hour)
		m.start()
		m.creds("apn_bob")
		require.Len(t, removals(), 1)
		time.Sleep(2 * 24 * time.Hour)
		m.start()
		m.creds("apn_bob")
		require.Empty(t, removals())
	})
}

// An id is one segment of the path to Pipedream, whatever is in it.
func TestRemoveUsersWithOddIDs(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		for _, user := range []string{"a/b", "a b", "é", "a?b=c", "a#b", "100%", "%2e%2e", "a\\b", "a..b", "~", "+1 (555)", strings.Repeat("名", 250)} {
			m.sim.SetAccount(connectAccount("apn_odd", user))
			resp, err := m.handle(logical.DeleteOperation, "users/"+segmentOfUser(user), nil)
			require.NoError(t, err, user)
			require.Equal(t, []string{"apn_odd"}, resp.Data["disconnected"], user)
			require.Len(t, resp.Warnings, 1, user)
		}
		m.creds("apn_alice")
		m.creds("apn_bob")
	})
}

// What a user connects while they are being removed is removed, too.
func TestAnAccountThatComesDuringTheRemovalOfItsUser(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindDeleteUser, Delay: 5 * time.Second})
		var removed sync.WaitGroup
		removed.Go(func() {
			_, err := m.handle(logical.DeleteOperation, "users/alice", nil)
			require.NoError(t, err)
		})
		time.Sleep(time.Second)
		m.sim.SetAccount(connectAccount("apn_late", "alice"))
		m.creds("apn_late")
		removed.Wait()
		for range 2 {
			_, err := m.read("creds/apn_late")
			require.Error(t, err)
			m.start()
		}
	})
}

// If the user's accounts cannot be listed, their stored copies cannot be found.
func TestAUserWhoseAccountsCannotBeListedIsNotRemoved(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 429, 500, 502} {
		connectBubble(t, func(t *testing.T, m *mount) {
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: status})
			_, err := m.handle(logical.DeleteOperation, "users/alice", nil)
			require.Error(t, err)
			require.Empty(t, m.removes())
		})
	}
}

// A refused removal keeps an earlier one, also if storage could not be listed at the start.
func TestARefusedRemovalKeepsAnEarlierOne(t *testing.T) {
	forgottenBubble(t, func(t *testing.T, m *mount) {
		_, err := m.handle(logical.DeleteOperation, "users/alice", nil)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		m.storage.fail(nil, nil, nil, errStorage)
		m.start()
		m.creds("apn_bob")
		m.storage.fail(nil, nil, nil, nil)
		remove := m.sim.AddFault(pipedreamtest.Fault{Where: isRemoval, Status: http.StatusForbidden})
		_, err = m.handle(logical.DeleteOperation, "users/alice", nil)
		require.Error(t, err)
		remove()
		time.Sleep(time.Minute)
		m.start()
		_, err = m.read("creds/alices")
		require.Error(t, err)
	})
}

// Storage keeps what it has if a removal is refused because it cannot delete.
func TestARemovalRefusedByStorageChangesNothing(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		_, err := m.as("alice")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		m.storage.fail(nil, nil, errStorage, nil)
		_, err = m.handle(logical.DeleteOperation, "users/alice", nil)
		m.refused(err, http.StatusInternalServerError, "nothing was changed")
		m.storage.fail(nil, nil, nil, nil)
		time.Sleep(time.Minute)
		m.periodic()
		time.Sleep(time.Minute)
		m.start()
		m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusServiceUnavailable})
		_, err = m.as("alice")
		require.NoError(t, err, "from storage")
	})
}
