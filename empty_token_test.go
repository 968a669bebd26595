package pipedream

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// emptyTokens are access tokens of which nothing is there.
var emptyTokens = map[string]any{"null": nil, "empty": "", "blank": " "}

const lacksToken = "its answer could not be understood: its oauth_access_token is empty"

// loseToken makes Pipedream hand out the account without its token, but with all of its
// other fields.
func (m *mount) loseToken(id string, value any) {
	m.sim.Update(id, func(a *pipedreamtest.Account) { a.Credentials = map[string]any{"oauth_access_token": value} })
}

func TestAnEmptyTokenReplacesNoLiveOne(t *testing.T) {
	for name, value := range emptyTokens {
		for how, override := range map[string]map[string]any{"": nil, " that never ends": {"expires_at": nil}} {
			t.Run(name+how, func(t *testing.T) {
				bubble(t, func(t *testing.T, m *mount) {
					token := m.token(github)
					ends := m.sim.ExpiresAt(github)
					m.loseToken(github, value)
					m.sim.Update(github, func(a *pipedreamtest.Account) { a.Override = override })
					time.Sleep(50 * time.Minute)
					for time.Until(ends) > 25*time.Second {
						time.Sleep(20 * time.Second)
						m.periodic()
						require.Equal(t, token, m.token(github))
					}
					_, err := m.write("refresh/"+github, nil)
					m.refused(err, http.StatusBadGateway, lacksToken)
					require.Equal(t, token, m.token(github))
					m.start()
					require.Equal(t, token, m.token(github), "after a restart")

					time.Sleep(time.Minute)
					_, err = m.read("creds/" + github)
					m.refused(err, http.StatusBadGateway, lacksToken)
					m.sim.SetAccount(oauthAccount(github, time.Hour))
					time.Sleep(time.Minute)
					require.Equal(t, m.sim.Token(github), m.token(github))
				})
			})
		}
	}
}

func TestAColdReadWithoutATokenSaysSo(t *testing.T) {
	for name, value := range emptyTokens {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(_ *testing.T, m *mount) {
				m.loseToken(github, value)
				_, err := m.read("creds/" + github)
				m.refused(err, http.StatusBadGateway, lacksToken)
				m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead = true })
				time.Sleep(time.Minute)
				_, err = m.read("creds/" + github)
				m.refused(err, http.StatusBadRequest, "account apn_github is dead")
			})
		})
	}
}

// A page with such an account serves the others, and takes no token away either.
func TestAnEmptyTokenOnAPage(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.fleet(60)
		bad := accountName(0)
		token := m.token(bad)
		m.loseToken(bad, nil)
		time.Sleep(50 * time.Minute)
		require.Empty(t, m.readFleet(0, 60))
		require.Equal(t, token, m.token(bad))
	})
}

func TestAUserWhoseTokenIsEmptyKeepsTheirAccount(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		m.loseToken("apn_alice", nil)
		_, err := m.as("alice")
		m.refused(err, http.StatusBadGateway, lacksToken)
		m.sim.SetAccount(connectAccount("apn_alice", "alice"))
		time.Sleep(time.Minute)
		resp, err := m.as("alice")
		require.NoError(t, err)
		token := resp.Data["oauth_access_token"]
		m.loseToken("apn_alice", nil)
		time.Sleep(56 * time.Minute)
		resp, err = m.as("alice")
		require.NoError(t, err)
		require.Equal(t, token, resp.Data["oauth_access_token"])
	})
}
