package acceptance

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	clientID  = "pdclient_of_the_workspace"
	projectID = "proj_acceptance"

	development = "development"
	production  = "production"
)

// connect is a mount that reads as an OAuth client of a workspace.
type connect struct {
	*mount

	clientSecret string
}

// onConnect enables the plugin on the shared server, for an empty Connect project.
func onConnect(t *testing.T, opts ...pipedreamtest.Option) *connect {
	t.Helper()
	return unconfigured(t, opts...).connect(t)
}

// connect adds an OAuth client to the simulated Pipedream, and configures the mount with it for a Connect project.
func (m *mount) connect(t *testing.T) *connect {
	t.Helper()
	c := &connect{mount: m}
	c.rotateClientSecret()
	c.configureClient(t, map[string]any{"project_id": projectID})
	m.sim.ResetRequests()
	return c
}

// rotateClientSecret gives the client a new secret in Pipedream.
func (c *connect) rotateClientSecret() {
	c.clientSecret = "pdsecret_" + rand.Text()
	c.sim.SetOAuthClient(clientID, c.clientSecret, 0)
}

// configureClient writes config with the client and the given fields.
func (c *connect) configureClient(t *testing.T, fields map[string]any) {
	t.Helper()
	config := map[string]any{"client_id": clientID, "client_secret": c.clientSecret, "base_url": c.apiURL}
	maps.Copy(config, fields)
	c.write(t, "config", config)
}

// connected is a user's GitHub account in the Connect project. Its token lives for an hour.
func connected(id, user string) pipedreamtest.Account {
	account := github()
	account.ID, account.Name, account.Project, account.ExternalUserID = id, user+" on GitHub", projectID, user
	return account
}

// connectedWith is connected with a change.
func connectedWith(id, user string, f func(*pipedreamtest.Account)) pipedreamtest.Account {
	account := connected(id, user)
	f(&account)
	return account
}

func TestConnectOfAWorkspaceWithoutAProject(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(github())
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.write(t, "config", map[string]any{"project_id": "", "scope": "*"})

	assert.Equal(t, c.sim.Token(githubID), c.read(t, "creds/"+githubID).Data["oauth_access_token"])
	keys, _ := c.list(t, "accounts", nil)
	assert.Equal(t, []string{githubID}, keys)
	refused(t, c.errorOf(t, "creds/apn_alice"), http.StatusBadRequest, "apn_alice", "OAuth client")
	_, err := c.vault.root.Logical().ReadWithData(c.in("accounts"), listing(map[string][]string{"external_user_id": {"alice"}}))
	refused(t, err, http.StatusBadRequest, "external_user_id", "project_id")
}

func TestConnectConfigIsReadWithoutItsSecret(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	config := c.read(t, "config").Data
	assert.Equal(t, clientID, config["client_id"])
	assert.Equal(t, projectID, config["project_id"])
	assert.Equal(t, production, config["environment"])
	assert.Equal(t, "connect:accounts:read", config["scope"])
	assert.Equal(t, true, config["allow_account_ids"])
	assert.NotContains(t, config, "client_secret")
	assert.NotContains(t, config, "api_key")
	text, err := json.Marshal(config)
	require.NoError(t, err)
	assert.NotContains(t, string(text), c.clientSecret)
	assert.Contains(t, c.audited(t, "config").Request.Data["client_secret"], "hmac-sha256:")
}

