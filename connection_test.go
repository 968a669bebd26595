package pipedream

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// ownBubble is like connectBubble, with a role for each user's own GitHub account on
// any OAuth client, and alice's account on a custom one.
func ownBubble(t *testing.T, f func(*testing.T, *mount)) {
	t.Helper()
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		m.setClient("apn_alice")
		m.setClient("apn_bob")
		f(t, m)
	})
}

// setClient puts an account on the custom OAuth client.
func (m *mount) setClient(id string) {
	m.sim.Update(id, func(a *pipedreamtest.Account) { a.OAuthAppID = "oa_ours" })
}

// connect sends a request as that user, which must succeed, and returns its answer.
func (m *mount) connect(alias string, op logical.Operation, data map[string]any) *logical.Response {
	m.Helper()
	resp, err := m.tryAs(alias, op, data)
	require.NoError(m, err)
	return resp
}

// tryAs sends a request for connect/github as that user.
func (m *mount) tryAs(alias string, op logical.Operation, data map[string]any) (*logical.Response, error) {
	m.Helper()
	if op == logical.UpdateOperation {
		return m.linkAs(alias, data)
	}
	if data == nil {
		data = map[string]any{}
	}
	m.system.knows(&logical.Entity{ID: "entity-" + alias, Aliases: []*logical.Alias{{MountAccessor: accessor, Name: alias}}})
	return m.b.HandleRequest(m.Context(), &logical.Request{
		Operation: op, Path: "connect/github", Data: data, EntityID: "entity-" + alias, Storage: m.storage, MountPoint: "pipedream/",
	})
}

// click clicks a link, which must work, and returns the account.
func (m *mount) click(link string) (id string) {
	m.Helper()
	id, err := m.sim.Click(link)
	require.NoError(m, err)
	return id
}

// served returns the account and the token that a user reads.
func (m *mount) served(alias string) (id, token string) {
	m.Helper()
	resp, err := m.as(alias)
	require.NoError(m, err)
	token, _ = resp.Data["oauth_access_token"].(string)
	return resp.Data["pipedream_account_id"].(string), token
}

// reconnects returns the account that a link signs in to again; empty for none.
func reconnects(t *testing.T, link string) string {
	t.Helper()
	u, err := url.Parse(link)
	require.NoError(t, err)
	return u.Query().Get("accountId")
}

// A link reconnects by itself only what is dead, unhealthy or lacks scopes.
func TestWhatALinkReconnects(t *testing.T) {
	second := func(a *pipedreamtest.Account) { a.Name = "work" }
	for name, tc := range map[string]struct {
		alice  func(*pipedreamtest.Account)
		second func(*pipedreamtest.Account) // another account of hers, older; nil for none
		role   map[string]any
		data   map[string]any
		want   string // empty for a new account
		texts  []string
	}{
		"healthy":                {texts: []string{"account apn_alice", "connected and healthy", "reconnect=true", "account=<id or name>", "new=true"}},
		"healthy, one of two":    {second: second, texts: []string{"account apn_alice", "(one of 2)"}},
		"healthy, and wanted":    {data: map[string]any{"reconnect": true}, want: "apn_alice"},
		"healthy, by id":         {data: map[string]any{"account": "apn_alice"}, want: "apn_alice"},
		"healthy, by name":       {data: map[string]any{"account": "Octo Cat"}, want: "apn_alice"},
		"another one, by name":   {second: second, data: map[string]any{"account": "work"}, want: "apn_second"},
		"another one, by id":     {second: second, data: map[string]any{"account": "apn_second", "reconnect": "true"}, want: "apn_second"},
		"a new one":              {data: map[string]any{"new": true}, want: ""},
		"a new one beside two":   {second: second, data: map[string]any{"new": true}, want: ""},
		"dead":                   {alice: func(a *pipedreamtest.Account) { a.Dead = true }, want: "apn_alice"},
		"unhealthy":              {alice: func(a *pipedreamtest.Account) { a.Unhealthy = true }, want: "apn_alice"},
		"dead beside a healthy":  {alice: func(a *pipedreamtest.Account) { a.Dead = true }, second: second, texts: []string{"account apn_second"}},
		"dead, but a new one":    {alice: func(a *pipedreamtest.Account) { a.Dead = true }, data: map[string]any{"new": true}, want: ""},
		"lacks a scope":          {role: map[string]any{"required_scopes": "admin"}, want: "apn_alice"},
		"has the scopes":         {role: map[string]any{"required_scopes": "read"}, texts: []string{"connected and healthy"}},
		"a misspelt parameter":   {data: map[string]any{"reconect": true}, texts: []string{"no parameters named [reconect]"}},
		"somebody else's, by id": {data: map[string]any{"account": "apn_bob"}, texts: []string{"apn_bob"}},
		"a name of nobody's":     {data: map[string]any{"account": "octo cat"}, texts: []string{"octo cat"}},
		"an ambiguous name":      {second: func(a *pipedreamtest.Account) { a.Name = "Octo Cat" }, data: map[string]any{"account": "Octo Cat"}, texts: []string{"Octo Cat"}},
		"a name with a star":     {data: map[string]any{"account": "*"}, texts: []string{`"*"`}},
		"an id with a path":      {data: map[string]any{"account": "apn_alice/../apn_bob"}, texts: []string{"account begins with apn_"}},
		"no name":                {data: map[string]any{"account": ""}, texts: []string{"account is empty"}},
		"new and reconnect":      {data: map[string]any{"new": true, "reconnect": true}, texts: []string{"new=true connects another account"}},
		"new and account":        {data: map[string]any{"new": true, "account": "apn_alice"}, texts: []string{"new=true connects another account"}},
	} {
		t.Run(name, func(t *testing.T) {
			ownBubble(t, func(t *testing.T, m *mount) {
				m.sim.Update("apn_bob", func(a *pipedreamtest.Account) { a.Name = "bob's" })
				if tc.alice != nil {
					m.sim.Update("apn_alice", tc.alice)
				}
				if tc.second != nil {
					a := connectAccount("apn_second", "alice")
					a.OAuthAppID, a.CreatedAt = "oa_ours", time.Now().Add(-time.Hour)
					tc.second(&a)
					m.sim.SetAccount(a)
				}
				if tc.role != nil {
					m.role("github", tc.role)
				}
				resp, err := m.linkAs("alice", tc.data)
				if tc.texts != nil {
					m.refused(err, http.StatusBadRequest, tc.texts...)
					require.Empty(t, m.tokenRequests())
					return
				}
				require.NoError(t, err)
				require.Equal(t, tc.want, reconnects(t, resp.Data["connect_link_url"].(string)))
				if tc.want == "" {
					require.NotContains(t, resp.Data, "reconnects_account_id")
				} else {
					require.Equal(t, tc.want, resp.Data["reconnects_account_id"])
				}
			})
		})
	}
}

