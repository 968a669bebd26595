package pipedream

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// removals are all ways to remove alice's only GitHub account.
var removals = map[string]func(m *mount) (*logical.Response, error){
	"connect": func(m *mount) (*logical.Response, error) { return m.disconnect("alice", nil) },
	"connect, with the id": func(m *mount) (*logical.Response, error) {
		return m.disconnect("alice", map[string]any{"account": "apn_alice"})
	},
	"connect, all": func(m *mount) (*logical.Response, error) {
		return m.disconnect("alice", map[string]any{"all": "true"})
	},
	"the account": func(m *mount) (*logical.Response, error) {
		return m.handle(logical.DeleteOperation, "accounts/apn_alice", nil)
	},
	"the user": func(m *mount) (*logical.Response, error) {
		return m.handle(logical.DeleteOperation, "users/alice", nil)
	},
}

func (m *mount) disconnect(alias string, data map[string]any) (*logical.Response, error) {
	m.Helper()
	return m.askAs(alias, logical.DeleteOperation, "connect/github", data)
}

// eachRemoval runs f for each way to remove alice's account, or only those with these
// names. She has read it.
func eachRemoval(t *testing.T, f func(t *testing.T, m *mount, remove func() (*logical.Response, error)), names ...string) {
	t.Helper()
	for name, remove := range removals {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				m.role("github", eachUsersGithub)
				m.role("alices", map[string]any{"account_id": "apn_alice"})
				for _, user := range []string{"alice", "bob"} {
					_, err := m.as(user)
					require.NoError(t, err)
				}
				m.sim.ResetRequests()
				time.Sleep(time.Minute)
				f(t, m, func() (*logical.Response, error) { return remove(m) })
			})
		})
	}
}

// isRemoval reports whether a request is to remove something at Pipedream.
func isRemoval(r pipedreamtest.Request) bool { return r.Method == http.MethodDelete }

// removes returns the requests that removed something, or were to.
func (m *mount) removes() (sent []pipedreamtest.Request) {
	for _, r := range m.sim.Requests() {
		if isRemoval(r) {
			sent = append(sent, r)
		}
	}
	return sent
}

// gone asserts that nobody is served alice's account, in whatever way it is read, now,
// later, or after a restart.
func (m *mount) gone() {
	m.Helper()
	for round := range 2 {
		for range 3 {
			for _, path := range []string{"creds/github", "static-creds/github"} {
				_, err := m.handleAs("alice", logical.ReadOperation, path)
				require.Error(m, err, path)
				_, err = m.askAs("alice", logical.ReadOperation, path, map[string]any{"account": "apn_alice"})
				require.Error(m, err, "%s account=", path)
			}
			for _, path := range []string{"creds/apn_alice", "static-creds/apn_alice", "creds/alices"} {
				_, err := m.read(path)
				require.Error(m, err, path)
			}
			_, err := m.as("bob")
			require.NoError(m, err, "bob keeps his")
			m.periodic()
			time.Sleep(5 * time.Second)
		}
		if round == 0 {
			m.start()
		}
	}
	keys, err := m.cachedKeys()
	require.NoError(m, err)
	require.NotContains(m, keys, "apn_alice")
	require.NotContains(m, keys, githubOfAlice())
}

func TestWhatIsRemovedIsServedToNobody(t *testing.T) {
	eachRemoval(t, func(t *testing.T, m *mount, remove func() (*logical.Response, error)) {
		resp, err := remove()
		require.NoError(t, err)
		require.Equal(t, []string{"apn_alice"}, resp.Data["disconnected"])
		require.Contains(t, strings.Join(resp.Warnings, ""), "work until they expire")
		require.Len(t, m.removes(), 1)
		m.gone()
		resp, err = remove()
		if err == nil { // a name that is not there any more is no choice
			require.Empty(t, resp.Data["disconnected"], "once more")
			require.Contains(t, strings.Join(resp.Warnings, ""), "there was no")
		}
	})
}