// TestConnectConfigIsRefused writes invalid configurations, and shows after each that the stored one is still in use.
func TestConnectConfigIsRefused(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.sim.SetAccount(connected("apn_bob", "bob"))
	c.read(t, "creds/apn_alice")
	before := c.read(t, "config").Data

	elsewhere := pipedreamtest.New()
	t.Cleanup(elsewhere.Close)
	elsewhereURL, err := elsewhere.Start()
	require.NoError(t, err)

	const wrong = "pdsecret_that_nobody_knows"
	for name, test := range map[string]struct {
		fields map[string]any
		words  []string
	}{
		"a secret that Pipedream rejects":   {map[string]any{"client_secret": wrong}, []string{"client_secret", "nothing was changed"}},
		"a client that Pipedream rejects":   {map[string]any{"client_id": "another", "client_secret": wrong}, []string{"client_id", "nothing was changed"}},
		"a client without its secret":       {map[string]any{"client_id": "another"}, []string{"client_secret"}},
		"a new URL without the secret":      {map[string]any{"base_url": elsewhereURL}, []string{"base_url", "client_secret"}},
		"both a key and a client":           {map[string]any{"api_key": c.apiKey, "client_id": clientID, "client_secret": wrong}, []string{"api_key", "client_id"}},
		"a key for a project":               {map[string]any{"api_key": c.apiKey}, []string{"API key", "project_id"}},
		"a scope that reads no account":     {map[string]any{"scope": "connect:tokens:create"}, []string{projectID, "nothing was changed"}},
		"an unknown environment":            {map[string]any{"environment": "staging"}, []string{"environment"}},
		"an invalid project id":             {map[string]any{"project_id": "../accounts"}, []string{"project_id"}},
		"a secret with a line break within": {map[string]any{"client_secret": wrong + "\n" + wrong}, []string{"client_secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.vault.root.Logical().Write(c.in("config"), test.fields)
			refused(t, err, http.StatusBadRequest, test.words...)
			lacks(t, "the error", err.Error(), append(c.sim.Secrets(), wrong)...)
			assert.Equal(t, before, c.read(t, "config").Data)
		})
	}

	assert.Empty(t, elsewhere.Requests(), "requests to a URL that was rejected")
	requests := c.sim.Count(pipedreamtest.KindAccount)
	c.read(t, "creds/apn_alice")
	assert.Equal(t, requests, c.sim.Count(pipedreamtest.KindAccount), "a cached account")
	assert.Equal(t, c.sim.Token("apn_bob"), c.read(t, "creds/apn_bob").Data["oauth_access_token"], "an account that was not cached")
	lacks(t, "the audit log", c.audit(t), wrong)
	lacks(t, "the server's log", c.log(t), wrong)
}

// TestConnectSecretOfTheWrongType writes a secret as a list or an object. The write is refused, and the secret is shown
// nowhere: the audit log contains error texts in clear.
func TestConnectSecretOfTheWrongType(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	wrong := "pdsecret_" + rand.Text()
	for _, field := range []string{"client_secret", "api_key"} {
		for _, value := range []any{[]string{wrong}, []any{1, wrong}, map[string]any{"value": wrong}} {
			_, err := c.vault.root.Logical().Write(c.in("config"), map[string]any{field: value})
			refused(t, err, http.StatusBadRequest, field, "string")
			lacks(t, "the error", err.Error(), wrong)
		}
	}
	lacks(t, "the audit log", c.audit(t), wrong)
	lacks(t, "the server's log", c.log(t), wrong)
}

func TestConnectConfigIsNotVerifiedWhereAskedNotTo(t *testing.T) {
	t.Parallel()
	m := unconfigured(t)
	c := &connect{mount: m, clientSecret: "pdsecret_not_yet_known"}
	c.configureClient(t, map[string]any{"project_id": projectID, "verify": false})
	assert.Empty(t, m.sim.Requests())
	refused(t, m.errorOf(t, "creds/apn_alice"), http.StatusBadRequest, "OAuth client", m.in("config"))
	// verify=true runs the check although nothing else changes.
	_, err := m.vault.root.Logical().Write(m.in("config"), map[string]any{"verify": true})
	refused(t, err, http.StatusBadRequest, "client_secret")
}

func TestConnectSwitchesToAKeyAndBack(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(github())
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.read(t, "creds/apn_alice")

	c.configure(t, map[string]any{"project_id": ""})
	config := c.read(t, "config").Data
	assert.Empty(t, config["client_id"])
	assert.Empty(t, config["project_id"])
	assert.Equal(t, c.sim.Token(githubID), c.read(t, "creds/"+githubID).Data["oauth_access_token"])
	refused(t, c.errorOf(t, "creds/apn_alice"), http.StatusBadRequest, "apn_alice", "API key")

	c.configureClient(t, map[string]any{"project_id": projectID})
	assert.Equal(t, clientID, c.read(t, "config").Data["client_id"])
	assert.Equal(t, c.sim.Token("apn_alice"), c.read(t, "creds/apn_alice").Data["oauth_access_token"])
	refused(t, c.errorOf(t, "creds/"+githubID), http.StatusBadRequest, githubID, projectID)

	// The mount has a client, so it has no API key to fall back on.
	c.rotateClientSecret()
	c.sim.RevokeAccessTokens()
	refused(t, c.errorOf(t, "creds/apn_bob"), http.StatusBadRequest, "OAuth client", c.in("config"))
}