// What a link did is what the next read gets, also by another node after a failover.
func TestWhatALinkDidIsServed(t *testing.T) {
	type step = func(*testing.T, *mount) (link string)
	reconnect := func(_ *testing.T, m *mount) string { return m.link("alice", map[string]any{"reconnect": true}) }
	for name, tc := range map[string]struct {
		before func(*mount)
		link   step
		want   string // "new" for an account that the click made
	}{
		"a first account": {before: func(m *mount) { m.sim.DeleteAccount("apn_alice") }, link: func(_ *testing.T, m *mount) string { return m.link("alice", nil) + "&oauthAppId=oa_ours" }, want: "new"},
		"reconnected":     {link: reconnect, want: "apn_alice"},
		"dead":            {before: func(m *mount) { m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Dead = true }) }, link: func(_ *testing.T, m *mount) string { return m.link("alice", nil) }, want: "apn_alice"},
		"unhealthy":       {before: func(m *mount) { m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Unhealthy = true }) }, link: func(_ *testing.T, m *mount) string { return m.link("alice", nil) }, want: "apn_alice"},
		"a token that stays expired": {before: func(m *mount) {
			m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.NoRefresh = true })
			time.Sleep(2 * time.Hour)
		}, link: reconnect, want: "apn_alice"},
		"another one by name": {before: func(m *mount) {
			a := connectAccount("apn_second", "alice")
			a.OAuthAppID, a.CreatedAt, a.Name = "oa_ours", time.Now().Add(-time.Hour), "work"
			m.sim.SetAccount(a)
		}, link: func(_ *testing.T, m *mount) string { return m.link("alice", map[string]any{"account": "work"}) }, want: "apn_second"},
		"beside": {link: func(_ *testing.T, m *mount) string {
			return m.link("alice", map[string]any{"new": true}) + "&oauthAppId=oa_ours"
		}, want: "apn_alice, unchanged"},
		"edited to connect a new one": {link: func(t *testing.T, m *mount) string {
			return strings.ReplaceAll(reconnect(t, m), "accountId=apn_alice", "oauthAppId=oa_ours")
		}, want: "new"},
		"opened by somebody else": {link: func(t *testing.T, m *mount) string {
			m.sim.SetLinkPage(pipedreamtest.LinkPage{Identity: "mallory"})
			return reconnect(t, m)
		}, want: "apn_alice"},
		"while lists are throttled": {link: func(t *testing.T, m *mount) string {
			remove := m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: 503})
			defer remove()
			return reconnect(t, m)
		}, want: "apn_alice"},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %t", name, restart), func(t *testing.T) {
				ownBubble(t, func(t *testing.T, m *mount) {
					_, token := m.served("alice")
					if tc.before != nil {
						tc.before(m)
					}
					link := tc.link(t, m)
					if restart {
						m.start()
					}
					_, _ = m.as("alice")
					time.Sleep(10 * time.Second)
					_, _ = m.as("alice") // a look before the click finds nothing
					clicked := m.click(link)
					time.Sleep(3 * time.Second)
					id, after := m.served("alice")
					switch tc.want {
					case "new":
						require.Equal(t, clicked, id)
					case "apn_alice, unchanged":
						require.Equal(t, "apn_alice", id)
						require.Equal(t, token, after)
						return
					default:
						require.Equal(t, tc.want, id)
						require.Equal(t, clicked, id)
					}
					require.NotEqual(t, token, after)
					require.Equal(t, m.sim.Token(id), after)
					m.sim.ResetRequests()
					for range 30 {
						time.Sleep(time.Second)
						m.served("alice")
					}
					require.LessOrEqual(t, m.sim.Count(pipedreamtest.KindList), 0, "a success ends the looks")
				})
			})
		}
	}
}