// Each access token is for its purpose alone, and is asked for only when it is needed.
func TestScopesOfRemovals(t *testing.T) {
	eachRemoval(t, func(t *testing.T, m *mount, remove func() (*logical.Response, error)) {
		m.configureClient(map[string]any{"project_id": testProject, "scope": "connect:accounts:read"})
		m.start()
		m.sim.ResetRequests()
		_, err := m.as("bob")
		require.NoError(t, err)
		require.LessOrEqual(t, m.sim.Count(pipedreamtest.KindToken), 1, "reads need no token for removals")
		m.sim.ResetRequests()
		_, err = remove()
		require.NoError(t, err)
		scope := "connect:accounts:write"
		if strings.Contains(m.removes()[0].Path, "/users/") {
			scope = "connect:users:write"
		}
		var scopes []string
		for _, r := range m.sim.Requests() {
			if r.Kind == pipedreamtest.KindToken && !strings.Contains(r.Body, "accounts:read") {
				scopes = append(scopes, r.Body)
			}
		}
		require.Len(t, scopes, 1)
		require.Contains(t, scopes[0], `"scope":"`+scope+`"`)
	})
}

// What Pipedream answers to a removal.
func TestAnswersToARemoval(t *testing.T) {
	type fault = pipedreamtest.Fault
	const changed, unchanged, undecided = "changed", "unchanged", "undecided"
	html := func(status int) fault { return fault{Status: status, Garbage: true} }
	for name, tc := range map[string]struct {
		fault fault
		is    string
		code  int
		texts []string
	}{
		"200":                           {fault: fault{Performed: true, Status: 200, Body: "{}"}, is: changed},
		"204":                           {is: changed},
		"204 after a while":             {fault: fault{Delay: 5 * time.Second}, is: changed},
		"404":                           {fault: fault{Performed: true, Status: 404}, is: changed},
		"410":                           {fault: fault{Performed: true, Status: 410}, is: changed},
		"400":                           {fault: fault{Status: 400}, is: unchanged, code: 400, texts: []string{"rejected the request", "(HTTP 400)"}},
		"401":                           {fault: fault{Status: 401}, is: unchanged, code: 400, texts: []string{"may not use the scope connect:", ":write"}},
		"402":                           {fault: fault{Status: 402}, is: unchanged, code: 400, texts: []string{"payment"}},
		"403":                           {fault: fault{Status: 403}, is: unchanged, code: 400, texts: []string{"may not use the scope connect:", ":write", "Allow it that scope in Pipedream's settings"}},
		"405":                           {fault: fault{Status: 405}, is: unchanged, code: 502},
		"422":                           {fault: fault{Status: 422}, is: unchanged, code: 400, texts: []string{"(HTTP 422)"}},
		"429":                           {fault: fault{Status: 429, Header: http.Header{"Retry-After": {"7"}}}, is: unchanged, code: 429, texts: []string{"try again in 7 s"}},
		"a redirect":                    {fault: fault{Redirect: "https://example.com"}, is: unchanged, code: 502, texts: []string{"redirect"}},
		"a gateway's 403":               {fault: html(403), is: unchanged, code: 502},
		"a gateway's 404":               {fault: html(404), is: unchanged, code: 502},
		"a gateway's 401":               {fault: html(401), is: unchanged, code: 502},
		"a gateway's 200":               {fault: html(200), is: undecided, code: 502},
		"500":                           {fault: fault{Status: 500}, is: undecided, code: 502, texts: []string{"status 500"}},
		"502 of a gateway":              {fault: html(502), is: undecided, code: 502},
		"503":                           {fault: fault{Status: 503}, is: undecided, code: 502},
		"504":                           {fault: html(504), is: undecided, code: 502},
		"408":                           {fault: html(408), is: undecided, code: 502},
		"no answer":                     {fault: fault{Hang: true}, is: undecided, code: 502, texts: []string{"did not answer in time"}},
		"the connection is lost":        {fault: fault{Cut: true}, is: undecided, code: 502},
		"done, and 502":                 {fault: fault{Performed: true, Status: 502}, is: undecided, code: 502},
		"done, and no answer":           {fault: fault{Performed: true, Hang: true}, is: undecided, code: 502},
		"done, and the connection lost": {fault: fault{Performed: true, Cut: true}, is: undecided, code: 502},
	} {
		t.Run(name, func(t *testing.T) {
			eachRemoval(t, func(t *testing.T, m *mount, remove func() (*logical.Response, error)) {
				tc.fault.Where = isRemoval
				m.sim.AddFault(tc.fault)
				_, err := remove()
				sent := len(m.removes())
				switch tc.is {
				case changed:
					require.NoError(t, err)
					m.gone()
					return
				case unchanged:
					m.refused(err, tc.code, append(tc.texts, "nothing was changed")...)
				case undecided:
					m.refused(err, tc.code, append(tc.texts, " may or may not be ", "the next read asks Pipedream")...)
					require.Equal(t, 1, sent, "it is not repeated, so that its answer counts")
				}
				if tc.is == undecided && tc.fault.Performed {
					m.gone()
					return
				}
				m.sim.ResetRequests()
				_, err = m.as("alice")
				require.NoError(t, err)
				if tc.is == undecided {
					require.NotEmpty(t, m.sim.Requests(), "it is fetched anew")
					m.sim.ResetRequests()
				}
				m.stayRemembered("alices")
			}, "connect", "the account", "the user")
		})
	}
}

