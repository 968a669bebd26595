package pipedreamtest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// listed returns the ids of a list's answer and its page_info.
func listed(t *testing.T, r reply) (ids []string, info map[string]any) {
	t.Helper()
	require.Equal(t, http.StatusOK, r.status, r.body)
	body := r.object(t)
	ids = []string{}
	for _, a := range member[[]any](t, body, "data") {
		listed, ok := a.(map[string]any)
		require.True(t, ok)
		ids = append(ids, member[string](t, listed, "id"))
	}
	return ids, member[map[string]any](t, body, "page_info")
}

// numbered adds workspace accounts apn_01 to apn_n.
func numbered(s *Server, n int) (ids []string) {
	for i := range n {
		id := fmt.Sprintf("apn_%02d", i+1)
		s.SetAccount(Account{ID: id})
		ids = append(ids, id)
	}
	return ids
}

func TestListPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		all := numbered(s, 25)
		ids, info := listed(t, c.get("/accounts"))
		require.Equal(t, all[:10], ids)
		require.EqualValues(t, 25, info["total_count"])
		require.EqualValues(t, 10, info["count"])
		require.NotEmpty(t, info["start_cursor"])

		ids, info = listed(t, c.get("/accounts?after="+url.QueryEscape(member[string](t, info, "end_cursor"))))
		require.Equal(t, all[10:20], ids)
		second := info

		ids, info = listed(t, c.get("/accounts?after="+url.QueryEscape(member[string](t, info, "end_cursor"))))
		require.Equal(t, all[20:], ids)
		require.EqualValues(t, 5, info["count"])
		end := member[string](t, info, "end_cursor")
		require.Equal(t, base64.StdEncoding.EncodeToString([]byte("apn_25")), end)

		ids, info = listed(t, c.get("/accounts?after="+url.QueryEscape(end)))
		require.Empty(t, ids)
		require.Equal(t, map[string]any{"total_count": 25.0, "count": 0.0, "start_cursor": nil, "end_cursor": nil}, info)

		ids, _ = listed(t, c.get("/accounts?limit=4&before="+url.QueryEscape(member[string](t, second, "start_cursor"))))
		require.Equal(t, all[6:10], ids)
		ids, _ = listed(t, c.get("/accounts?before="+url.QueryEscape(member[string](t, second, "end_cursor"))+
			"&after="+url.QueryEscape(member[string](t, second, "start_cursor"))))
		require.Equal(t, all[11:19], ids)

		ids, info = listed(t, c.get("/accounts?limit=100"))
		require.Equal(t, all, ids)
		require.Equal(t, end, info["end_cursor"])
	})
}

func TestNoCursorAtEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithNoCursorAtEnd())
		numbered(s, 12)
		_, info := listed(t, c.get("/accounts"))
		require.NotEmpty(t, info["end_cursor"])
		_, info = listed(t, c.get("/accounts?after="+url.QueryEscape(member[string](t, info, "end_cursor"))))
		require.Empty(t, member[string](t, info, "end_cursor"))
	})
}

func TestEmptyList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newServer(t)
		r := c.get("/accounts")
		ids, info := listed(t, r)
		require.Empty(t, ids)
		require.Equal(t, map[string]any{"total_count": 0.0, "count": 0.0, "start_cursor": nil, "end_cursor": nil}, info)
	})
}

func TestCursorOutlivesItsAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		all := numbered(s, 4)
		_, info := listed(t, c.get("/accounts?limit=2"))
		s.DeleteAccount("apn_02")
		ids, _ := listed(t, c.get("/accounts?after="+url.QueryEscape(member[string](t, info, "end_cursor"))))
		require.Equal(t, all[2:], ids)
	})
}

func TestReplacedAccountKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		all := numbered(s, 3)
		s.SetAccount(Account{ID: "apn_01", Name: "again"})
		ids, _ := listed(t, c.get("/accounts"))
		require.Equal(t, all, ids)
	})
}

func TestListRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		w := c.workspace(s)
		for _, query := range []string{
			"limit=0", "limit=101", "limit=-1", "limit=ten", "limit=",
			"after=nonsense", "before=nonsense", "after=%25",
			"after=" + base64.StdEncoding.EncodeToString([]byte("apn_never")),
		} {
			c.get("/accounts?"+query).failed(t, http.StatusBadRequest)
			w.connect("/connect/proj_a/accounts?"+query).failed(t, http.StatusBadRequest)
		}
		w.connect("/connect/proj_a/accounts?external_user_id="+strings.Repeat("a", 251)).failed(t, http.StatusBadRequest)
		longest := url.QueryEscape(strings.Repeat("é", 250)) // characters, not bytes
		require.Equal(t, http.StatusOK, w.connect("/connect/proj_a/accounts?external_user_id="+longest).status)
	})
}

func TestListFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		s.SetAccount(stripe)
		s.SetAccount(Account{ID: "apn_own", App: github.App, OAuthAppID: "oa_aPXiQd"})
		for query, want := range map[string][]string{
			"":                                  {"apn_github", "apn_stripe", "apn_own"},
			"app=github":                        {"apn_github", "apn_own"},
			"app=app_OkrhR1":                    {"apn_stripe"},
			"app=none":                          {},
			"oauth_app_id=oa_aPXiQd":            {"apn_own"},
			"app=stripe&oauth_app_id=oa_aPXiQd": {},
			"app=app_OrZhaO":                    {"apn_github", "apn_own"},
			"app=oa_aPXiQd":                     {},                                      // what the account shows as its app's id is no app
			"external_user_id=alice":            {"apn_github", "apn_stripe", "apn_own"}, // not a REST parameter
		} {
			ids, info := listed(t, c.get("/accounts?"+query))
			require.Equal(t, want, ids, query)
			require.EqualValues(t, len(want), info["total_count"])
		}
	})
}

func TestConnectList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		s.SetAccount(alice)
		bob := alice
		bob.ID, bob.ExternalUserID = "apn_bob", "bob"
		s.SetAccount(bob)
		dev := alice
		dev.ID, dev.Environment = "apn_dev", "development"
		s.SetAccount(dev)
		other := alice
		other.ID, other.Project = "apn_other", "proj_b"
		s.SetAccount(other)

		w := c.workspace(s)
		for query, want := range map[string][]string{
			"":                                  {"apn_alice", "apn_bob"},
			"external_user_id=alice":            {"apn_alice"},
			"external_user_id=alice&app=github": {"apn_alice"},
			"external_user_id=alice&app=slack":  {},
			"external_user_id=ali":              {},
		} {
			ids, _ := listed(t, w.connect("/connect/proj_a/accounts?"+query))
			require.Equal(t, want, ids, query)
		}
		ids, _ := listed(t, w.get("/connect/proj_a/accounts", "x-pd-environment", "development"))
		require.Equal(t, []string{"apn_dev"}, ids)
		ids, _ = listed(t, w.get("/accounts"))
		require.Equal(t, []string{"apn_github"}, ids)
	})
}

func TestOldConnectList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithOldConnectForms())
		s.SetAccount(github)
		s.SetAccount(alice)
		data := c.workspace(s).connect("/connect/proj_a/accounts").data(t)
		require.Len(t, data["accounts"], 1)
		ids, _ := listed(t, c.get("/accounts")) // REST has the one form
		require.Len(t, ids, 1)
	})
}

func TestListWithCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		require.NotContains(t, c.get("/accounts").body, s.Token("apn_github"))
		require.Contains(t, c.get("/accounts?include_credentials=1").body, s.Token("apn_github"))
	})
}

func TestPageCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithPageCap(5))
		all := numbered(s, 12)
		ids, info := listed(t, c.get("/accounts?limit=100"))
		require.Equal(t, all[:5], ids)
		require.EqualValues(t, 12, info["total_count"])
		require.EqualValues(t, 5, info["count"])
		ids, _ = listed(t, c.get("/accounts?limit=3"))
		require.Equal(t, all[:3], ids)
	})
}

func TestFiltersAfterPaging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithFiltersAfterPaging())
		numbered(s, 12)
		s.SetAccount(Account{ID: "apn_13", App: App{Slug: "github"}})
		ids, info := listed(t, c.get("/accounts?app=github&limit=12"))
		require.Empty(t, ids, "more follow all the same")
		require.EqualValues(t, 13, info["total_count"])
		require.EqualValues(t, 0, info["count"])
		ids, _ = listed(t, c.get("/accounts?app=github&limit=12&after="+url.QueryEscape(member[string](t, info, "end_cursor"))))
		require.Equal(t, []string{"apn_13"}, ids)
	})
}

func TestWithoutTotals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithoutTotals())
		numbered(s, 12)
		_, info := listed(t, c.get("/accounts"))
		require.NotContains(t, info, "total_count")
		require.EqualValues(t, 10, info["count"])
	})
}