// A refresh during the life of a link is not what the link did.
func TestARefreshIsNoReconnection(t *testing.T) {
	ownBubble(t, func(t *testing.T, m *mount) {
		a := connectAccount("apn_second", "alice")
		a.OAuthAppID, a.CreatedAt, a.Name = "oa_ours", time.Now().Add(-time.Hour), "work"
		m.sim.SetAccount(a)
		m.served("alice")
		resp := m.connect("alice", logical.UpdateOperation, map[string]any{"account": "work", "expires_in": "4h"})
		link, id := resp.Data["connect_link_url"].(string), resp.Data["link_id"].(string)
		for range 3 * 60 { // two refreshes
			time.Sleep(time.Minute)
			served, _ := m.served("alice")
			require.Equal(t, "apn_alice", served)
		}
		require.Equal(t, "open", m.connect("alice", logical.ReadOperation, map[string]any{"link_id": id}).Data["link_status"])
		m.click(link)
		time.Sleep(lookLate)
		served, token := m.served("alice")
		require.Equal(t, "apn_second", served)
		require.Equal(t, m.sim.Token("apn_second"), token)
	})
}

// lookLate is how often reads look two minutes after a link was made.
const lookLate = 15 * time.Second

// From the click to the new token it takes at most 5 s of reads every second.
func TestHowSoonAReconnectionIsServed(t *testing.T) {
	for after := range 8 {
		ownBubble(t, func(t *testing.T, m *mount) {
			m.served("alice")
			link := m.link("alice", map[string]any{"reconnect": true})
			var clicked time.Time
			for i := range 20 {
				if i == after {
					m.click(link)
					clicked = time.Now()
				}
				if _, token := m.served("alice"); i >= after && token == m.sim.Token("apn_alice") {
					require.LessOrEqual(t, time.Since(clicked), 5*time.Second)
					return
				}
				time.Sleep(time.Second)
			}
			t.Error("the new token was never served")
		})
	}
}

// A reader without a link pays nothing for those who have one, and links end.
func TestWhatLooksCost(t *testing.T) {
	ownBubble(t, func(t *testing.T, m *mount) {
		m.served("alice")
		m.served("bob")
		m.connect("alice", logical.UpdateOperation, map[string]any{"reconnect": true, "expires_in": "5m"})
		m.sim.ResetRequests()
		for range 5 * 60 {
			m.served("bob")
			time.Sleep(time.Second)
		}
		require.Empty(t, m.sim.Requests())
		for range 60 {
			m.served("alice")
			time.Sleep(time.Second)
		}
		require.Empty(t, m.sim.Requests(), "the link has ended")
	})
}

// 200 users who reconnect at once are served the new token as soon as a quarter of the
// limit allows, at 400 requests a minute, which is the default of a Connect project, and at
// 100. Nobody else's cold read is later for it. They make their links one after the other,
// because a mount makes 90 a minute.
func TestManyUsersReconnectAtOnce(t *testing.T) {
	for _, limit := range []int{100, 400} {
		t.Run(strconv.Itoa(limit), func(t *testing.T) {
			t.Parallel()
			ownBubble(t, func(_ *testing.T, m *mount) { m.reconnectAtOnce(200, limit) })
		})
	}
}

