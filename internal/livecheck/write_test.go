package livecheck

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestConnectTokens(t *testing.T) {
	write := func(c *Config) { c.Write = true }
	for name, tt := range map[string]struct {
		opts    []pipedreamtest.Option
		twist   twist
		notices []notice
	}{
		"by default": {notices: []notice{
			{"connect_token.answer", "ctok_ and 32 hexadecimal digits", AsExpected},
			{"connect_token.life", "as long as asked for", AsExpected},
			{"connect_token.lists", answered, AsExpected},
			{"connect_token.lists_again", answered, AsExpected},
			{"connect_token.credentials", "no credentials", Learned},
			{"connect_token.other_user", "status 403", AsExpected},
		}},
		"with credentials": {
			opts:    []pipedreamtest.Option{pipedreamtest.WithConnectTokenCredentials()},
			notices: []notice{{"connect_token.credentials", "credentials", Learned}},
		},
		"tokens that read nothing": {
			twist: twist{request: func(req *http.Request) {
				if strings.Contains(req.Header.Get("Authorization"), "ctok_") {
					req.Header.Set("Authorization", "Bearer ctok_none")
				}
			}},
			notices: []notice{{"connect_token.lists", "status 401", Different}},
		},
		"another life": {
			twist: twist{body: func(req *http.Request, _ int, value any) any {
				if object, ok := value.(map[string]any); ok && strings.HasSuffix(req.URL.Path, "/tokens") {
					object["expires_at"], object["token"] = time.Now().Add(4*time.Hour).UTC().Format(time.RFC3339), "t_1"
				}
				return value
			}},
			notices: []notice{{"connect_token.life", "longer", Different}, {"connect_token.answer", "another token", Different}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			report, sim := check(t, func(c *Config) { write(c); c.Transport = tt.twist.over(c.Transport) }, tt.opts...)
			for _, n := range tt.notices {
				result := of(t, report, n.name)[connect]
				require.Contains(t, result.Seen, n.form, "%s: %s", n.name, result.Why)
				require.Equal(t, n.verdict, result.Verdict, n.name)
			}
			require.Zero(t, sim.Count(pipedreamtest.KindDeleteUser), "the user is a real one")
			require.LessOrEqual(t, sim.Count(pipedreamtest.KindConnectToken), 1)
		})
	}
}

// clicks runs a check with a link that somebody opens, and returns what is left of the user that was made up.
func clicks(t *testing.T, onShow func(sim *pipedreamtest.Server, link string, cancel func())) (report *Report, sim *pipedreamtest.Server) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		sim = pipedreamtest.New()
		defer sim.Close()
		populate(sim)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		c := configFor(sim.Transport(), false)
		c.Write, c.LinkApp, c.LinkWait = true, "github", 2*time.Minute
		c.Show = func(link string) { onShow(sim, link, cancel) }
		require.NoError(t, c.Check())
		report = Run(ctx, c)
		require.Equal(t, 1, sim.Count(pipedreamtest.KindDeleteUser))
		require.False(t, report.Left)
		require.NotContains(t, string(report.JSON()), "pipedream-check-")
		for _, r := range sim.Requests() {
			if r.Kind == pipedreamtest.KindDeleteUser {
				require.Equal(t, http.StatusNoContent, r.Status)
				require.Contains(t, r.Path, "/users/pipedream-check-")
			}
		}
	})
	return report, sim
}

func TestALinkConnectsAnAccountAndNothingIsLeft(t *testing.T) {
	report, sim := clicks(t, func(sim *pipedreamtest.Server, link string, _ func()) {
		_, err := sim.Click(link + "&oauthAppId=oa_test1")
		require.NoError(t, err)
	})
	require.Equal(t, []Form{"an account of that app"}, of(t, report, "link.connects")[connect].Seen)
	require.Equal(t, 1, sim.Count(pipedreamtest.KindDeleteUser))

	report, _ = clicks(t, func(*pipedreamtest.Server, string, func()) {})
	require.Equal(t, Form("nobody connected an account with the link"), of(t, report, "link.connects")[connect].Why)

	report, _ = clicks(t, func(_ *pipedreamtest.Server, _ string, cancel func()) { cancel() })
	require.True(t, report.Interrupted)
}

func TestWithoutAccountsTheUserIsMadeUpAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := pipedreamtest.New()
		defer sim.Close()
		sim.SetOAuthClient(testClient, testSecret, time.Hour)
		c := configFor(sim.Transport(), false)
		c.Write = true
		report := Run(context.Background(), c)
		require.Equal(t, AsExpected, of(t, report, "connect_token.answer")[connect].Verdict)
		require.Equal(t, 1, sim.Count(pipedreamtest.KindDeleteUser))
		require.False(t, report.Left)
		sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindDeleteUser, Status: http.StatusForbidden})
		require.True(t, Run(context.Background(), c).Left)
	})
}
