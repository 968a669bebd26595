package pipedreamtest

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// newLink returns a link for alice, made with these members of the request beside her id, which begin with a comma.
func newLink(t *testing.T, s *Server, c caller, more string) string {
	t.Helper()
	r := c.workspace(s).connectToken(`{"external_user_id":"alice"` + more + `}`)
	require.Equal(t, http.StatusOK, r.status, r.body)
	return member[string](t, r.object(t), "connect_link_url")
}

// browse opens a link as a browser does. If a button is given, it clicks that.
func browse(t *testing.T, c caller, link, button string) reply {
	t.Helper()
	method, body := http.MethodGet, ""
	if button != "" {
		method, body = http.MethodPost, url.Values{"result": {button}}.Encode()
	}
	req, err := http.NewRequestWithContext(t.Context(), method, link, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", mediaForm)
	res, err := c.http.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(raw), err}
}

func TestClick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		link := newLink(t, s, c, "")
		time.Sleep(time.Minute)
		id, err := s.Click(link + "&app=github&oauthAppId=oa_aPXiQd")
		require.NoError(t, err)
		require.Regexp(t, `^apn_[0-9a-f]{7}$`, id)

		w := c.workspace(s)
		ids, _ := listed(t, w.connect("/connect/proj_a/accounts?external_user_id=alice&app=github&oauth_app_id=oa_aPXiQd"))
		require.Equal(t, []string{id}, ids)
		got := w.connect("/connect/proj_a/accounts/" + id + "?include_credentials=true").object(t)
		require.Equal(t, "alice", got["external_id"])
		require.Equal(t, stamp(time.Now()), got["created_at"])
		require.Equal(t, stamp(time.Now().Add(time.Hour)), got["expires_at"])
		require.Equal(t, "oa_aPXiQd", member[map[string]any](t, got, "app")["id"])
		require.Equal(t, s.Token(id), member[map[string]any](t, got, "credentials")["oauth_access_token"])

		_, err = s.Click(link + "&app=github")
		require.ErrorIs(t, err, errLinkUsed)
		require.Empty(t, s.Violations())
	})
}

func TestClickWhatIsConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		s.SetAccount(stripe)
		s.SetAccount(Account{ID: "apn_open", App: App{ID: "app_open", Slug: "open", AuthType: "none"}})
		w := c.workspace(s)
		connected := func(query string) map[string]any {
			id, err := s.Click(newLink(t, s, c, "") + query)
			require.NoError(t, err, query)
			return w.connect("/connect/proj_a/accounts/" + id + "?include_credentials=true").object(t)
		}

		// On Pipedream's own OAuth client an account comes without credentials.
		got := connected("&app=github")
		require.NotContains(t, got, "credentials")
		require.NotNil(t, got["expires_at"])
		require.Equal(t, "app_OrZhaO", member[map[string]any](t, got, "app")["id"])

		key := member[string](t, member[map[string]any](t, connected("&app=stripe"), "credentials"), "api_key")
		require.Contains(t, s.Secrets(), key)
		require.Empty(t, connected("&app=open")["credentials"])

		// No account has this app yet.
		app := member[map[string]any](t, connected("&app=slack&oauthAppId=oa_x"), "app")
		require.Equal(t, "slack", app["name_slug"])
		require.Equal(t, "oauth", app["auth_type"])
	})
}

func TestClickAppOfTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		for more, queries := range map[string]map[string]error{
			`,"app_id":"github"`: {
				"": nil, "&app=github": nil, "&app=app_OrZhaO": errLinkSlug, "&app=slack": errLinkApp,
			},
			`,"app_id":"app_OrZhaO"`:                   {"": nil, "&app=github": nil, "&app=slack": errLinkApp},
			`,"app_id":"slack"`:                        {"": nil, "&app=slack": nil, "&app=github": errLinkApp},
			`,"app_id":"app_none"`:                     {"": errLinkUnknownID},
			`,"app_id":"github","oauth_app_id":"oa_a"`: {"": nil, "&oauthAppId=oa_a": nil, "&oauthAppId=oa_b": errLinkClient},
			``:                                 {"": errLinkNoApp, "&app=github&oauthAppId=app_x": errLinkClient},
			`,"scope":"connect:accounts:read"`: {"&app=github": errLinkScope},
			`,"scope":"connect:apps:* connect:accounts:*"`: {"&app=github": nil},
			`,"scope":"connect:accounts:write"`:            {"&app=github": nil},
		} {
			for query, want := range queries {
				_, err := s.Click(newLink(t, s, c, more) + query)
				require.ErrorIs(t, err, want, "%s %s", more, query)
			}
		}
	})
}

func TestClickRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		link := newLink(t, s, c, `,"expires_in":60`) + "&app=github"
		for _, bad := range []string{"", "%zz", "https://api.pipedream.com/v1/accounts", strings.Replace(link, "&connectLink=true", "", 1)} {
			_, err := s.Click(bad)
			require.ErrorIs(t, err, errLinkMalformed)
		}
		_, err := s.Click(strings.Replace(link, "ctok_", "ctok_0", 1))
		require.ErrorIs(t, err, errLinkUnknown)
		time.Sleep(time.Minute - time.Millisecond)
		other := newLink(t, s, c, `,"expires_in":1`) + "&app=github"
		_, err = s.Click(link)
		require.NoError(t, err)
		time.Sleep(time.Second)
		_, err = s.Click(other)
		require.ErrorIs(t, err, errLinkExpired)
	})
}

func TestWithConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithConnected(func(a *Account) { a.TokenLife, a.NoCredentials = time.Minute, false }))
		id, err := s.Click(newLink(t, s, c, "") + "&app=github")
		require.NoError(t, err)
		require.Equal(t, time.Minute, time.Until(s.ExpiresAt(id)))
		require.Contains(t, c.workspace(s).connect("/connect/proj_a/accounts/"+id+"?include_credentials=1").body, s.Token(id))
	})
}

func TestLinkInABrowser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		link := newLink(t, s, c, "") + "&app=" + url.QueryEscape("<github>")
		requests := s.Count("")
		page := browse(t, c, link, "")
		require.Equal(t, http.StatusOK, page.status)
		require.Equal(t, "text/html; charset=utf-8", page.header.Get("Content-Type"))
		require.Contains(t, page.body, "&lt;github&gt;")
		require.Contains(t, page.body, `<button id="connect" name="result" value="connect">`)

		require.Equal(t, http.StatusBadRequest, browse(t, c, link, "decline").status)
		connected := browse(t, c, link, "connect")
		require.Equal(t, http.StatusOK, connected.status)
		require.Regexp(t, `<span id="account">apn_[0-9a-f]{7}</span>`, connected.body)
		require.Equal(t, http.StatusGone, browse(t, c, link, "connect").status)
		require.Equal(t, http.StatusGone, browse(t, c, link, "").status)
		require.Equal(t, requests, s.Count(""), "none of these are API requests")

		req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, link, nil)
		require.NoError(t, err)
		res, err := c.http.Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
	})
}

func TestLinkRedirects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		const back = `,"success_redirect_uri":"https://example.com/done?a=b","error_redirect_uri":"https://example.com/failed"`
		link := newLink(t, s, c, back)
		for button, want := range map[string]string{"decline": "https://example.com/failed", "connect": "https://example.com/done?a=b"} {
			r := browse(t, c, newLink(t, s, c, back)+"&app=github", button)
			require.Equal(t, http.StatusSeeOther, r.status)
			require.Equal(t, want, r.header.Get("Location"))
		}
		r := browse(t, c, link, "connect") // without an app
		require.Equal(t, "https://example.com/failed", r.header.Get("Location"))
		require.Equal(t, http.StatusSeeOther, browse(t, c, link+"&app=github", "connect").status, "an error does not use up the token")
		require.Equal(t, http.StatusGone, browse(t, c, link+"&app=github", "connect").status)
	})
}

func TestLinkOnAnotherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		for _, origin := range []string{"https://connect.example.com", "http://127.0.0.1:7000"} {
			s.SetLinkPage(LinkPage{Origin: origin})
			link := newLink(t, s, c, "")
			require.True(t, strings.HasPrefix(link, origin+"/_static/connect.html?token="), link)
			_, err := s.Click(link + "&app=github")
			require.NoError(t, err)
		}
	})
}

func TestLinkParameters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		_, err := s.Click(newLink(t, s, c, "") + "&app=github&oauthAppId=oa_x&appOverrideId=o_1&oauthScopeProfile=read_only&customOauthClient=true&hideClose=true")
		require.NoError(t, err)
		require.Empty(t, s.Violations())
		_, err = s.Click(newLink(t, s, c, "") + "&app=github&hideClose=1&oauthScopeProfile=&scope=all&account_id=apn_x&a%20b=c&appOverrideId=o_1&appOverrideId=o_2")
		require.NoError(t, err, "the page ignores what it does not know")
		require.Equal(t, []string{
			"a Connect link: it has a parameter that is no name",
			"a Connect link: unknown parameter account_id",
			"a Connect link: parameter appOverrideId has a value that it cannot have",
			"a Connect link: parameter hideClose has a value that it cannot have",
			"a Connect link: parameter oauthScopeProfile has a value that it cannot have",
			"a Connect link: unknown parameter scope",
		}, s.Violations())
	})
}