func (m *mount) reconnectAtOnce(users, limit int) {
	m.Helper()
	_, err := m.write("config", map[string]any{"rate_limit": limit})
	require.NoError(m, err)
	name := func(i int) string { return fmt.Sprintf("user-%d", i) }
	links := make([]string, users)
	for i := range users {
		a := connectAccount(accountName(i), name(i))
		a.OAuthAppID = "oa_ours"
		m.sim.SetAccount(a)
		m.served(name(i))
		links[i] = m.link(name(i), map[string]any{"reconnect": true, "expires_in": "4h"})
		time.Sleep(5 * time.Minute / time.Duration(limit)) // a read and a link cost 3 requests
	}
	time.Sleep(time.Minute)
	for _, link := range links {
		m.click(link)
	}
	m.sim.ResetRequests()
	quarter, seen := limit/4, map[int]bool{}
	for minute := 1; len(seen) < users; minute++ {
		for range 30 {
			for i := range users {
				if seen[i] {
					continue
				}
				if _, token := m.served(name(i)); token == m.sim.Token(accountName(i)) {
					seen[i] = true
				}
			}
			time.Sleep(2 * time.Second)
		}
		require.GreaterOrEqual(m, len(seen), min(users, quarter*minute))
		require.LessOrEqual(m, m.sim.Count(pipedreamtest.KindList), quarter*minute, "a quarter of the limit")
		cold := connectAccount(fmt.Sprintf("apn_cold%d", minute), "somebody")
		m.sim.SetAccount(cold)
		began := time.Now()
		m.creds(cold.ID)
		require.Zero(m, time.Since(began))
	}
	m.sim.ResetRequests()
	for i := range users {
		_, token := m.served(name(i))
		require.Equal(m, m.sim.Token(accountName(i)), token)
	}
	require.Empty(m, m.sim.Requests(), "a success ends the looks")
}

// A read of connect/ says what is connected, and costs one request at most.
func TestWhatIsConnected(t *testing.T) {
	for name, tc := range map[string]struct {
		change    func(*mount)
		connected bool
		account   string
		warning   string
	}{
		"healthy": {connected: true, account: "apn_alice"},
		"none":    {change: func(m *mount) { m.sim.DeleteAccount("apn_alice") }},
		"dead": {change: func(m *mount) {
			m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Dead, a.Error = true, "gone" })
		}},
		"unhealthy":         {change: func(m *mount) { m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Unhealthy = true }) }, connected: true, account: "apn_alice"},
		"no credentials":    {change: func(m *mount) { m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.NoCredentials = true }) }, account: "apn_alice", warning: "Pipedream hands out no credentials for account apn_alice"},
		"lacks a scope":     {change: func(m *mount) { m.role("github", map[string]any{"required_scopes": "admin"}) }, connected: true, account: "apn_alice", warning: "(admin)"},
		"on another client": {change: func(m *mount) { m.role("github", map[string]any{"oauth_app_id": "oa_other"}) }, warning: "connected with an OAuth client other than the role's oauth_app_id"},
		"on Pipedream's client": {change: func(m *mount) {
			m.role("github", map[string]any{"oauth_app_id": "oa_ours"})
			m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.OAuthAppID, a.NoCredentials = "", true })
		}, warning: "connected with an OAuth client other than the role's oauth_app_id"},
	} {
		t.Run(name, func(t *testing.T) {
			ownBubble(t, func(t *testing.T, m *mount) {
				m.creds("apn_bob") // fetches the access token
				if tc.change != nil {
					tc.change(m)
				}
				m.sim.ResetRequests()
				resp := m.connect("alice", logical.ReadOperation, nil)
				require.Equal(t, tc.connected, resp.Data["connected"])
				require.Equal(t, "alice", resp.Data["external_user_id"])
				if tc.account == "" {
					require.NotContains(t, resp.Data, "account_id")
				} else {
					require.Equal(t, tc.account, resp.Data["account_id"])
				}
				if tc.warning == "" {
					require.Empty(t, resp.Warnings)
				} else {
					require.Contains(t, strings.Join(resp.Warnings, "\n"), tc.warning)
				}
				m.noSecretIn(fmt.Sprint(resp.Data, resp.Warnings))
				if name != "on Pipedream's client" { // the filter has to tell
					require.Len(t, m.sim.Requests(), 1)
				}
				m.sim.ResetRequests()
				m.connect("alice", logical.ReadOperation, nil)
				require.Empty(t, m.sim.Requests(), "it is known")
				if name == "on another client" || name == "on Pipedream's client" {
					_, err := m.as("alice")
					m.refused(err, http.StatusBadRequest, "connected with an OAuth client other than the role's oauth_app_id")
					require.NotContains(t, err.Error(), "connect one")
				}
				accounts, _ := resp.Data["accounts"].([]any)
				if name != "none" {
					require.Len(t, accounts, 1)
					require.Equal(t, "apn_alice", accounts[0].(map[string]any)["id"])
				}
				require.NotContains(t, fmt.Sprint(m.connect("bob", logical.ReadOperation, nil).Data), "apn_alice")
			})
		})
	}
}

