package pipedream

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pace"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// wrongAnswers are answers for apn_alice in Pipedream's own form, all of them wrong.
var wrongAnswers = map[string]pipedreamtest.Fault{
	"401":              {Status: http.StatusUnauthorized},
	"403":              {Status: http.StatusForbidden},
	"404":              {Status: http.StatusNotFound},
	"410":              {Status: http.StatusGone},
	"400":              {Status: http.StatusBadRequest, Body: `{"error":{"account":["account and user mismatch"]}}`},
	"record not found": {Status: http.StatusOK, Body: `{"error":"record not found"}`},
	"an error":         {Status: http.StatusOK, Body: `{"error":{"account":["account and user mismatch"]}}`},
	"dead":             {Status: http.StatusOK, Body: `{"data":{"id":"apn_alice","external_id":"alice","dead":true}}`},
	"no credentials":   {Status: http.StatusOK, Body: `{"data":{"id":"apn_alice","external_id":"alice","healthy":true}}`},
	"another account":  {WrongAccount: "apn_bob"},
}

// One answer alone takes nothing away, whatever it says and however it was asked for.
func TestOneWrongAnswerDropsNothing(t *testing.T) {
	ways := map[string]func(*mount){
		"a read":                  func(m *mount) { m.token("alices") },
		"a pass":                  func(m *mount) { m.periodic() },
		"a refresh":               func(m *mount) { _, _ = m.write("refresh/apn_alice", nil) },
		"a refresh of the user's": func(m *mount) { _, _ = m.write("refresh/alices", nil) },
	}
	for name, wrong := range wrongAnswers {
		for way, ask := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				connectBubble(t, func(t *testing.T, m *mount) {
					m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
					before := m.token("alices")
					time.Sleep(56 * time.Minute) // due; it lives for four more minutes
					m.sim.ResetRequests()
					wrong.Kind, wrong.AccountID, wrong.Times = pipedreamtest.KindAccount, "apn_alice", 1
					m.sim.AddFault(wrong)
					ask(m)
					time.Sleep(100 * time.Millisecond)
					require.NotZero(t, m.sim.Count(pipedreamtest.KindAccount), "it was asked for")
					remove := m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusBadGateway}) // so that nothing makes up for a loss
					live := []string{before, m.sim.Token("apn_alice")}
					require.Contains(t, live, m.token("alices"))
					m.start()
					require.Contains(t, live, m.token("alices"), "after a restart")
					remove()
					m.start()
					m.creds("apn_bob")
					require.Zero(t, m.searches("alice"), "the user is remembered")
				})
			})
		}
	}
}

// Nor does a page of the list that says that an account is dead.
func TestOneWrongPageDropsNothing(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.creds("apn_alice")
		time.Sleep(59 * time.Minute) // a read waits for a new token
		m.sim.AddFault(pipedreamtest.Fault{
			Kind: pipedreamtest.KindList, Times: 1, Delay: time.Second, Status: http.StatusOK,
			Body: `{"page_info":{"total_count":1},"data":[{"id":"apn_alice","external_id":"alice","dead":true}]}`,
		})
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 500 * time.Millisecond})
		var readers sync.WaitGroup
		for i := range 20 {
			id := accountName(i)
			m.sim.SetAccount(connectAccount(id, id))
			readers.Go(func() { m.creds(id) })
		}
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, m.sim.Token("apn_alice"), m.token("apn_alice"))
		readers.Wait()
	})
}

// A user whose live account is missing from one list is remembered. One whose account
// was refused once, and who is in the list with it, keeps it, too.
func TestOneWrongAnswerForgetsNoUser(t *testing.T) {
	t.Run("a list", func(t *testing.T) {
		connectBubble(t, func(t *testing.T, m *mount) {
			m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Unhealthy = true })
			m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
			m.creds("alices")
			time.Sleep(10 * time.Minute)
			m.sim.ResetRequests()
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Times: 1, Delay: 8 * time.Second, Status: http.StatusOK, Body: `{"page_info":{"total_count":0},"data":[]}`})
			m.creds("alices")
			require.Equal(t, 1, m.searches("alice"), "for a healthier account")
			time.Sleep(3*time.Second + 100*time.Millisecond) // it gave up waiting after 5 s
			m.creds("alices")
		})
	})
	for name, wrong := range wrongAnswers {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				m.role("alices", map[string]any{"app": "github", "external_user_id": "alice"})
				m.creds("alices")
				m.sim.SetAccount(connectAccount("apn_alice_second", "alice"))
				time.Sleep(61 * time.Minute) // nothing is live
				wrong.Kind, wrong.AccountID, wrong.Times = pipedreamtest.KindAccount, "apn_alice", 1
				m.sim.AddFault(wrong)
				_, _ = m.read("creds/alices")
				time.Sleep(5 * time.Second)
				require.Equal(t, "apn_alice", m.creds("alices").Data["pipedream_account_id"])
			})
		})
	}
}

// On a mount where nothing else is asked for, one account's 401 is its own, too.
func TestOneAccountsRefusalOnAQuietMount(t *testing.T) {
	for name, configured := range map[string]func(*testing.T, func(*testing.T, *mount), ...pipedreamtest.Option){"an API key": bubble, "an OAuth client": connectBubble} {
		t.Run(name, func(t *testing.T) {
			configured(t, func(t *testing.T, m *mount) {
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: "apn_odd", Status: http.StatusUnauthorized})
				for i := range 10 {
					time.Sleep(5 * time.Minute)
					_, err := m.read("creds/apn_odd")
					m.refused(err, http.StatusBadRequest, "only for account apn_odd")
					cold := connectAccount(accountName(i), "user")
					if name == "an API key" {
						cold = oauthAccount(accountName(i), time.Hour)
					}
					m.sim.SetAccount(cold)
					m.creds(accountName(i))
				}
				status, err := m.read("status")
				require.NoError(t, err)
				require.NotContains(t, status.Data, "held_off_until")
			})
		})
	}
}