// If no access token for removals can be had, nothing was sent.
func TestNoTokenForARemoval(t *testing.T) {
	for name, tc := range map[string]struct {
		fault pipedreamtest.Fault
		code  int
		text  string
	}{
		"the scope is refused":  {pipedreamtest.Fault{Status: 400, Body: `{"error":"invalid_scope"}`}, 400, "may not use the scope connect:"},
		"the client is refused": {pipedreamtest.Fault{Status: 401, Body: `{"error":"invalid_client"}`}, 400, "may not use the scope connect:"},
		"an outage":             {pipedreamtest.Fault{Status: 503}, 502, "Pipedream is not available"},
		"no answer":             {pipedreamtest.Fault{Hang: true}, 502, "did not answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			eachRemoval(t, func(t *testing.T, m *mount, remove func() (*logical.Response, error)) {
				tc.fault.Kind = pipedreamtest.KindToken
				m.sim.AddFault(tc.fault)
				_, err := remove()
				m.refused(err, tc.code, "nothing was changed", tc.text)
				require.Empty(t, m.removes())
				m.stayRemembered("alices")
				_, err = m.as("alice")
				require.NoError(t, err, "readers are not held off")
			})
		})
	}
}

// Nothing is removed that was not named.
func TestNothingIsRemovedThatWasNotNamed(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.twoAccounts()
		m.role("alices", map[string]any{"account_id": "apn_alice"})
		for name, tc := range map[string]struct {
			data  map[string]any
			texts []string
		}{
			"no parameter":       {nil, []string{"there are 2 accounts", `apn_alice2 ("play"), apn_alice ("work")`, "all=true"}},
			"all=false":          {map[string]any{"all": "false"}, []string{"there are 2 accounts"}},
			"all= nothing":       {map[string]any{"all": ""}, []string{"all is empty"}},
			"all=yes":            {map[string]any{"all": "yes"}, []string{"all must be true or false"}},
			"all=2":              {map[string]any{"all": "2"}, []string{"all must be true or false"}},
			"misspelt":           {map[string]any{"acount": "work"}, []string{"nothing was done", "[acount]"}},
			"misspelt, with all": {map[string]any{"acount": "work", "all": "true"}, []string{"nothing was done", "[acount]"}},
			"in capitals":        {map[string]any{"ACCOUNT": "work"}, []string{"nothing was done", "[ACCOUNT]"}},
			"of another verb":    {map[string]any{"expires_in": "1h", "all": "true"}, []string{"nothing was done", "[expires_in]"}},
			"both":               {map[string]any{"account": "work", "all": "true"}, []string{"either account or all=true"}},
			"empty":              {map[string]any{"account": ""}, []string{"account is empty"}},
			"another's id":       {map[string]any{"account": "apn_bob"}, []string{`no account "apn_bob"`}},
			"another's name":     {map[string]any{"account": "bobs"}, []string{`no account "bobs"`}},
			"a pattern":          {map[string]any{"account": "*"}, []string{`no account "*"`}},
			"two names":          {map[string]any{"account": "work,play"}, []string{`no account "work,play"`}},
			"a list":             {map[string]any{"account": []any{"work"}}, []string{"account must be a string"}},
		} {
			_, err := m.disconnect("alice", tc.data)
			m.refused(err, http.StatusBadRequest, tc.texts...)
			require.Empty(t, m.removes(), name)
		}
		for path, text := range map[string]string{
			"connect/alices":        "is for one account",
			"connect/nobody":        "there is no role",
			"connect/apn_alice":     "not for account ids",
			"accounts/alice":        "account_id must look like",
			"accounts/apn_alice/x":  "account_id must look like",
			"users/a b":             "is written b64:",
			"users/alice/x":         "is written b64:",
			"users/b64:YWxpY2U":     "is written alice",
			"users/b64:YS8uLi9ib2I": "cannot be sent in a path",
			"users/b64:Li4":         "cannot be sent in a path",
			"users/b64:eFwuLlxib2I": "cannot be sent in a path",
		} {
			_, err := m.askAs("alice", logical.DeleteOperation, path, nil)
			m.refused(err, http.StatusBadRequest, text)
		}
		for _, path := range []string{"accounts/apn_alice", "users/alice"} {
			_, err := m.handle(logical.DeleteOperation, path, map[string]any{"account": "apn_bob"})
			m.refused(err, http.StatusBadRequest, "nothing was done")
		}
		require.Empty(t, m.removes())
		_, err := m.disconnect("alice", map[string]any{"account": "work"})
		require.NoError(t, err)
		require.Len(t, m.removes(), 1)
		require.Equal(t, "apn_alice", m.removes()[0].AccountID)
		resp, err := m.as("alice")
		require.NoError(t, err)
		require.Equal(t, "apn_alice2", resp.Data["pipedream_account_id"], "she has another one")
	})
}

