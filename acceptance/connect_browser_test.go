package acceptance

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// newBrowser starts headless Chromium and returns a context that controls it. It skips the test if there is no
// Chromium.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	var program string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		t.Skip("Chromium is not installed (on Debian: the package chromium)")
	}
	// The sandbox does not work as root, and this test only opens its own pages.
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox,
		chromedp.Env("HOME="+t.TempDir(), "TMPDIR="+t.TempDir()), chromedp.UserDataDir(t.TempDir()))
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	browser, stop := chromedp.NewContext(allocator)
	t.Cleanup(stop)
	browser, stop = context.WithTimeout(browser, 2*readyTimeout)
	t.Cleanup(stop)
	return browser
}

// TestReconnectInABrowser has a user whose token the app refuses sign in again with one click. The account keeps its id
// and has a new token. Then the user looks, disconnects it, and gets nothing from then on.
func TestReconnectInABrowser(t *testing.T) {
	t.Parallel()
	browser := newBrowser(t)
	c := onConnect(t)
	p := c.people(t, c.rules("github"), fmt.Sprintf("path %q { capabilities = [\"read\", \"update\", \"delete\"] }\n", c.in("connect/github")))
	c.write(t, "roles/github", map[string]any{"app": "github", "external_user_id": p.name(), "oauth_app_id": ourClient})
	c.sim.SetAccount(connectedWith("apn_bob", "bob", func(a *pipedreamtest.Account) { a.OAuthAppID = ourClient }))
	bob := p.login(t, "bob")
	refusedByApp := bob.read(t, "creds/github").Data["oauth_access_token"]

	answer := bob.link(t, map[string]any{"reconnect": true}).Data
	assert.Equal(t, "apn_bob", answer["reconnects_account_id"])
	require.NoError(t, chromedp.Do(browser, chromedp.Navigate(asType[string](t, answer["connect_link_url"])), chromedp.Click(chromedp.ID("connect"))))
	clicked := time.Now()
	id, err := chromedp.Run(browser, chromedp.Text(chromedp.ID("account")))
	require.NoError(t, err)
	require.Equal(t, "apn_bob", id)
	bob.getsRenewed(t, "apn_bob", refusedByApp, clicked)

	state := bob.connection(t, map[string][]string{"link_id": {asType[string](t, answer["link_id"])}})
	assert.Equal(t, "connected", state["link_status"])
	assert.Equal(t, true, state["connected"])
	assert.Equal(t, "apn_bob", state["account_id"])
	assert.Len(t, state["accounts"], 1)

	gone, err := bob.Logical().Delete(c.in("connect/github"))
	require.NoError(t, err)
	assert.Equal(t, []any{"apn_bob"}, gone.Data["disconnected"])
	bob.isRefused(t, http.StatusBadRequest, `external user "bob" has no healthy account`, cliName+" write -force "+c.in("connect/github"))
	state = bob.connection(t, nil)
	assert.Equal(t, false, state["connected"])
	assert.Empty(t, state["accounts"])
}

// TestConnectLinkInABrowser opens links in a real browser and clicks what a user would click.
func TestConnectLinkInABrowser(t *testing.T) {
	t.Parallel()
	browser := newBrowser(t)
	c, p := onLinks(t)
	carol, dave := p.login(t, "carol"), p.login(t, "dave")
	carol.isRefused(t, http.StatusBadRequest, c.in("connect/github"))

	link := asType[string](t, carol.link(t, nil).Data["connect_link_url"])
	require.NoError(t, chromedp.Do(browser, chromedp.Navigate(link), chromedp.Click(chromedp.ID("connect"))))
	clicked := time.Now()
	id, err := chromedp.Run(browser, chromedp.Text(chromedp.ID("account")))
	require.NoError(t, err)
	require.Regexp(t, "^apn_", id)
	carol.finds(t, id, clicked)

	// A link works once.
	require.NoError(t, chromedp.Do(browser, chromedp.Navigate(link)))
	problem, err := chromedp.Run(browser, chromedp.Text(chromedp.ID("problem")))
	require.NoError(t, err)
	assert.Contains(t, problem, "used before")

	// An application gets its user back.
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(`<p id="back">` + map[string]string{"/done": "done", "/failed": "failed"}[r.URL.Path] + `</p>`))
	}))
	t.Cleanup(app.Close)
	for _, test := range []struct{ button, want string }{{"decline", "failed"}, {"connect", "done"}} {
		link = asType[string](t, dave.link(t, map[string]any{
			"success_redirect_uri": app.URL + "/done", "error_redirect_uri": app.URL + "/failed",
		}).Data["connect_link_url"])
		require.NoError(t, chromedp.Do(browser, chromedp.Navigate(link), chromedp.Click(chromedp.ID(test.button))))
		back, err := chromedp.Run(browser, chromedp.Text(chromedp.ID("back")))
		require.NoError(t, err)
		assert.Equal(t, test.want, back)
	}
}
