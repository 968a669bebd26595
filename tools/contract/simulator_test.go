package contract

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// departures of the simulator. What a test makes it do that no API does, such as faults and members that it overrides,
// is not in question here.
var departures = []Departure{
	{"paths of the workspace", "the older REST reference has them", onPath("/v1/accounts", "/v1/users/me", "/v1/oauth_apps")},
	{"paths without a project", "the SDK's client for browsers sends them", onPath("/v1/connect/accounts", "/v1/connect//proxy/")},
	{
		"more of Connect", "the reference has these operations, and the document does not",
		onPath("/v1/connect/proj_demo/users/alice/accounts", "/v1/connect/proj_demo/oauth_apps", "/v1/connect/proj_demo/proxy/"),
	},
	{"errors", "the document describes 429 alone; the others are those of the reference, or have been seen", failed},
	{"unknown accounts", "have been seen as a 200: WithNotFoundAs200", failedWith200},
	{"old forms of Connect", "an older reference has them: WithOldConnectForms", wrapped},
	{"an app with id and name alone", "an older sample of a list has it: PlainApp", inAnswer(`(^|\.)app\.\w+: property "\w+" is missing`)},
	{"an app without a name", "a test can leave name and slug out", inAnswer(`(^|\.)app\.name(_slug)?: Value is not nullable`)},
	{"nobody's account", "a test can leave the owner out", inAnswer(`(^|\.)external_id: Value is not nullable`)},
	{"times as numbers", "clients accept them: WithTimes", inAnswer(`(^|\.)\w+_at: value must be a string`)},
	{"times in other forms", "clients accept them: Times", inAnswer(`(^|\.)\w+_at: string doesn't match the format "date-time"`)},
}

func TestTheSimulatorAnswersAsDocumented(t *testing.T) {
	document := theDocument(t)
	var findings []Finding
	operations := map[string]bool{}
	for name, options := range map[string][]pipedreamtest.Option{
		"by default":                {},
		"old forms of Connect":      {pipedreamtest.WithOldConnectForms()},
		"unknown accounts as a 200": {pipedreamtest.WithNotFoundAs200()},
		"no cursor at the end":      {pipedreamtest.WithNoCursorAtEnd()},
		"errors as objects":         {pipedreamtest.WithErrorObjects()},
		"credentials for all":       {pipedreamtest.WithConnectTokenCredentials()},
		"short pages":               {pipedreamtest.WithPageCap(2), pipedreamtest.WithFiltersAfterPaging()},
		"without totals":            {pipedreamtest.WithoutTotals()},
		"other times":               {pipedreamtest.WithTimes(pipedreamtest.TimesSeconds)},
		"low limits":                {pipedreamtest.WithConnectLimit(9, time.Hour), pipedreamtest.WithTokenLimit(1), pipedreamtest.WithOAuthTokenLimit(3)},
		"no wait in a 429":          {pipedreamtest.WithLimit(2), pipedreamtest.WithRetryAfter(false), pipedreamtest.WithRateLimitHeaders(false)},
	} {
		t.Run(name, func(t *testing.T) {
			sim := pipedreamtest.New(options...)
			defer sim.Close()
			recorder := NewRecorder(document, sim)
			exercise(t, sim, listen(t, recorder))
			findings = append(findings, recorder.Findings(Path, Status, Answer)...)
			for _, operation := range recorder.Operations() {
				operations[operation] = true
			}
		})
	}
	require.Empty(t, Settle(findings, departures))
	for _, operation := range []string{
		"createOAuthToken", "createToken", "listAccounts", "retrieveAccount", "deleteAccount", "deleteExternalUser",
	} {
		require.True(t, operations[operation], "nothing asked for %s", operation)
	}
}