// A caller without an identity of their own disconnects nothing.
func TestARemovalIsOfTheCallersOwn(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		_, err := m.disconnect("", map[string]any{"all": "true"})
		m.refused(err, http.StatusBadRequest, "no identity entity")
		resp, err := m.disconnect("carol", map[string]any{"all": "true"})
		require.NoError(t, err)
		require.Empty(t, resp.Data["disconnected"])
		require.Contains(t, strings.Join(resp.Warnings, ""), `external user "carol" has no account with app "github"`)
		require.Empty(t, m.removes())
	})
}

// An account that was deleted in Pipedream is not served either, once its user
// disconnects it.
func TestDisconnectingWhatIsGoneAlready(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.role("github", eachUsersGithub)
		_, err := m.as("alice")
		require.NoError(t, err)
		m.sim.DeleteAccount("apn_alice")
		resp, err := m.disconnect("alice", nil)
		require.NoError(t, err)
		require.Empty(t, resp.Data["disconnected"])
		_, err = m.as("alice")
		require.Error(t, err)
	})
}

// If storage cannot forget it either, that is refused.
func TestDisconnectingWhatIsGoneWhileStorageFails(t *testing.T) {
	for _, another := range []bool{false, true} {
		connectBubble(t, func(t *testing.T, m *mount) {
			m.role("github", eachUsersGithub)
			_, err := m.as("alice")
			require.NoError(t, err)
			m.sim.DeleteAccount("apn_alice")
			if another {
				m.sim.SetAccount(connectAccount("apn_second", "alice"))
			}
			time.Sleep(time.Minute)
			m.storage.fail(nil, errStorage, errStorage, nil)
			_, err = m.disconnect("alice", map[string]any{"all": true})
			m.refused(err, http.StatusInternalServerError, "account apn_alice was not disconnected, and nothing was changed")
			require.Empty(t, m.removes())
		})
	}
}

// The account that reads return was deleted in Pipedream, and the user has another one
// there.
func TestDisconnectingBesideWhatIsGoneAlready(t *testing.T) {
	for name, restarted := range map[string]bool{"": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			connectBubble(t, func(t *testing.T, m *mount) {
				m.role("github", eachUsersGithub)
				_, err := m.as("alice")
				require.NoError(t, err)
				m.sim.SetAccount(connectAccount("apn_second", "alice"))
				m.sim.DeleteAccount("apn_alice")
				if restarted {
					m.start()
				}
				time.Sleep(time.Minute)

				_, err = m.disconnect("alice", nil)
				m.refused(err, http.StatusBadRequest, "nothing was done", "apn_alice", "apn_second")
				require.Empty(t, m.removes())
				resp, err := m.disconnect("alice", map[string]any{"all": true})
				require.NoError(t, err)
				require.Equal(t, []string{"apn_second"}, resp.Data["disconnected"])
				for range 2 {
					_, err = m.as("alice")
					require.Error(t, err)
					m.start()
				}
			})
		})
	}
}

