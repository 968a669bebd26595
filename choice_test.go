package pipedream

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// twoAccounts gives alice a second GitHub account, which is newer than her first one.
func (m *mount) twoAccounts() {
	m.Helper()
	m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Name = "work" })
	m.sim.Update("apn_bob", func(a *pipedreamtest.Account) { a.Name = "bobs" })
	time.Sleep(time.Minute)
	second := connectAccount("apn_alice2", "alice")
	second.Name = "play"
	m.sim.SetAccount(second)
	m.role("github", eachUsersGithub)
}

// chosen reads a path as alice, with an account.
func (m *mount) chosen(op logical.Operation, path, account string) (*logical.Response, error) {
	m.Helper()
	return m.askAs("alice", op, path, map[string]any{"account": account})
}

func TestAReadNamesOneOfTheUsersAccounts(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.twoAccounts()
		m.sim.SetAccount(connectAccount("apn_carol", "carol"))
		for account, id := range map[string]string{"apn_alice": "apn_alice", "work": "apn_alice", "apn_alice2": "apn_alice2", "play": "apn_alice2"} {
			for _, path := range []string{"creds/github", "static-creds/github"} {
				resp, err := m.chosen(logical.ReadOperation, path, account)
				require.NoError(t, err)
				require.Equal(t, id, resp.Data["pipedream_account_id"], account)
			}
			m.sim.ResetRequests()
			resp, err := m.chosen(logical.UpdateOperation, "refresh/github", account)
			require.NoError(t, err)
			require.Contains(t, resp.Data, "changed")
			for _, r := range m.sim.Requests() {
				require.Equal(t, id, r.AccountID, "a refresh of %s", account)
			}
			time.Sleep(time.Minute)
		}
		m.sim.ResetRequests()
		for range 20 {
			for _, account := range []string{"apn_alice", "work", "play"} {
				_, err := m.chosen(logical.ReadOperation, "creds/github", account)
				require.NoError(t, err)
			}
		}
		require.Empty(t, m.sim.Requests(), "warm reads")
	})
}

// Whatever a caller names, it is never another user's account.
func TestAReadNamesNoAccountOfSomebodyElse(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.twoAccounts()
		_, err := m.handleAs("bob", logical.ReadOperation, "creds/github") // his credential is in the cache
		require.NoError(t, err)
		for account, texts := range map[string][]string{
			"apn_bob":                             {`no account "apn_bob"`, `apn_alice2 ("play"), apn_alice ("work")`},
			"bobs":                                {`no account "bobs"`, "apn_alice2"},
			"Work":                                {`no account "Work"`},
			"work ":                               {`no account "work "`},
			"*":                                   {`no account "*"`},
			"apn_alice,apn_bob":                   {"account begins with apn_"},
			"apn_../apn_bob":                      {"account begins with apn_"},
			"apn_":                                {"account begins with apn_"},
			"apn_" + strings.Repeat("a", 200):     {"account begins with apn_"},
			"":                                    {"account is empty"},
			" ":                                   {"account is empty"},
			"work\n":                              {"characters that can be printed"},
			"wo\x00rk":                            {"characters that can be printed"},
			"work\u202e":                          {"characters that can be printed"},
			"\xff":                                {"characters that can be printed"},
			strings.Repeat("é", 301):              {"300 at most"},
			strings.Repeat("é", 300):              {"no account"},
			strings.Repeat("é", 300) + "…":        {"no account"},
			"bobs\"} {{identity.entity.name}} %s": {`no account "bobs\"} {{identity.entity.name}} %s"`},
		} {
			for _, op := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation} {
				_, err := m.chosen(op, "creds/github", account)
				m.refused(err, http.StatusBadRequest, texts...)
			}
			_, err := m.chosen(logical.UpdateOperation, "refresh/github", account)
			m.refused(err, http.StatusBadRequest, texts...)
		}
		require.Less(t, m.sim.Count(pipedreamtest.KindList), 5, "names that do not exist do not cost a request each")
		resp, err := m.chosen(logical.ReadOperation, "creds/github", "work")
		require.NoError(t, err, "the others' mistakes do not hold off a name that exists")
		require.Equal(t, "apn_alice", resp.Data["pipedream_account_id"])
	})
}

func TestAccountGoesWithARoleForAUser(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.role("alices", map[string]any{"account_id": "apn_alice"})
		for _, path := range []string{"creds/apn_alice", "creds/alices"} {
			_, err := m.chosen(logical.ReadOperation, path, "apn_bob")
			m.refused(err, http.StatusBadRequest, "account goes with a role that has app and external_user_id")
		}
	})
}