func TestConnectClientSecretIsRotated(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.sim.SetAccount(connected("apn_bob", "bob"))
	alice := c.read(t, "creds/apn_alice").Data

	// Nothing stops between the new secret in Pipedream and the new one in Vault. The access token still works, and
	// after that the cached credentials are served.
	c.rotateClientSecret()
	c.read(t, "creds/apn_bob")
	c.sim.RevokeAccessTokens()
	assert.Equal(t, alice, c.read(t, "creds/apn_alice").Data)
	refused(t, c.errorOf(t, "creds/apn_carol"), http.StatusBadRequest, "OAuth client", c.in("config"))

	c.write(t, "config", map[string]any{"client_secret": c.clientSecret})
	assert.Equal(t, clientID, c.read(t, "config").Data["client_id"])
	assert.Equal(t, c.sim.Token("apn_alice"), c.read(t, "creds/apn_alice").Data["oauth_access_token"])
}

func TestConnectAccessTokenIsFetchedOnceAndAgainWhenRefused(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	for _, user := range []string{"alice", "bob", "carol"} {
		c.sim.SetAccount(connected("apn_"+user, user))
	}
	c.read(t, "creds/apn_alice")
	c.read(t, "creds/apn_bob")
	assert.Equal(t, 1, c.sim.Count(pipedreamtest.KindToken))
	c.sim.RevokeAccessTokens()
	c.read(t, "creds/apn_carol")
	assert.Equal(t, 2, c.sim.Count(pipedreamtest.KindToken))
}

// TestConnectEnvironmentsAndProjectsAreApart has one user with an account in each of three places, each with its own
// id.
func TestConnectEnvironmentsAndProjectsAreApart(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	places := []struct{ id, project, environment string }{
		{"apn_production", projectID, production},
		{"apn_development", projectID, development},
		{"apn_elsewhere", "proj_elsewhere", production},
	}
	for _, place := range places {
		c.sim.SetAccount(connectedWith(place.id, "alice", func(a *pipedreamtest.Account) {
			a.Project, a.Environment = place.project, place.environment
		}))
	}
	c.write(t, "roles/alice", map[string]any{"app": "github", "external_user_id": "alice"})

	// Each place is visited twice, so that the mount also returns to a place that it left.
	for range 2 {
		for _, here := range places {
			c.write(t, "config", map[string]any{"project_id": here.project, "environment": here.environment})
			c.sim.ResetRequests()
			assert.Equal(t, here.id, c.read(t, "creds/alice").Data["pipedream_account_id"])
			assert.Equal(t, c.sim.Token(here.id), c.read(t, "static-creds/"+here.id).Data["oauth_access_token"])
			assert.Equal(t, 1, c.sim.Count(pipedreamtest.KindList), "the cache of another place is not used here")
			keys, _ := c.list(t, "accounts", nil)
			assert.Equal(t, []string{here.id}, keys)
			for _, there := range places {
				if there == here {
					continue
				}
				for _, path := range []string{"creds/", "static-creds/", "accounts/"} {
					refused(t, c.errorOf(t, path+there.id), http.StatusBadRequest, there.id, here.project, here.environment)
				}
			}
		}
	}
}

func TestConnectAccountsAreListedAndRead(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]pipedreamtest.Option{
		"as Pipedream answers today":  nil,
		"as Pipedream used to answer": {pipedreamtest.WithOldConnectForms()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := onConnect(t, opts...)
			c.sim.SetAccount(connected("apn_alice", "alice"))
			c.sim.SetAccount(connected("apn_bob", "bob"))
			c.sim.SetAccount(connectedWith("apn_alice_stripe", "alice", func(a *pipedreamtest.Account) {
				a.App, a.TokenLife, a.Credentials = stripe().App, 0, stripe().Credentials
			}))

			for _, test := range []struct {
				query map[string][]string
				want  []string
			}{
				{nil, []string{"apn_alice", "apn_alice_stripe", "apn_bob"}},
				{map[string][]string{"external_user_id": {"alice"}}, []string{"apn_alice", "apn_alice_stripe"}},
				{map[string][]string{"app": {"github"}}, []string{"apn_alice", "apn_bob"}},
				{map[string][]string{"external_user_id": {"alice"}, "app": {"github"}}, []string{"apn_alice"}},
			} {
				keys, info := c.list(t, "accounts", test.query)
				assert.ElementsMatch(t, test.want, keys)
				for _, id := range keys {
					user, _, _ := strings.Cut(strings.TrimPrefix(id, "apn_"), "_")
					assert.Equal(t, user, asType[map[string]any](t, info[id])["external_user_id"])
				}
			}
			_, err := c.vault.root.Logical().ReadWithData(c.in("accounts"), listing(map[string][]string{"external_user_id": {strings.Repeat("é", 251)}}))
			refused(t, err, http.StatusBadRequest, "external_user_id", "250")
			assert.Equal(t, "alice", c.read(t, "accounts/apn_alice").Data["external_user_id"])
			c.neverAskedForCredentials(t)

			sent := time.Now()
			leased := c.read(t, "creds/apn_alice")
			lasts(t, c.sim.ExpiresAt("apn_alice").Sub(sent), sent, leased.LeaseDuration)
			assert.Equal(t, c.sim.Token("apn_alice"), leased.Data["oauth_access_token"])
			assert.NotEmpty(t, leased.LeaseID)
			static := c.read(t, "static-creds/apn_alice")
			assert.Equal(t, leased.Data["oauth_access_token"], static.Data["oauth_access_token"])
			assert.Empty(t, static.LeaseID)
			assert.Equal(t, stripeKey, c.read(t, "creds/apn_alice_stripe").Data["api_key"])
			assert.Equal(t, 2, c.sim.Count(pipedreamtest.KindAccount)-1, "requests besides the one for metadata")
		})
	}
}