// If one of several removals fails, the error says what was done.
func TestARemovalOfAllThatFailsInBetween(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		m.twoAccounts()
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindDelete, AccountID: "apn_alice", Status: 403})
		_, err := m.disconnect("alice", map[string]any{"all": "true"})
		m.refused(err, http.StatusBadRequest, "disconnected: apn_alice2. But account apn_alice was not disconnected")
		resp, err := m.as("alice")
		require.NoError(t, err)
		require.Equal(t, "apn_alice", resp.Data["pipedream_account_id"])
	})
}

// Without a project there is nowhere to remove anything.
func TestNoRemovalsInAWorkspace(t *testing.T) {
	bubble(t, func(t *testing.T, m *mount) {
		for _, path := range []string{"accounts/" + github, "users/alice"} {
			_, err := m.handle(logical.DeleteOperation, path, nil)
			m.refused(err, http.StatusBadRequest, "config has no project_id")
		}
		_, err := m.read("users/alice")
		m.refused(err, http.StatusBadRequest, "config has no project_id")
		require.Empty(t, m.sim.Requests())
	})
}

// What began before a removal brings nothing back, however late it ends.
func TestRacesWithARemoval(t *testing.T) {
	const late = 10 * time.Millisecond // for each byte of an answer: it is the one of before, and comes after
	slow := func(m *mount, kind pipedreamtest.Kind) {
		m.sim.AddFault(pipedreamtest.Fault{Kind: kind, Times: 1, SlowBody: late})
	}
	for name, begin := range map[string]func(m *mount){
		"a read of the account": func(m *mount) {
			m.start()
			m.emptyCache()
			slow(m, pipedreamtest.KindAccount)
			_, _ = m.read("creds/apn_alice")
		},
		"a read of the user": func(m *mount) {
			m.start()
			m.emptyCache()
			slow(m, pipedreamtest.KindList)
			_, _ = m.as("alice")
		},
		"a choice": func(m *mount) {
			slow(m, pipedreamtest.KindList)
			_, _ = m.askAs("alice", logical.ReadOperation, "creds/github", map[string]any{"account": "Octo Cat"})
		},
		"a refresh": func(m *mount) {
			slow(m, pipedreamtest.KindAccount)
			_, _ = m.handleAs("alice", logical.UpdateOperation, "refresh/github")
		},
		"a refresh of the account": func(m *mount) {
			slow(m, pipedreamtest.KindAccount)
			_, _ = m.write("refresh/apn_alice", nil)
		},
		"a page for others": func(m *mount) {
			m.emptyCache()
			slow(m, pipedreamtest.KindList)
			m.readMany()
		},
		"a page that is remembered": func(m *mount) {
			m.emptyCache()
			m.readMany()
			time.Sleep(time.Second)
		},
		"a load from storage": func(m *mount) {
			m.start()
			m.slowOnce("get", m.cacheKey("apn_alice"), 3*time.Second)
			_, _ = m.as("alice")
		},
		"a write to storage": func(m *mount) {
			m.emptyCache()
			m.slowOnce("put", m.cacheKey("apn_alice"), 3*time.Second)
			_, _ = m.read("creds/apn_alice")
		},
		"a write of the user": func(m *mount) {
			m.emptyCache()
			m.slowOnce("put", m.aliceKey(), 3*time.Second)
			_, _ = m.as("alice")
		},
		"a read that has a token to fall back on": func(m *mount) {
			time.Sleep(58 * time.Minute) // it is due
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, AccountID: "apn_alice", Times: 1, Hang: true})
			_, _ = m.as("alice")
		},
		"the pass": func(m *mount) {
			time.Sleep(58 * time.Minute)
			slow(m, pipedreamtest.KindAccount)
			m.periodic()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachRemoval(t, func(t *testing.T, m *mount, remove func() (*logical.Response, error)) {
				var reads sync.WaitGroup
				reads.Go(func() { begin(m) })
				time.Sleep(100 * time.Millisecond)
				if name == "a read that has a token to fall back on" || name == "the pass" {
					time.Sleep(58 * time.Minute)
				}
				_, err := remove()
				for err != nil && strings.Contains(err.Error(), "no account") { // by another choice
					_, err = m.handle(logical.DeleteOperation, "accounts/apn_alice", nil)
				}
				require.NoError(t, err)
				m.gone()
				reads.Wait()
				m.gone()
			}, "connect", "the user")
		})
	}
}

