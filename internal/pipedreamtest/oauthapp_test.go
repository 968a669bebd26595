package pipedreamtest

import (
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestOAuthApps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		for id, app := range map[string]App{"oa_1": github.App, "oa_2": stripe.App, "oa_3": github.App} {
			a := alice
			a.ID, a.App, a.OAuthAppID, a.PlainApp = "apn_"+id[3:], app, id, true
			if id == "oa_2" {
				a.OAuthAppID = ""
			}
			s.SetAccount(a)
		}
		s.Update("apn_2", func(a *Account) { a.OAuthAppID = "oa_2" })
		s.DeleteAccount("apn_3") // its client stays
		w := c.workspace(s)
		ids := func(path string) (ids []string, info map[string]any) {
			body := w.connect(path).object(t)
			for _, o := range member[[]any](t, body, "data") {
				ids = append(ids, member[string](t, o.(map[string]any), "id"))
			}
			return ids, member[map[string]any](t, body, "page_info")
		}
		all, info := ids("/connect/proj_a/oauth_apps")
		require.Equal(t, []string{"oa_1", "oa_2", "oa_3"}, all)
		require.EqualValues(t, 3, info["total_count"])
		githubs, _ := ids("/connect/proj_a/oauth_apps?app=github")
		require.Equal(t, []string{"oa_1", "oa_3"}, githubs)
		first, info := ids("/connect/proj_a/oauth_apps?limit=2")
		require.Equal(t, []string{"oa_1", "oa_2"}, first)
		rest, _ := ids("/connect/proj_a/oauth_apps?limit=2&after=" + url.QueryEscape(member[string](t, info, "end_cursor")))
		require.Equal(t, []string{"oa_3"}, rest)

		shown := member[[]any](t, w.connect("/oauth_apps?app=github").object(t), "data")[0].(map[string]any)
		require.Equal(t, "github", shown["name_slug"])
		require.Equal(t, "pdclient_oa_1", shown["client_id"])
		require.NotContains(t, shown, "client_secret")
		require.Equal(t, http.StatusOK, c.get("/oauth_apps").status, "a user API key will do")
		require.Empty(t, s.Violations())

		for _, path := range []string{"/oauth_apps?limit=0", "/oauth_apps?after=%25"} {
			w.get(path).failed(t, http.StatusBadRequest)
		}
		c.scoped(s, "connect:*").get("/oauth_apps").failed(t, http.StatusForbidden)
		c.bearer(s, "alice", "").connect("/connect/proj_a/oauth_apps").failed(t, http.StatusForbidden)
	})
}