// TestConnectAccountOfPipedreamsOwnClient shows the error for accounts whose credentials Connect never returns.
func TestConnectAccountOfPipedreamsOwnClient(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.sim.SetAccount(connectedWith("apn_alice", "alice", func(a *pipedreamtest.Account) { a.NoCredentials = true }))
	c.write(t, "roles/alice", map[string]any{"app": "github", "external_user_id": "alice"})
	for _, path := range []string{"creds/apn_alice", "creds/alice"} {
		refused(t, c.errorOf(t, path), http.StatusBadRequest, "no credentials", "apn_alice", "own OAuth client")
	}
}

// TestConnectErrorsAsAClientSeesThem tries everything that can go wrong with the token endpoint.
func TestConnectErrorsAsAClientSeesThem(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault pipedreamtest.Fault
		code  int
		words []string
	}{
		"client refused":  {pipedreamtest.Fault{Status: http.StatusUnauthorized, Body: upstreamBody}, http.StatusBadRequest, []string{"OAuth client", "/config"}},
		"scope refused":   {pipedreamtest.Fault{Status: http.StatusBadRequest, Body: upstreamBody}, http.StatusBadRequest, []string{"OAuth client", "scope"}},
		"Pipedream fails": {pipedreamtest.Fault{Status: http.StatusBadGateway, Body: upstreamBody}, http.StatusBadGateway, []string{"Pipedream", "status 502"}},
		"too many":        {pipedreamtest.Fault{Status: http.StatusTooManyRequests, Body: upstreamBody}, http.StatusTooManyRequests, []string{"429", "try again in"}},
		"garbage":         {pipedreamtest.Fault{Garbage: true}, http.StatusBadGateway, []string{"Pipedream", "JSON"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := onConnect(t)
			c.write(t, "config", map[string]any{"max_retries": 0})
			c.sim.SetAccount(connected("apn_alice", "alice"))
			c.write(t, "roles/alice", map[string]any{"app": "github", "external_user_id": "alice"})
			test.fault.Kind = pipedreamtest.KindToken
			c.sim.AddFault(test.fault)
			for _, path := range []string{"creds/apn_alice", "creds/alice", "static-creds/alice"} {
				err := c.errorOf(t, path)
				refused(t, err, test.code, test.words...)
				c.keepsQuiet(t, err)
			}
		})
	}
}