func TestTheNameOfTwoAccountsIsNoChoice(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.twoAccounts()
		m.sim.Update("apn_alice2", func(a *pipedreamtest.Account) { a.Name = "work" })
		_, err := m.chosen(logical.ReadOperation, "creds/github", "work")
		m.refused(err, http.StatusBadRequest, `2 accounts are named "work": choose one by its id`, `apn_alice2 ("work"), apn_alice ("work")`)
		_, err = m.chosen(logical.ReadOperation, "creds/github", "apn_alice2")
		require.NoError(t, err)
	})
}

// A choice is about what there is now.
func TestAChoiceFollowsTheAccounts(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(m *mount)
		id     string
		texts  []string
	}{
		"the account was renamed": {
			change: func(m *mount) {
				m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Name = "old" })
			},
			texts: []string{`no account "work"`, `apn_alice ("old")`},
		},
		"another has the name now": {
			change: func(m *mount) {
				m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Name = "old" })
				m.sim.Update("apn_alice2", func(a *pipedreamtest.Account) { a.Name = "work" })
			},
			id: "apn_alice2",
		},
		"the account was deleted, and connected again": {
			change: func(m *mount) {
				m.sim.DeleteAccount("apn_alice")
				again := connectAccount("apn_alice3", "alice")
				again.Name = "work"
				m.sim.SetAccount(again)
			},
			id: "apn_alice3",
		},
		"the account is somebody else's now": {
			change: func(m *mount) {
				m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.ExternalUserID = "bob" })
			},
			texts: []string{`no account "work"`},
		},
		"the account is dead": {
			change: func(m *mount) {
				m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Dead = true })
			},
			texts: []string{"account apn_alice is dead"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				m.twoAccounts()
				_, err := m.chosen(logical.ReadOperation, "creds/github", "work")
				require.NoError(t, err)
				tc.change(m)
				time.Sleep(2 * time.Hour) // its token has ended
				resp, err := m.chosen(logical.ReadOperation, "creds/github", "work")
				if tc.id == "" {
					m.refused(err, http.StatusBadRequest, tc.texts...)
					return
				}
				require.NoError(t, err)
				require.Equal(t, tc.id, resp.Data["pipedream_account_id"])
			})
		})
	}
}

// What the role asks for counts for a named account, too.
func TestAChoiceIsWithinTheRole(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		own := connectAccount("apn_own", "alice")
		own.OAuthAppID = "oa_own"
		m.sim.SetAccount(own)
		slack := connectAccount("apn_slack", "alice")
		slack.App.Slug, slack.App.ID = "slack", "app_slack"
		m.sim.SetAccount(slack)
		m.role("github", map[string]any{"app": "github", "oauth_app_id": "oa_own", "external_user_id": "alice", "fields": "oauth_access_token"})
		resp, err := m.chosen(logical.ReadOperation, "creds/github", "apn_own")
		require.NoError(t, err)
		require.Contains(t, resp.Data, "oauth_access_token")
		require.NotContains(t, resp.Data, "oauth_uid")
		for _, other := range []string{"apn_slack", "apn_alice"} {
			_, err = m.chosen(logical.ReadOperation, "creds/github", other)
			m.refused(err, http.StatusBadRequest, "no account", "apn_own")
		}
	})
}

// During an outage, a named account is served like any other.
func TestAnOutageKeepsAChoice(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.twoAccounts()
		_, err := m.chosen(logical.ReadOperation, "creds/github", "work")
		require.NoError(t, err)
		m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusBadGateway})
		for range 11 {
			time.Sleep(5 * time.Minute)
			_, err := m.chosen(logical.ReadOperation, "creds/github", "work")
			require.NoError(t, err)
		}
	})
}

// A choice by id needs no list after a restart in an outage, and is still the caller's own.
func TestAChoiceOutlivesARestartInAnOutage(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.twoAccounts()
		for range 2 {
			for _, id := range []string{"apn_alice", "apn_alice2"} {
				_, err := m.chosen(logical.ReadOperation, "creds/github", id)
				require.NoError(t, err, id)
			}
			m.creds("apn_bob")
			time.Sleep(time.Minute)
			m.start()
			m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusServiceUnavailable})
		}
		_, err := m.chosen(logical.ReadOperation, "creds/github", "apn_bob")
		require.Error(t, err)
	})
}
