package pipedream

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestAccountsList(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.Update(stripe, func(a *pipedreamtest.Account) { a.Dead = true })
		m.fleet(250)
		resp, err := m.handle(logical.ListOperation, "accounts/", nil)
		require.NoError(t, err)
		require.Len(t, resp.Data["keys"], 252)
		require.Equal(t, 3, m.sim.Count(pipedreamtest.KindList))

		info := resp.Data["key_info"].(map[string]any)
		require.Equal(t, map[string]any{
			"name": "Octo Cat", "app": "github", "healthy": true,
			"expires_at": m.sim.ExpiresAt(github).UTC().Format(time.RFC3339),
		}, info[github])
		require.Equal(t, map[string]any{"name": "", "app": "stripe", "healthy": false}, info[stripe])
		for _, r := range m.sim.Requests() {
			require.False(t, r.WithCredentials)
		}
	})
}

func TestAccountsListOfAnApp(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		resp, err := m.handle(logical.ListOperation, "accounts/", map[string]any{"app": "stripe"})
		require.NoError(t, err)
		require.Equal(t, []string{stripe}, resp.Data["keys"])
	})
}

func TestAccountsListFails(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Garbage: true, Times: 1})
		_, err := m.handle(logical.ListOperation, "accounts/", nil)
		m.refused(err, http.StatusBadGateway)

		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden, Times: 1})
		_, err = m.handle(logical.ListOperation, "accounts/", nil)
		m.refused(err, http.StatusBadRequest, "refused access to the accounts (HTTP 403)")
	})
}

// A list ends when its cursors loop. They cannot use up the budget.
func TestAListWithLoopingCursors(t *testing.T) {
	page := func(id, next string) pipedreamtest.Fault {
		var accounts []string
		for i := range api.PageLimit {
			accounts = append(accounts, fmt.Sprintf(`{"id":"apn_%s%03d"}`, id, i))
		}
		return pipedreamtest.Fault{
			Kind: pipedreamtest.KindList, Times: 1, Status: http.StatusOK,
			Body: fmt.Sprintf(`{"page_info":{"end_cursor":%q},"data":[%s]}`, next, strings.Join(accounts, ",")),
		}
	}
	bubble(t, func(t *testing.T, m *mount) {
		for range 10 {
			m.sim.AddFault(page("a", "A"))
			m.sim.AddFault(page("b", "B"))
		}
		resp, err := m.handle(logical.ListOperation, "accounts/", nil)
		require.NoError(t, err)
		require.NotEmpty(t, resp.Data["keys"])
		require.LessOrEqual(t, len(m.sim.Requests()), 3)
	})
}

// Lists must leave requests for readers of credentials.
func TestAccountsListLeavesBudget(t *testing.T) {
	bubble(t, func(_ *testing.T, m *mount) {
		var err error
		for range 200 {
			_, err = m.handle(logical.ListOperation, "accounts/", nil)
		}
		m.refused(err, http.StatusTooManyRequests, "try again in")
		m.creds(github)
		m.creds(stripe)
	})
}

func TestAccountRead(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.Update(github, func(a *pipedreamtest.Account) { a.Unhealthy, a.Error = true, "token\x1b[31m revoked" })
		resp, err := m.read("accounts/" + github)
		require.NoError(t, err)
		require.Equal(t, github, resp.Data["id"])
		require.Equal(t, "github", resp.Data["app"])
		require.Equal(t, "oauth", resp.Data["auth_type"])
		require.Equal(t, false, resp.Data["healthy"])
		require.Equal(t, "token[31m revoked", resp.Data["error"])
		require.Equal(t, m.sim.ExpiresAt(github).UTC().Format(time.RFC3339), resp.Data["expires_at"])
		for _, value := range resp.Data {
			if text, ok := value.(string); ok {
				m.noSecretIn(text)
			}
		}
		require.False(t, m.sim.Requests()[0].WithCredentials)
	})
}

func TestAccountReadFails(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		_, err := m.read("accounts/apn_nobody")
		m.refused(err, http.StatusBadRequest, "apn_nobody")
		_, err = m.read("accounts/apn_nobody")
		m.refused(err, http.StatusBadRequest, "apn_nobody")
		require.Equal(t, 1, m.sim.Count(pipedreamtest.KindAccount))

		// accounts/ explains why creds/ fails.
		m.sim.Update(github, func(a *pipedreamtest.Account) { a.Dead, a.Error = true, "invalid_grant" })
		_, err = m.read("creds/" + github)
		m.refused(err, http.StatusBadRequest, "vault read pipedream/accounts/"+github)
		resp, err := m.read("accounts/" + github)
		require.NoError(t, err)
		require.Equal(t, "invalid_grant", resp.Data["error"])
		require.Equal(t, true, resp.Data["dead"])
	})
}

// The user who connects an account chooses its name, which a list shows on a terminal.
func TestANameWithControlCharacters(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		m.sim.Update(github, func(a *pipedreamtest.Account) { a.Name = "octo\x1b]0;owned\x07cat" })
		resp, err := m.handle(logical.ListOperation, "accounts/", nil)
		require.NoError(t, err)
		require.Equal(t, "octo]0;ownedcat", resp.Data["key_info"].(map[string]any)[github].(map[string]any)["name"])
		resp, err = m.read("accounts/" + github)
		require.NoError(t, err)
		require.Equal(t, "octo]0;ownedcat", resp.Data["name"])
		require.Equal(t, "octo]0;ownedcat", m.creds(github).Data["pipedream_account_name"])
	})
}