// A read with wait answers as soon as it is known what the link did.
func TestWaitingForALink(t *testing.T) {
	ownBubble(t, func(t *testing.T, m *mount) {
		m.sim.DeleteAccount("apn_alice")
		resp := m.connect("alice", logical.UpdateOperation, nil)
		link, id := resp.Data["connect_link_url"].(string), resp.Data["link_id"].(string)
		wait := map[string]any{"link_id": id, "wait": "10s"}
		began := time.Now()
		resp = m.connect("alice", logical.ReadOperation, wait)
		require.Equal(t, 10*time.Second, time.Since(began))
		require.Equal(t, "open", resp.Data["link_status"])
		require.Equal(t, false, resp.Data["connected"])

		began = time.Now()
		time.AfterFunc(2*time.Second, func() { _, _ = m.sim.Click(link + "&oauthAppId=oa_ours") })
		resp = m.connect("alice", logical.ReadOperation, wait)
		require.Less(t, time.Since(began), 6*time.Second)
		require.Equal(t, "connected", resp.Data["link_status"])
		require.Equal(t, resp.Data["account_id"], resp.Data["link_account_id"])
		require.Equal(t, true, resp.Data["connected"])

		began = time.Now()
		require.Equal(t, "connected", m.connect("alice", logical.ReadOperation, wait).Data["link_status"])
		require.Equal(t, "unknown", m.connect("bob", logical.ReadOperation, wait).Data["link_status"], "a link of alice's")
		require.Equal(t, "unknown", m.connect("alice", logical.ReadOperation, map[string]any{"link_id": "x", "wait": 10}).Data["link_status"])
		require.Zero(t, time.Since(began))
		for _, data := range []map[string]any{{"wait": "1s"}, {"link_id": id, "wait": "11s"}, {"link_id": id, "wait": -1}} {
			_, err := m.tryAs("alice", logical.ReadOperation, data)
			m.refused(err, http.StatusBadRequest, "wait")
		}
		_, err := m.tryAs("alice", logical.ReadOperation, map[string]any{"link_id": id, "wiat": "1s"})
		m.refused(err, http.StatusBadRequest, "no parameters named [wiat]")
	})
}

// A read that waited all its time says what the link did also if Pipedream cannot be
// asked for the accounts, or not soon enough. It says that they are of before.
func TestWaitingWhilePipedreamCannotBeAsked(t *testing.T) {
	for name, fault := range map[string]pipedreamtest.Fault{
		"down":    {Status: 503},
		"hanging": {Hang: true},
		"full":    {Status: 429, Header: http.Header{"Retry-After": {"50"}}},
	} {
		t.Run(name, func(t *testing.T) {
			ownBubble(t, func(t *testing.T, m *mount) {
				id := m.connect("alice", logical.UpdateOperation, map[string]any{"reconnect": true}).Data["link_id"]
				fault.Kind = pipedreamtest.KindList
				m.sim.AddFault(fault)
				time.Sleep(time.Minute)
				began := time.Now()
				resp := m.connect("alice", logical.ReadOperation, map[string]any{"link_id": id, "wait": "10s"})
				require.LessOrEqual(t, time.Since(began), 10*time.Second)
				require.Equal(t, "open", resp.Data["link_status"])
				require.Equal(t, "apn_alice", resp.Data["account_id"])
				require.Contains(t, strings.Join(resp.Warnings, "\n"), "Pipedream listed these accounts 1m10s ago, and could not be asked just now")
				_, err := m.tryAs("alice", logical.ReadOperation, nil)
				require.Error(t, err, "who asks for no link asks for the accounts")
			})
		})
	}
}