// exercise asks a simulated Pipedream for everything that it knows, with accounts of all kinds.
func exercise(t *testing.T, sim *pipedreamtest.Server, base string) {
	t.Helper()
	sim.SetOAuthClient("client", "secret_of_the_client", time.Hour)
	ids := populate(sim)
	nobody := caller{T: t, base: base + "/v1"}
	token := func(scope string) answer {
		return nobody.send(http.MethodPost, "/oauth/token", `{"grant_type":"client_credentials","client_id":"client","client_secret":"secret_of_the_client","scope":"`+scope+`"}`)
	}
	workspace := nobody
	workspace.bearer = workspace.text(token("*"), "access_token")
	narrow := nobody
	narrow.bearer = narrow.text(token("connect:tokens:create"), "access_token")
	nobody.send(http.MethodPost, "/oauth/token", `{}`)

	const project = "/connect/proj_demo"
	connect := func() answer {
		return workspace.send(http.MethodPost, project+"/tokens", `{"external_user_id":"alice","app_id":"github","expires_in":900}`)
	}
	made := connect()
	user := nobody
	user.bearer = user.text(made, "token")
	id, err := sim.Click(workspace.text(made, "connect_link_url") + "&oauthAppId=oa_demo&oauthScopeProfile=read_only")
	require.NoError(t, err)
	if again := connect(); again.status == http.StatusOK {
		user.bearer = user.text(again, "token")
	}

	for _, who := range []caller{workspace, user, narrow, nobody} {
		for _, credentials := range []string{"true", "false"} {
			include := "include_credentials=" + credentials
			for _, query := range []string{"limit=100&", "limit=3&", "external_user_id=alice&app=github&", "oauth_app_id=oa_demo&", "external_user_id=nobody&", "limit=0&"} {
				who.send(http.MethodGet, project+"/accounts?"+query+include, "")
			}
			for _, id := range append(slices.Clone(ids), id, "apn_none") {
				who.send(http.MethodGet, project+"/accounts/"+id+"?"+include, "")
			}
			for _, path := range []string{project + "/users/alice/accounts", "/connect/accounts", "/accounts", "/accounts/apn_keys"} {
				who.send(http.MethodGet, path+"?"+include, "")
			}
		}
		for _, path := range []string{
			project + "/oauth_apps", "/oauth_apps", "/users/me", project + "/proxy/bm8?external_user_id=alice&account_id=apn_own",
			"/connect//proxy/bm8?external_user_id=alice&account_id=apn_own",
		} {
			who.send(http.MethodGet, path, "")
		}
		who.send(http.MethodPost, project+"/tokens", `{"external_user_id":"bob"}`)
	}
	workspace.send(http.MethodGet, project+"/accounts", "", "X-Pd-Environment", "staging")
	workspace.send(http.MethodPost, project+"/tokens", `{"external_user_id":""}`)
	for _, path := range []string{"/accounts/apn_own", "/accounts/apn_none", "/users/alice", "/users/nobody"} {
		workspace.send(http.MethodDelete, project+path, "")
	}
	workspace.send(http.MethodGet, project+"/accounts", "")
}

// populate adds an account of each kind, and returns their ids.
func populate(sim *pipedreamtest.Server) (ids []string) {
	github := pipedreamtest.App{ID: "app_OrZhaO", Slug: "github", Name: "GitHub", AuthType: "oauth"}
	stripe := pipedreamtest.App{ID: "app_OkrhR1", Slug: "stripe", Name: "Stripe", AuthType: "keys"}
	for id, a := range map[string]pipedreamtest.Account{
		"own":       {App: github, TokenLife: time.Hour, OAuthAppID: "oa_demo"},
		"theirs":    {App: github, TokenLife: time.Hour, NoCredentials: true},
		"keys":      {App: stripe, Credentials: map[string]any{"api_key": "sk_simulated", "port": 8080}},
		"open":      {App: pipedreamtest.App{ID: "app_open01", Slug: "open_data", Name: "Open data", AuthType: "none"}},
		"dead":      {App: github, TokenLife: time.Hour, Dead: true, Error: "invalid_grant"},
		"unhealthy": {App: github, TokenLife: time.Hour, Unhealthy: true, Error: "timeout"},
		"hidden":    {App: github, TokenLife: time.Hour, HideExpiry: true},
		"omitted":   {App: github, TokenLife: time.Hour, OmitNextRefresh: true, OmitOwner: true},
		"named":     {App: github, TokenLife: time.Hour, Name: "octocat", Scopes: []string{"read"}},
		"plain":     {App: github, TokenLife: time.Hour, PlainApp: true},
		"offset":    {App: github, TokenLife: time.Hour, Times: pipedreamtest.TimesOffset},
		"lower":     {App: github, TokenLife: time.Hour, Times: pipedreamtest.TimesLower},
		"unnamed":   {App: pipedreamtest.App{ID: "app_unnamed"}, TokenLife: time.Hour},
		"appless":   {TokenLife: time.Hour},
	} {
		a.ID, a.Project, a.ExternalUserID = "apn_"+id, "proj_demo", "alice"
		sim.SetAccount(a)
		ids = append(ids, a.ID)
	}
	sim.SetAccount(pipedreamtest.Account{ID: "apn_nobodys", App: github, Project: "proj_demo", TokenLife: time.Hour})
	for i := range 3 {
		sim.SetAccount(pipedreamtest.Account{ID: fmt.Sprintf("apn_work%d", i), App: github, TokenLife: time.Hour})
	}
	return append(ids, "apn_nobodys")
}