// TestConnectOutlivesItsProcess shows that the end of a process costs no request for what is already known: the
// credential, its owner or an access token.
func TestConnectOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	m := enable(t, newVault(t), "pipedream")
	c := m.connect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	c.sim.SetAccount(connected("apn_bob", "bob"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	c.write(t, "roles/bobs", map[string]any{"account_id": "apn_bob", "fields": "oauth_access_token", "ttl": "10m"})
	role := c.read(t, "roles/bobs").Data
	alice, bob := p.login(t, "alice"), p.login(t, "bob")
	tokens := map[*person]string{alice: c.sim.Token("apn_alice"), bob: c.sim.Token("apn_bob")}
	leases := []string{}
	for who, token := range tokens {
		secret := who.read(t, "creds/github")
		require.Equal(t, token, secret.Data["oauth_access_token"])
		leases = append(leases, secret.LeaseID)
	}
	requests := len(c.sim.Requests())

	for _, event := range []struct {
		name   string
		happen func(*testing.T)
	}{
		{"the plugin is reloaded", m.reload},
		{"the plugin is killed", m.killPlugin},
		{"the server is restarted", m.vault.restart},
		{"the server is killed", m.vault.crash},
		{"the server is sealed and unsealed", m.vault.sealAndUnseal},
	} {
		t.Run(event.name, func(t *testing.T) {
			event.happen(t)
			for who, token := range tokens {
				require.NoError(t, who.SetAddress(m.vault.addr)) // the restart may have changed the port
				for _, path := range []string{"creds/github", "static-creds/github"} {
					assert.Equal(t, token, who.read(t, path).Data["oauth_access_token"])
				}
			}
			assert.Equal(t, role, c.read(t, "roles/bobs").Data)
			secret := c.read(t, "creds/bobs")
			assert.Equal(t, tokens[bob], secret.Data["oauth_access_token"])
			assert.LessOrEqual(t, secret.LeaseDuration, 600)
			assert.Len(t, c.sim.Requests(), requests)
		})
	}

	t.Run("the role is deleted", func(t *testing.T) {
		c.deleteRole(t, "github")
		for _, lease := range leases {
			require.NoError(t, m.vault.revoke(lease))
		}
	})
	t.Run("what is stored is encrypted", func(t *testing.T) {
		require.NoError(t, m.vault.process.stop())
		files := 0
		require.NoError(t, filepath.WalkDir(m.vault.dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			files++
			lacks(t, path, readFile(t, path), c.sim.Secrets()...)
			return nil
		}))
		assert.Greater(t, files, 3, "files below the server's directory")
		assert.Contains(t, c.sim.Secrets(), c.clientSecret)
	})
}

// TestConnectUserReconnectsUnderAnotherID makes the account due every second, so that the engine asks for it again.
func TestConnectUserReconnectsUnderAnotherID(t *testing.T) {
	t.Parallel()
	c := onConnect(t)
	c.write(t, "config", map[string]any{"static_ttl": "2s"})
	keyed := func(id, key string) pipedreamtest.Account {
		return connectedWith(id, "alice", func(a *pipedreamtest.Account) { a.TokenLife, a.Credentials = 0, map[string]any{"api_key": key} })
	}
	c.sim.SetAccount(keyed("apn_first", "key_of_the_first_account"))
	p := c.people(t)
	c.write(t, "roles/github", p.ownAccount())
	alice := p.login(t, "alice")
	assert.Equal(t, "key_of_the_first_account", alice.read(t, "creds/github").Data["api_key"])

	c.sim.DeleteAccount("apn_first")
	var err error
	require.NoError(t, poll(30*time.Second, "the account to be missed", func() (bool, error) {
		_, err = alice.Logical().Read(c.in("creds/github"))
		return err != nil, nil
	}))
	refused(t, err, http.StatusBadRequest, `"alice"`, `"github"`, projectID, "connect one in Pipedream")

	c.sim.SetAccount(keyed("apn_second", "key_of_the_second_account"))
	require.NoError(t, poll(time.Minute, "the account to be found", func() (bool, error) {
		secret, err := alice.Logical().Read(c.in("creds/github"))
		return err == nil && secret.Data["api_key"] == "key_of_the_second_account", nil
	}))

	// If it is replaced between two reads, the new account is found and no read fails.
	c.sim.SetAccount(keyed("apn_third", "key_of_the_third_account"))
	c.sim.DeleteAccount("apn_second")
	require.NoError(t, poll(time.Minute, "the third account", func() (bool, error) {
		return alice.read(t, "creds/github").Data["api_key"] == "key_of_the_third_account", nil
	}))
}

// TestConnectColdReadersShareOneAccessToken has many users read at once with an empty memory: after a config write and
// after a reload of the plugin. Requests for access tokens count towards rate_limit.
func TestConnectColdReadersShareOneAccessToken(t *testing.T) {
	t.Parallel()
	const readers = 40
	c := enable(t, newVault(t), "pipedream").connect(t)
	for name, makeCold := range map[string]func(*testing.T){
		"config": func(t *testing.T) { t.Helper(); c.write(t, "config", map[string]any{"static_ttl": "2h"}) },
		"reload": c.reload,
	} {
		t.Run(name, func(t *testing.T) {
			makeCold(t)
			c.sim.ResetRequests()
			var all sync.WaitGroup
			for i := range readers {
				id := fmt.Sprintf("apn_%s_%d", name, i)
				c.sim.SetAccount(connected(id, id))
				all.Go(func() {
					_, err := c.vault.root.Logical().Read(c.in("creds/" + id))
					assert.NoError(t, err)
				})
			}
			all.Wait()
			assert.Equal(t, 1, c.sim.Count(pipedreamtest.KindToken))
		})
	}
}