// However many wait, none of them is in flight for more than 10 s, and only two for each
// caller and user.
func TestManyWaitForLinks(t *testing.T) {
	ownBubble(t, func(t *testing.T, m *mount) {
		const users = 120
		var all sync.WaitGroup
		ids := make([]string, users)
		for i := range users {
			if i%80 == 79 {
				time.Sleep(time.Minute)
			}
			ids[i] = m.connect(fmt.Sprint("user-", i), logical.UpdateOperation, nil).Data["link_id"].(string)
		}
		began := time.Now()
		var mu sync.Mutex
		waited := map[bool]int{}
		for i := range users {
			for range 3 {
				all.Go(func() {
					if _, err := m.tryAs(fmt.Sprint("user-", i), logical.ReadOperation, map[string]any{"link_id": ids[i], "wait": "10s"}); err != nil {
						t.Errorf("a read failed: %v", err)
					}
					mu.Lock()
					defer mu.Unlock()
					waited[time.Since(began) > time.Second]++
				})
			}
		}
		all.Wait()
		require.LessOrEqual(t, time.Since(began), 10*time.Second)
		require.Equal(t, map[bool]int{true: 200, false: 3*users - 200}, waited)
	})
}

// If an account had another name in the app before a link signed in to it, every answer
// about it says so for a day, also after a restart. Programs and people who
// only read credentials have no other way to learn of it.
func TestSomebodyElseSignedIn(t *testing.T) {
	const warning = "account apn_alice had another name or user in the app before it was signed in to again: somebody else may have signed in"
	for identity, warns := range map[string]bool{"": false, "mallory": true} {
		ownBubble(t, func(t *testing.T, m *mount) {
			m.served("alice")
			m.sim.SetLinkPage(pipedreamtest.LinkPage{Identity: identity})
			made := m.connect("alice", logical.UpdateOperation, map[string]any{"reconnect": true}).Data
			asks := map[string]func(alias string) (*logical.Response, error){}
			for _, path := range []string{"creds/github", "static-creds/github", "connect/github"} {
				asks[path] = func(alias string) (*logical.Response, error) { return m.askAs(alias, logical.ReadOperation, path, nil) }
			}
			asks["by name"] = func(alias string) (*logical.Response, error) {
				return m.askAs(alias, logical.ReadOperation, "creds/github", map[string]any{"account": "apn_" + alias})
			}
			all := func(alias string, warns bool, when string) {
				for path, ask := range asks {
					resp, err := ask(alias)
					require.NoError(t, err, path)
					require.Equal(t, warns, strings.Contains(strings.Join(resp.Warnings, "\n"), warning), "%s as %s %s", path, alias, when)
					if warns {
						require.Contains(t, strings.Join(resp.Warnings, "\n"), "vault write pipedream/connect/github account=apn_alice")
					}
				}
			}
			all("alice", false, "before the click")
			m.click(made["connect_link_url"].(string))
			resp := m.connect("alice", logical.ReadOperation, map[string]any{"link_id": made["link_id"], "wait": "10s"})
			require.Equal(t, "connected", resp.Data["link_status"])
			require.Equal(t, warns, strings.Contains(strings.Join(resp.Warnings, "\n"), warning))
			all("alice", warns, "after the click")
			all("bob", false, "after the click")
			m.start()
			all("alice", warns, "after a restart")
			for range 12 { // after the link's own end
				time.Sleep(5 * time.Minute)
				m.link("alice", map[string]any{"new": true})
			}
			all("alice", warns, "after other links")
			time.Sleep(22 * time.Hour)
			all("alice", warns, "on the same day")
			time.Sleep(time.Hour)
			all("alice", false, "a day later")
		})
	}
}

// A new account is that of one link: of the one that was to make it.
func TestANewAccountIsThatOfOneLink(t *testing.T) {
	for name, wishes := range map[string][]map[string]any{
		"reconnect, then new": {{"reconnect": true}, {"new": true}},
		"new, then reconnect": {{"new": true}, {"reconnect": true}},
		"new twice":           {{"new": true}, {"new": true}},
	} {
		for opened := range wishes {
			t.Run(fmt.Sprintf("%s, number %d is opened", name, opened+1), func(t *testing.T) {
				ownBubble(t, func(t *testing.T, m *mount) {
					m.served("alice")
					var links []map[string]any
					for _, wish := range wishes {
						links = append(links, m.connect("alice", logical.UpdateOperation, wish).Data)
						time.Sleep(time.Minute)
					}
					connected := m.click(links[opened]["connect_link_url"].(string) + "&oauthAppId=oa_ours")
					time.Sleep(20 * time.Second)
					served, _ := m.served("alice")
					require.Equal(t, "apn_alice", served, "another account is only a choice")
					done := 0
					for _, link := range links {
						got := m.connect("alice", logical.ReadOperation, map[string]any{"link_id": link["link_id"]}).Data
						if got["link_status"] == "connected" {
							done++
							require.Equal(t, connected, got["link_account_id"])
						}
					}
					require.Equal(t, 1, done)
				})
			})
		}
	}
}