// A key that was revoked is noticed with the first account, and no request goes out for
// the others.
func TestARevokedKeyHoldsOffEverybody(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		before := m.token(github)
		time.Sleep(56 * time.Minute)
		m.sim.SetAPIKey("pd_another_key")
		m.sim.ResetRequests()
		_, err := m.read("creds/" + stripe)
		m.refused(err, http.StatusBadRequest, "Pipedream refused the API key")
		require.Len(t, m.sim.Requests(), 2, "the account, and whether the key works")
		require.Equal(t, before, m.token(github), "it is live")
		_, err = m.read("creds/apn_other")
		m.refused(err, http.StatusBadRequest, "Pipedream refused the API key")
		require.Len(t, m.sim.Requests(), 2)
	})
}

// A client that may list no accounts can still find out whether one of them is refused.
func TestARefusedAccountWhereTheListIsRefused(t *testing.T) {
	connectBubble(t, func(_ *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		m.creds("apn_alice")
		m.creds("apn_bob")
		m.sim.DeleteAccount("apn_alice")
		time.Sleep(59 * time.Minute)
		_, err := m.read("creds/apn_alice")
		m.refused(err, http.StatusBadRequest, "does not know account apn_alice")
		m.creds("apn_bob")

		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: http.StatusForbidden})
		time.Sleep(52 * time.Minute)
		m.creds("apn_bob")
		m.periodic()
		time.Sleep(time.Minute)
		m.creds("apn_bob")
		_, err = m.read("creds/apn_carol")
		m.refused(err, http.StatusBadRequest, "Pipedream refused access to the accounts in project "+testProject)
	})
}

// However often one account fails, no other that waits gets its error.
func TestOneAccountsFailuresAreNoOthers(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		m.fleet(40)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: github, Status: http.StatusForbidden, Body: `{"message":"Forbidden"}`})
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Delay: 100 * time.Millisecond})
		for range 5 {
			_, err := m.read("creds/" + github)
			m.refused(err, http.StatusBadGateway, "in a form that is not Pipedream's")
			time.Sleep(time.Minute)
		}
		var readers sync.WaitGroup
		readers.Go(func() { _, _ = m.read("creds/" + github) })
		for i := range 40 {
			readers.Go(func() { m.creds(accountName(i)) })
		}
		readers.Wait()
	})
}

// What a guess costs: one request more for the first time, and none more after that.
func TestWhatAnUnknownNameCosts(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		_, err := m.read("creds/apn_nobody")
		m.refused(err, http.StatusBadRequest, "does not know")
		require.Len(t, m.sim.Requests(), 2)
		time.Sleep(time.Hour)
		_, err = m.read("creds/apn_nobody")
		m.refused(err, http.StatusBadRequest, "does not know")
		require.Len(t, m.sim.Requests(), 3)
	})
}

// If nothing works, nobody knows whether an account is at fault, whatever the list says.
func TestNothingWorksAndTheListIsRefused(t *testing.T) {
	for name, restart := range map[string]bool{"an account worked before": false, "nothing is known since a restart": true} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden})
				before := m.token("apn_alice")
				m.creds("apn_bob")
				time.Sleep(56 * time.Minute) // it is due, and lives for four more minutes
				if restart {
					m.start()
				}
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, Status: http.StatusNotFound})
				for range 3 {
					require.Equal(t, before, m.token("apn_alice"))
					m.periodic()
					time.Sleep(10 * time.Second)
				}
			})
		})
	}
}

// One 404 about the metadata of an account is not taken for a proof later.
func TestAnAnswerAboutMetadataConfirmsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		before := m.token(github)
		time.Sleep(50 * time.Minute)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: github, Times: 1, Status: http.StatusNotFound})
		_, err := m.read("accounts/" + github)
		require.Error(t, err)
		time.Sleep(6 * time.Minute)                                      // it is due
		m.sim.AddFault(pipedreamtest.Fault{Status: http.StatusNotFound}) // whatever is asked for
		for range 2 {
			require.Equal(t, before, m.token(github))
			m.periodic()
			time.Sleep(time.Second)
		}
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

// One account's 401 holds nobody else off, even if there is no budget to confirm it.
func TestOneAccountsRefusalIsConfirmedWithoutBudget(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.configure(map[string]any{"verify": false, "rate_limit": 40})
		m.sim.AddFault(pipedreamtest.Fault{AccountID: "apn_odd", Status: http.StatusUnauthorized})
		m.creds(github)
		_, err := m.read("creds/apn_odd")
		require.Error(t, err)
		time.Sleep(2 * time.Second)
		for range 19 { // all but one of the slots for unproven requests
			release, err := m.b.budget.Acquire(m.b.budget.NewClaim(pace.Unproven, pace.Caller{}).With(t.Context()))
			require.NoError(t, err)
			release()
		}
		m.creds(stripe)
		_, err = m.read("creds/apn_odd")
		require.Error(t, err)
		m.sim.SetAccount(oauthAccount("apn_new", time.Hour))
		m.creds("apn_new")
	})
}
