package acceptance

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/acceptance/sdk"
	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// differences are the known differences between the engine's requests and those of Pipedream's official SDK for the
// same operations, with the reason for each. A difference that no longer exists must be removed.
var differences = map[string]string{
	"header User-Agent: both, differing":            "each has its own name",
	"header Accept: both, differing":                "the engine accepts only JSON",
	"header X-Fern-Language: the SDK alone":         "the SDK names its generator",
	"header X-Fern-Sdk-Name: the SDK alone":         "likewise",
	"header X-Fern-Sdk-Version: the SDK alone":      "likewise",
	"header X-Fern-Runtime: the SDK alone":          "likewise",
	"header X-Fern-Runtime-Version: the SDK alone":  "likewise",
	"token: header Content-Length: both, differing": "the bodies differ",
	"token: body scope: the engine alone":           "the SDK asks for all scopes, the engine for the one that reads accounts",
}

// transportHeaders are set by the HTTP client. What the SDK sends depends on the version of Node.
var transportHeaders = []string{"Accept-Encoding", "Accept-Language", "Connection", "Sec-Fetch-Mode"}

// TestRequestsBesideTheSDK compares the engine's requests with those of Pipedream's official SDK for the same
// operations. It runs only if NODE_MODULES is set. See "make test-node".
func TestRequestsBesideTheSDK(t *testing.T) {
	t.Parallel()
	program := sdk.Start(t)
	c := onConnect(t)
	c.sim.SetAccount(connected("apn_alice", "alice"))
	p := c.people(t, c.rules("github"), c.linkRules("github"))
	c.write(t, "roles/github", p.ownAccount())
	c.write(t, "roles/github", map[string]any{"allowed_redirect_hosts": "app.example.com"})
	client := program.Client("sdk", sdk.Options{BaseURL: c.apiURL, ClientID: clientID, ClientSecret: c.clientSecret, ProjectID: projectID})

	seen := map[string]bool{}
	for _, op := range []struct {
		name   string
		kind   pipedreamtest.Kind
		engine func()
		method string
		args   []any
	}{
		{
			"token", pipedreamtest.KindToken,
			func() { c.configureClient(t, map[string]any{"project_id": projectID}) },
			"rawAccessToken", nil,
		},
		{
			"account", pipedreamtest.KindAccount,
			func() { c.read(t, "creds/apn_alice") },
			"accounts.retrieve",
			[]any{"apn_alice", map[string]any{"includeCredentials": true}},
		},
		{
			"metadata", pipedreamtest.KindAccount,
			func() { c.read(t, "accounts/apn_alice") },
			"accounts.retrieve",
			[]any{"apn_alice"},
		},
		{
			"user", pipedreamtest.KindList,
			func() { p.login(t, "alice").reads(t, "apn_alice") },
			"accounts.list",
			[]any{map[string]any{"externalUserId": "alice", "app": "github", "limit": 100, "includeCredentials": true}},
		},
		{
			"list", pipedreamtest.KindList,
			func() { c.list(t, "accounts", nil) },
			"accounts.list",
			[]any{map[string]any{"limit": 100}},
		},
		{
			"link", pipedreamtest.KindConnectToken,
			func() {
				p.login(t, "alice").link(t, map[string]any{"new": true, "success_redirect_uri": "https://app.example.com/done"})
			},
			"tokens.create",
			[]any{map[string]any{
				"externalUserId": "alice", "expiresIn": 900, "scope": "connect:accounts:write connect:apps:*",
				"appId": "github", "successRedirectUri": "https://app.example.com/done",
			}},
		},
	} {
		engine := c.firstRequest(t, op.kind, op.engine)
		official := c.firstRequest(t, op.kind, func() { require.Nil(t, client.Call(t, op.method, op.args...).Error) })
		for _, text := range unlike(t, engine, official) {
			if _, known := differences[text]; !known {
				text = op.name + ": " + text
			}
			assert.Contains(t, differences, text, "%+v\n%+v", engine, official)
			seen[text] = true
		}
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(differences)), slices.Collect(maps.Keys(seen)))
	assert.Empty(t, c.sim.Violations())
}

// firstRequest returns the first request of a kind that a function causes.
func (c *connect) firstRequest(t *testing.T, kind pipedreamtest.Kind, f func()) pipedreamtest.Request {
	t.Helper()
	c.sim.ResetRequests()
	f()
	log := c.sim.Requests()
	i := slices.IndexFunc(log, func(r pipedreamtest.Request) bool { return r.Kind == kind })
	require.GreaterOrEqual(t, i, 0, "no request for %s in %v", kind, log)
	return log[i]
}

// unlike lists the differences between two requests: names, and values except those of headers.
func unlike(t *testing.T, engine, official pipedreamtest.Request) (differing []string) {
	t.Helper()
	for what, parts := range map[string][2]map[string]string{
		"method": {{"": engine.Method}, {"": official.Method}},
		"path":   {{"": engine.Path}, {"": official.Path}},
		"query":  {queryOf(t, engine), queryOf(t, official)},
		"header": {headerOf(engine), headerOf(official)},
		"body":   {bodyOf(t, engine), bodyOf(t, official)},
	} {
		for name, value := range parts[0] {
			if other, ok := parts[1][name]; !ok {
				differing = append(differing, fmt.Sprintf("%s %s: the engine alone", what, name))
			} else if value != other {
				differing = append(differing, fmt.Sprintf("%s %s: both, differing", what, name))
			}
		}
		for name := range parts[1] {
			if _, ok := parts[0][name]; !ok {
				differing = append(differing, fmt.Sprintf("%s %s: the SDK alone", what, name))
			}
		}
	}
	return differing
}

func queryOf(t *testing.T, r pipedreamtest.Request) map[string]string {
	t.Helper()
	query, err := url.ParseQuery(r.RawQuery)
	require.NoError(t, err)
	return flat(query)
}

func headerOf(r pipedreamtest.Request) map[string]string {
	header := flat(r.Header)
	for _, name := range transportHeaders {
		delete(header, http.CanonicalHeaderKey(name))
	}
	return header
}

// flat joins the values of each name.
func flat(values map[string][]string) map[string]string {
	all := map[string]string{}
	for name, list := range values {
		all[name] = fmt.Sprintf("%q", list)
	}
	return all
}

func bodyOf(t *testing.T, r pipedreamtest.Request) map[string]string {
	t.Helper()
	all := map[string]string{}
	if r.Body == "" {
		return all
	}
	var object map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(r.Body), &object), r.Body)
	for name, value := range object {
		all[name] = string(value)
	}
	return all
}
