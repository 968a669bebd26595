package pipedream

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// An account that lacks a scope that its role requires is served with a warning, or
// refused if the role says so. Scopes are compared as whole texts.
func TestRequiredScopes(t *testing.T) {
	for name, tc := range map[string]struct {
		given    any // authorized_scopes, as Pipedream writes them
		required string
		lacking  string // empty if the account has all
	}{
		"all of them":               {[]string{"repo", "user"}, "repo,user", ""},
		"in another order":          {[]string{"user", "x", "repo"}, "repo,user", ""},
		"one text":                  {"repo user", "repo,user", ""},
		"one is lacking":            {[]string{"repo"}, "repo,user", "(user)"},
		"both are lacking":          {[]string{"gist"}, "repo,user", "(repo, user)"},
		"a part is not the scope":   {[]string{"repo:status", "public_repo"}, "repo", "(repo)"},
		"more is not the scope":     {[]string{"repo"}, "repo:status", "(repo:status)"},
		"case counts":               {[]string{"Repo"}, "repo", "(repo)"},
		"with a control character":  {[]string{"repo\x00", "user"}, "repo", "(repo)"},
		"a URL":                     {[]string{"https://www.googleapis.com/auth/drive"}, "https://www.googleapis.com/auth/drive", ""},
		"a shorter URL":             {[]string{"https://www.googleapis.com/auth/drive"}, "https://www.googleapis.com/auth/drive.file", "(https://www.googleapis.com/auth/drive.file)"},
		"Pipedream says nothing":    {nil, "repo", ""},
		"an account that uses keys": {[]string{}, "repo", ""},
		"what is no list":           {map[string]any{"repo": true}, "repo", ""},
		"a list of other things":    {[]any{1, "repo"}, "user", ""},
		"more than is read":         {strings.Split(strings.Repeat("a ", 501), " "), "repo", ""},
		"nothing is required":       {[]string{"gist"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				m.role("github", eachUsersGithub)
				m.role("github", map[string]any{"required_scopes": tc.required})
				m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Override = map[string]any{"authorized_scopes": tc.given} })
				for range 2 { // the second one after a restart
					resp, err := m.as("alice")
					require.NoError(t, err)
					if tc.lacking == "" {
						require.Empty(t, resp.Warnings)
					} else {
						require.Len(t, resp.Warnings, 1)
						require.Contains(t, resp.Warnings[0], "account apn_alice lacks scopes that this role requires "+tc.lacking)
						require.Contains(t, resp.Warnings[0], "vault write -force pipedream/connect/github")
					}
					m.start()
				}
				if tc.required == "" {
					return
				}
				m.role("github", map[string]any{"enforce_scopes": true})
				for _, path := range []string{"creds/github", "static-creds/github"} {
					_, err := m.handleAs("alice", "read", path)
					if tc.lacking == "" {
						require.NoError(t, err)
					} else {
						m.refused(err, http.StatusBadRequest, tc.lacking, "vault write -force pipedream/connect/github")
					}
				}
			})
		})
	}
}

// The fields of a role that are about Connect links go into the link, and not into a
// role for one account.
func TestRoleFieldsOfLinks(t *testing.T) {
	linkBubble(t, func(t *testing.T, m *mount) {
		m.role("github", map[string]any{"oauth_scope_profile": "read-only", "app_override_id": "ov_1"})
		link := m.link("carol", nil)
		require.Contains(t, link, "oauthScopeProfile=read-only")
		require.Contains(t, link, "appOverrideId=ov_1")
		for field, values := range map[string][]any{
			"oauth_scope_profile": {"a b", "a&accountId=apn_bob", strings.Repeat("a", 101)},
			"app_override_id":     {"a b", "a&b", strings.Repeat("a", 101)},
			"required_scopes":     {"a b", []string{"a", ""}, strings.Repeat("a", 501), strings.Repeat("a,", 101)},
		} {
			for _, value := range values {
				_, err := m.write("roles/github", map[string]any{field: value})
				require.Error(t, err, "%s=%q", field, value)
				m.refused(err, http.StatusBadRequest, field)
			}
		}
		_, err := m.write("roles/github", map[string]any{"enforce_scopes": true})
		m.refused(err, http.StatusBadRequest, "enforce_scopes needs required_scopes")
		for field, value := range map[string]any{"oauth_scope_profile": "p", "app_override_id": "o", "required_scopes": "repo"} {
			_, err := m.write("roles/one", map[string]any{"account_id": stripe, field: value})
			m.refused(err, http.StatusBadRequest, field+" goes with app")
		}
		m.role("github", map[string]any{"required_scopes": "repo", "enforce_scopes": true})
		m.role("github", map[string]any{"account_id": stripe})
		require.Empty(t, m.get("roles/github", "required_scopes"), "one kind of role replaces the other")
	})
}