// emptyCache has the engine forget what it has of the accounts, and their users.
func (m *mount) emptyCache() {
	m.Helper()
	m.sim.SetOAuthClient(testClientID, "pd_client_secret_3", time.Hour)
	m.configureClient(map[string]any{"client_secret": "pd_client_secret_3", "project_id": testProject})
}

// readMany reads so many accounts that pages are fetched for them.
func (m *mount) readMany() {
	var reads sync.WaitGroup
	for i := range 40 {
		id := accountName(i)
		m.sim.SetAccount(connectAccount(id, fmt.Sprintf("user-%d", i)))
	}
	for i := range 40 {
		reads.Go(func() { _, _ = m.read("creds/" + accountName(i)) })
	}
	reads.Wait()
}

// A client that is rotated while a removal is under way brings nothing back.
func TestARotationDuringARemoval(t *testing.T) {
	eachRemoval(t, func(t *testing.T, m *mount, remove func() (*logical.Response, error)) {
		m.sim.AddFault(pipedreamtest.Fault{Where: isRemoval, Delay: 5 * time.Second})
		var removed sync.WaitGroup
		removed.Go(func() {
			_, err := remove()
			require.NoError(t, err)
		})
		time.Sleep(time.Second)
		m.rotateClient()
		_, err := m.as("alice")
		require.NoError(t, err, "it is there until Pipedream has answered")
		_, err = m.read("creds/apn_alice")
		require.NoError(t, err)
		removed.Wait()
		m.gone()
	})
}

// A caller who gives up does not stop a removal.
func TestARemovalOutlivesItsCaller(t *testing.T) {
	connectBubble(t, func(t *testing.T, m *mount) {
		_, err := m.read("creds/apn_alice")
		require.NoError(t, err)
		m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindDelete, Delay: 5 * time.Second})
		ctx, cancel := context.WithTimeout(m.Context(), time.Second)
		defer cancel()
		_, err = m.b.HandleRequest(ctx, &logical.Request{Operation: logical.DeleteOperation, Path: "accounts/apn_alice", Storage: m.storage, MountPoint: "pipedream/"})
		m.refused(err, http.StatusBadGateway, "the request ended before Pipedream answered", "may or may not be disconnected")
		time.Sleep(10 * time.Second)
		_, err = m.read("creds/apn_alice")
		require.Error(t, err)
	})
}

// Storage that cannot be written to could bring back what was removed, so nothing is.
func TestRemovalsAndStorageThatFails(t *testing.T) {
	eachRemoval(t, func(t *testing.T, m *mount, remove func() (*logical.Response, error)) {
		m.storage.fail(nil, errStorage, errStorage, nil)
		_, err := remove()
		m.refused(err, http.StatusInternalServerError, "nothing was changed", "Vault's storage could not be written to")
		require.Empty(t, m.removes())
		m.storage.fail(nil, nil, nil, nil)
		_, err = m.as("alice")
		require.NoError(t, err)
		m.periodic()
		m.stayRemembered("alices")
	})
	eachRemoval(t, func(t *testing.T, m *mount, remove func() (*logical.Response, error)) {
		m.sim.AddFault(pipedreamtest.Fault{Where: isRemoval, Delay: 5 * time.Second})
		var removed sync.WaitGroup
		removed.Go(func() {
			_, err := remove()
			require.NoError(t, err)
		})
		time.Sleep(time.Second)
		m.storage.fail(nil, errStorage, errStorage, nil)
		removed.Wait()
		_, err := m.read("creds/apn_alice")
		require.Error(t, err)
		m.start() // it was deleted from storage before it was removed
		_, err = m.read("creds/apn_alice")
		require.Error(t, err)
		m.storage.fail(nil, nil, nil, nil)
	})
}

// One list without any account does not make a disconnect succeed.
func TestOneWrongListAtADisconnect(t *testing.T) {
	for _, data := range []map[string]any{nil, {"all": true}, {"account": "apn_alice"}} {
		ownBubble(t, func(t *testing.T, m *mount) {
			m.served("alice")
			time.Sleep(time.Minute)
			m.sim.AddFault(pipedreamtest.Fault{Kind: pipedreamtest.KindList, Times: 1, Status: http.StatusOK, Body: `{"page_info":{"total_count":0},"data":[]}`})
			_, err := m.disconnect("alice", data)
			require.NoError(t, err)
			time.Sleep(10 * time.Minute)
			_, err = m.as("alice")
			require.Error(t, err)
		})
	}
}