// Whoever makes another link has left the one before.
func TestTheLatestLinkIsOpened(t *testing.T) {
	ownBubble(t, func(t *testing.T, m *mount) {
		_ = m.connect("carol", logical.UpdateOperation, nil)
		time.Sleep(time.Minute)
		second := m.connect("carol", logical.UpdateOperation, nil).Data
		connected := m.click(second["connect_link_url"].(string) + "&oauthAppId=oa_ours")
		got := m.connect("carol", logical.ReadOperation, map[string]any{"link_id": second["link_id"], "wait": "10s"}).Data
		require.Equal(t, "connected", got["link_status"])
		require.Equal(t, connected, got["link_account_id"])
	})
}

// connected says what reads do.
func TestConnectedWithEnforcedScopes(t *testing.T) {
	for name, enforced := range map[string]bool{"enforced": true, "warned of": false} {
		t.Run(name, func(t *testing.T) {
			ownBubble(t, func(t *testing.T, m *mount) {
				m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Scopes = []string{"repo"} })
				m.role("github", map[string]any{"required_scopes": "admin", "enforce_scopes": enforced})
				_, err := m.as("alice")
				require.Equal(t, enforced, err != nil)
				require.Equal(t, !enforced, m.connect("alice", logical.ReadOperation, nil).Data["connected"])
			})
		})
	}
}

// What a second link to one account did is served, too, and its reader is warned.
func TestTwoLinksReconnectOneAccount(t *testing.T) {
	for name, order := range map[string][2]int{"in order": {0, 1}, "the other way round": {1, 0}} {
		t.Run(name, func(t *testing.T) {
			ownBubble(t, func(t *testing.T, m *mount) {
				m.served("alice")
				var links [2]string
				for i := range links {
					links[i] = m.link("alice", map[string]any{"reconnect": true})
					time.Sleep(time.Minute)
				}
				m.click(links[order[0]])
				time.Sleep(20 * time.Second)
				_, token := m.served("alice")
				require.Equal(t, m.sim.Token("apn_alice"), token)
				m.sim.SetLinkPage(pipedreamtest.LinkPage{Identity: "mallory"})
				m.click(links[order[1]])
				time.Sleep(20 * time.Second)
				m.served("alice")
				resp, err := m.as("alice")
				require.NoError(t, err)
				require.Equal(t, m.sim.Token("apn_alice"), resp.Data["oauth_access_token"])
				require.Contains(t, strings.Join(resp.Warnings, "\n"), "somebody else may have signed in")
			})
		})
	}
}

// A link that was made while nobody could list the user's accounts connects what is
// connected later, and nothing that there was.
func TestALinkMadeBlind(t *testing.T) {
	for name, read := range map[string]bool{"nothing was read before": false, "read before": true} {
		for _, ahead := range []time.Duration{0, time.Hour, -time.Hour} {
			t.Run(fmt.Sprintf("%s, clock %s ahead", name, ahead), func(t *testing.T) {
				ownBubble(t, func(t *testing.T, m *mount) {
					m.start()
					m.b.transport = &elsewhen{next: m.sim.Transport(), ahead: ahead}
					m.b.connections.reset()
					m.creds("apn_bob") // the time is known
					if read {
						m.served("alice")
					}
					remove := m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: 503})
					wish := map[string]any{}
					if read {
						wish["new"] = true
					}
					made := m.connect("alice", logical.UpdateOperation, wish).Data
					remove()
					status := func() map[string]any {
						return m.connect("alice", logical.ReadOperation, map[string]any{"link_id": made["link_id"]}).Data
					}
					time.Sleep(time.Minute)
					require.Equal(t, "open", status()["link_status"])
					connected := m.click(made["connect_link_url"].(string) + "&oauthAppId=oa_ours")
					time.Sleep(20 * time.Second)
					require.Equal(t, "connected", status()["link_status"])
					require.Equal(t, connected, status()["link_account_id"])
				})
			})
		}
	}
}

