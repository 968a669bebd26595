package livecheck

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	testKey    = "pd_test_key"
	testClient = "client_of_the_check"
	testSecret = "secret_of_the_check"
)

// configFor returns a configuration for a simulated Pipedream: with its OAuth client and project, or with its API key.
func configFor(transport http.RoundTripper, withKey bool) Config {
	c := Config{
		BaseURL: &url.URL{Scheme: "http", Host: "127.0.0.1", Path: "/v1"}, PerMinute: 60, Timeout: 10 * time.Second,
		Version: "test", Transport: transport,
	}
	if withKey {
		c.APIKey = testKey
		return c
	}
	c.ClientID, c.ClientSecret, c.ProjectID, c.Environments = testClient, testSecret, "proj_test", []string{production}
	return c
}

// sinceBubble is from 2000, when a bubble begins, to a year in which Unix times have ten digits.
const sinceBubble = 26 * 365 * 24 * time.Hour

// populate adds accounts of all kinds, in the workspace and in the project.
func populate(sim *pipedreamtest.Server) {
	sim.SetOAuthClient(testClient, testSecret, time.Hour)
	github := pipedreamtest.App{ID: "app_OrZhaO", Slug: "github", Name: "GitHub", AuthType: "oauth"}
	stripe := pipedreamtest.App{ID: "app_OkrhR1", Slug: "stripe", Name: "Stripe", AuthType: "keys"}
	for i, a := range []pipedreamtest.Account{
		{ID: "apn_own1", Name: "Octo Cat", App: github, OAuthAppID: "oa_test1", ExternalUserID: "alice", TokenLife: time.Hour},
		{ID: "apn_keys1", App: stripe, ExternalUserID: "alice", Credentials: map[string]any{"api_key": "sk_simulated_key", "port": 8080}},
		{ID: "apn_theirs1", App: github, ExternalUserID: "bob", TokenLife: time.Hour, NoCredentials: true},
		{ID: "apn_dead1", App: github, OAuthAppID: "oa_test1", ExternalUserID: "bob", TokenLife: 100 * 24 * time.Hour, Dead: true, Error: "invalid_grant"},
		{ID: "apn_hidden1", App: github, OAuthAppID: "oa_test1", ExternalUserID: "carol", TokenLife: time.Hour, HideExpiry: true},
	} {
		for _, project := range []string{"", "proj_test"} {
			a.Project = project
			if project == "" {
				a.ID, a.ExternalUserID = a.ID+"w", ""
			} else {
				a.ID, a.ExternalUserID = a.ID[:len(a.ID)-1]+"c", []string{"alice", "alice", "bob", "bob", "carol"}[i]
			}
			sim.SetAccount(a)
		}
	}
}

// check runs the check against a simulated Pipedream with accounts of all kinds.
func check(t *testing.T, change func(*Config), opts ...pipedreamtest.Option) (report *Report, sim *pipedreamtest.Server) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(sinceBubble)
		sim = pipedreamtest.New(opts...)
		defer sim.Close()
		populate(sim)
		c := configFor(sim.Transport(), false)
		if change != nil {
			change(&c)
		}
		require.NoError(t, c.Check())
		report = Run(context.Background(), c)
	})
	return report, sim
}

// of returns the results for a fact, by place.
func of(t *testing.T, r *Report, name string) map[string]Result {
	t.Helper()
	found := map[string]Result{}
	for _, result := range r.Results {
		if result.Name == name {
			found[result.Where] = result
		}
	}
	require.NotEmpty(t, found, "no fact %s", name)
	return found
}

// unexpected returns which facts have another verdict than that all is as expected.
func unexpected(r *Report) (names []string) {
	for _, result := range r.Results {
		if result.Verdict == Different || result.Verdict == NotHandled {
			names = append(names, result.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// offMap are requests that the documentation does not have, and that the check sends to see what comes back.
var offMap = []string{
	"GET /v1/accounts: query parameter limit has a value that it cannot have",
	"GET /v1/connect/{project}/accounts: query parameter external_user_id has a value that it cannot have",
	"GET /v1/connect/{project}/accounts: query parameter limit has a value that it cannot have",
	"GET /v1/connect/{project}/accounts: the header x-pd-environment is neither production nor development",
}

func TestTheSimulatorIsAsExpected(t *testing.T) {
	for name, withKey := range map[string]bool{"OAuth client": false, "API key": true} {
		t.Run(name, func(t *testing.T) {
			report, sim := check(t, func(c *Config) { *c = configFor(c.Transport, withKey) })
			if testing.Verbose() {
				require.NoError(t, report.Write(os.Stdout))
			}
			require.Empty(t, report.NotHandled)
			// The simulator has fields that no documentation has, and a number among the credentials.
			require.Equal(t, []string{"account.credential_values", "field.others"}, unexpected(report))
			require.Subset(t, offMap, sim.Violations())
			require.True(t, report.SawAccounts())
			for _, r := range sim.Requests() {
				require.True(t, r.Method == http.MethodGet || r.Kind == pipedreamtest.KindToken, "it only reads: %s %s", r.Method, r.Kind)
			}
			require.LessOrEqual(t, pipedreamtest.MostPerMinute(sim.Requests()), 60)
		})
	}
}

func TestAnInterruptedCheckSaysNothingThatIsNotSo(t *testing.T) {
	whole, sim := check(t, nil)
	all := map[string]Result{}
	for _, result := range whole.Results {
		all[result.Name+result.Where] = result
	}
	for after := range len(sim.Requests()) {
		synctest.Test(t, func(t *testing.T) {
			sim := pipedreamtest.New()
			defer sim.Close()
			populate(sim)
			ctx, cancel := context.WithCancel(context.Background())
			sent := 0
			c := configFor(roundTripper(func(req *http.Request) (*http.Response, error) {
				if sent == after {
					cancel()
				}
				sent++
				return sim.Transport().RoundTrip(req)
			}), false)
			report := Run(ctx, c)
			require.True(t, report.Interrupted)
			require.Equal(t, after+1, sent)
			for _, result := range report.Results {
				require.Subset(t, append(all[result.Name+result.Where].Seen, ""), result.Seen, result.Name)
			}
			cancel()
		})
	}
}

func TestConfigCheck(t *testing.T) {
	transport := http.DefaultTransport
	for name, change := range map[string]func(*Config){
		"no key":            func(c *Config) { c.ClientID, c.ClientSecret = "", "" },
		"two keys":          func(c *Config) { c.APIKey = "k" },
		"half a client":     func(c *Config) { c.ClientSecret = "" },
		"a line break":      func(c *Config) { c.ClientSecret = "a\nb" },
		"quotes":            func(c *Config) { c.ClientID = `"id"` },
		"a project":         func(c *Config) { c.ProjectID = "x" },
		"a path":            func(c *Config) { c.ProjectID = "proj_a/../b" },
		"a key and project": func(c *Config) { c.APIKey, c.ClientID, c.ClientSecret = "k", "", "" },
		"an environment":    func(c *Config) { c.Environments = []string{"staging"} },
		"plain http":        func(c *Config) { c.BaseURL = &url.URL{Scheme: "http", Host: "example.com"} },
		"no address":        func(c *Config) { c.BaseURL = nil },
		"too fast":          func(c *Config) { c.PerMinute = 101 },
		"no time":           func(c *Config) { c.Timeout = 0 },
		"a link alone":      func(c *Config) { c.LinkApp = "github" },
	} {
		t.Run(name, func(t *testing.T) {
			c := configFor(transport, false)
			require.NoError(t, c.Check())
			change(&c)
			require.Error(t, c.Check())
		})
	}
}