// A role with oauth_app_id serves no account that was connected anew with another client,
// however it is read.
func TestAnAccountThatMovesToAnotherClient(t *testing.T) {
	for name, move := range map[string]func(*mount){
		"in Pipedream": func(m *mount) {
			m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.OAuthAppID = "oa_other" })
			m.sim.Rotate("apn_alice")
		},
		"with the link of another role": func(m *mount) {
			resp, err := m.askAs("alice", logical.UpdateOperation, "connect/other", map[string]any{})
			require.NoError(m, err)
			require.Equal(m, "apn_alice", m.click(resp.Data["connect_link_url"].(string)+"&accountId=apn_alice"))
			m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.OAuthAppID = "oa_other" })
		},
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarted %t", name, restarted), func(t *testing.T) {
				linkBubble(t, func(t *testing.T, m *mount) {
					m.role("other", map[string]any{"app": "github", "external_user_id": eachUsersGithub["external_user_id"], "oauth_app_id": "oa_other"})
					m.setClient("apn_alice")
					m.served("alice")
					time.Sleep(time.Minute)
					move(m)
					time.Sleep(2 * time.Hour)
					if restarted {
						m.start()
					}
					for range 3 {
						for _, data := range []map[string]any{nil, {"account": "apn_alice"}} {
							_, err := m.askAs("alice", logical.ReadOperation, "creds/github", data)
							require.Error(t, err)
							_, err = m.askAs("alice", logical.UpdateOperation, "refresh/github", data)
							require.Error(t, err)
						}
						_, err := m.as("alice")
						m.refused(err, http.StatusBadRequest, "connected with an OAuth client other than the role's oauth_app_id")
						require.Equal(t, false, m.connect("alice", logical.ReadOperation, nil).Data["connected"])
						time.Sleep(10 * time.Minute)
					}
					resp, err := m.askAs("alice", logical.ReadOperation, "creds/other", nil)
					require.NoError(t, err)
					require.Equal(t, "apn_alice", resp.Data["pipedream_account_id"])
				})
			})
		}
	}
}

// Where a reconnection is refused, the text leads to another account.
func TestAReconnectionThatIsRefused(t *testing.T) {
	ownBubble(t, func(t *testing.T, m *mount) {
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.Dead = true })
		m.sim.SetLinkPage(pipedreamtest.LinkPage{RefuseReconnect: true})
		resp := m.connect("alice", logical.UpdateOperation, map[string]any{"expires_in": "1m"})
		_, err := m.sim.Click(resp.Data["connect_link_url"].(string))
		require.Error(t, err)
		time.Sleep(time.Minute)
		resp = m.connect("alice", logical.ReadOperation, map[string]any{"link_id": resp.Data["link_id"]})
		require.Equal(t, "ended", resp.Data["link_status"])
		require.Contains(t, strings.Join(resp.Warnings, "\n"), "vault write pipedream/connect/github new=true")
		id := m.click(m.link("alice", map[string]any{"new": true}) + "&oauthAppId=oa_ours")
		served, _ := m.served("alice")
		require.Equal(t, id, served)
	})
}

// connected says what reads do, if the known account has lost its credentials and another
// one has some.
func TestConnectedBesideAnAccountWithoutCredentials(t *testing.T) {
	ownBubble(t, func(t *testing.T, m *mount) {
		_, err := m.as("alice")
		require.NoError(t, err)
		time.Sleep(time.Minute)
		a := connectAccount("apn_second", "alice")
		a.OAuthAppID = "oa_ours"
		m.sim.SetAccount(a)
		m.sim.Update("apn_alice", func(a *pipedreamtest.Account) { a.OAuthAppID, a.NoCredentials = "", true })
		time.Sleep(2 * time.Hour)
		data := m.connect("alice", logical.ReadOperation, nil).Data
		resp, err := m.as("alice")
		require.NoError(t, err)
		require.Equal(t, true, data["connected"])
		require.Equal(t, resp.Data["pipedream_account_id"], data["account_id"])
	})
}

// One list without any account, while a link is made, changes nothing that is served.
func TestOneWrongListAtALink(t *testing.T) {
	for name, wish := range map[string]map[string]any{"": nil, "reconnect": {"reconnect": true}, "new": {"new": true}} {
		t.Run(name, func(t *testing.T) {
			ownBubble(t, func(t *testing.T, m *mount) {
				second := connectAccount("apn_second", "alice")
				second.OAuthAppID, second.CreatedAt = "oa_ours", time.Now().Add(-time.Hour)
				m.sim.SetAccount(second)
				third := second
				m.served("alice")
				time.Sleep(time.Minute)
				third.ID, third.CreatedAt = "apn_third", time.Now()
				m.sim.SetAccount(third)
				time.Sleep(time.Minute)
				m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Times: 1, Status: http.StatusOK, Body: `{"page_info":{"total_count":0},"data":[]}`})
				resp, err := m.tryAs("alice", logical.UpdateOperation, wish)
				if wish == nil {
					m.refused(err, http.StatusBadRequest, "connected and healthy")
					return
				}
				require.NoError(t, err)
				time.Sleep(10 * time.Second)
				id, _ := m.served("alice")
				require.Equal(t, "apn_alice", id)
				require.Equal(t, "open", m.connect("alice", logical.ReadOperation, map[string]any{"link_id": resp.Data["link_id"]}).Data["link_status"])
			})
		})
	}
}
