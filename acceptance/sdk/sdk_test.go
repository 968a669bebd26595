package sdk

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const (
	project      = "proj_sdk"
	clientID     = "client_of_the_sdk"
	clientSecret = "secret_of_the_sdk"
)

var (
	github = pipedreamtest.App{ID: "app_OrZhaO", Slug: "github", Name: "GitHub", AuthType: "oauth"}
	stripe = pipedreamtest.App{ID: "app_OkrhR1", Slug: "stripe", Name: "Stripe", AuthType: "keys"}
	open   = pipedreamtest.App{ID: "app_open01", Slug: "open_data", Name: "Open data", AuthType: "none"}
)

// dates are the members of an account that hold times.
var dates = []string{"createdAt", "updatedAt", "expiresAt", "lastRefreshedAt", "nextRefreshAt"}

// setUp returns a simulated Pipedream and a client of the SDK for it. The test fails if a request of the SDK
// contradicts the documentation.
func setUp(t *testing.T, opts ...pipedreamtest.Option) (*pipedreamtest.Server, *Client) {
	t.Helper()
	p := Start(t)
	sim := pipedreamtest.New(opts...)
	t.Cleanup(sim.Close)
	t.Cleanup(func() { require.Empty(t, sim.Violations()) })
	sim.SetOAuthClient(clientID, clientSecret, time.Hour)
	base, err := sim.Start()
	require.NoError(t, err)
	return sim, p.Client("sdk", Options{BaseURL: base, ClientID: clientID, ClientSecret: clientSecret, ProjectID: project})
}

// once makes the SDK send a single request, whatever the answer.
func once() map[string]any { return map[string]any{"maxRetries": 0} }

func with(credentials bool) map[string]any { return map[string]any{"includeCredentials": credentials} }

// account returns an account of the project.
func account(id string, app pipedreamtest.App, change func(*pipedreamtest.Account)) pipedreamtest.Account {
	a := pipedreamtest.Account{ID: id, Name: "Octo Cat", App: app, Project: project, ExternalUserID: "alice"}
	if change != nil {
		change(&a)
	}
	return a
}

// moment is a time as the SDK decodes it.
func moment(t time.Time) map[string]any {
	return map[string]any{"date": t.UTC().Format("2006-01-02T15:04:05.000Z")}
}

func TestAuthentication(t *testing.T) {
	sim, client := setUp(t)
	sim.SetAccount(account("apn_github", github, nil))
	token := Decode[string](t, client.Call(t, "rawAccessToken"))
	require.Contains(t, sim.Secrets(), token)
	for range 2 {
		require.Nil(t, client.Call(t, "accounts.retrieve", "apn_github").Error)
	}
	require.Equal(t, 1, sim.Count(pipedreamtest.KindToken), "requests for a token")
	request := sim.Requests()[0]
	require.Equal(t, "/v1/oauth/token", request.Path)
	require.Equal(t, "application/json", request.Header.Get("Content-Type"))
	require.JSONEq(t, `{"grant_type":"client_credentials","client_id":"client_of_the_sdk","client_secret":"[redacted]"}`, request.Body)

	options := client.options
	options.ClientSecret = "wrong"
	refused := client.program.Client("wrong", options).Call(t, "accounts.retrieve", "apn_github")
	require.NotNil(t, refused.Error)
	require.Equal(t, []string{"PipedreamError"}, refused.Error.Classes)
	require.Equal(t, http.StatusUnauthorized, refused.Error.Status)
	require.Equal(t, map[string]any{"error": "invalid_client"}, refused.Error.Body)
}

func TestEachKindOfAccount(t *testing.T) {
	sim, client := setUp(t)
	created := time.Date(2024, 2, 11, 5, 18, 46, 70e6, time.UTC)
	oauth := func(a *pipedreamtest.Account) {
		a.TokenLife, a.CreatedAt, a.OAuthAppID = time.Hour, created, "oa_aPXiQd"
	}
	for _, tt := range []struct {
		name        string
		account     pipedreamtest.Account
		want        map[string]any // members of the account
		appID       any
		credentials []string // names; none where nil
	}{
		{
			"custom OAuth client", account("apn_own", github, oauth),
			map[string]any{"healthy": true, "dead": nil, "createdAt": moment(created)},
			"oa_aPXiQd",
			[]string{"oauthAccessToken", "oauthClientId", "oauthRefreshToken", "oauthUid"},
		},
		{
			"Pipedream's own OAuth client",
			account("apn_theirs", github, func(a *pipedreamtest.Account) { a.TokenLife, a.NoCredentials = time.Hour, true }),
			map[string]any{"healthy": true},
			"app_OrZhaO", nil,
		},
		{
			"keys",
			account("apn_keys", stripe, func(a *pipedreamtest.Account) {
				a.Credentials = map[string]any{"api_key": "sk_simulated", "base_url": "https://x"}
			}),
			map[string]any{"healthy": true},
			nil,
			[]string{"api_key", "base_url"},
		},
		{
			"nothing to authorize", account("apn_open", open, nil),
			map[string]any{"healthy": true},
			nil,
			[]string{},
		},
		{
			"dead",
			account("apn_dead", github, func(a *pipedreamtest.Account) { oauth(a); a.Dead, a.Error = true, "invalid_grant" }),
			map[string]any{"healthy": false, "dead": true, "error": "invalid_grant"},
			"oa_aPXiQd",
			[]string{"oauthAccessToken", "oauthClientId", "oauthRefreshToken", "oauthUid"},
		},
		{
			"unhealthy",
			account("apn_sick", github, func(a *pipedreamtest.Account) { oauth(a); a.Unhealthy, a.Error = true, "timeout" }),
			map[string]any{"healthy": false, "dead": nil, "error": "timeout"},
			"oa_aPXiQd",
			[]string{"oauthAccessToken", "oauthClientId", "oauthRefreshToken", "oauthUid"},
		},
		{
			"no expiry beside a refresh",
			account("apn_hidden", github, func(a *pipedreamtest.Account) { oauth(a); a.HideExpiry = true }),
			map[string]any{"healthy": true},
			"oa_aPXiQd",
			[]string{"oauthAccessToken", "oauthClientId", "oauthRefreshToken", "oauthUid"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sim.SetAccount(tt.account)
			for _, include := range []bool{false, true} {
				got := Decode[map[string]any](t, client.Call(t, "accounts.retrieve", tt.account.ID, with(include)))
				require.Equal(t, tt.account.ID, got["id"])
				require.Equal(t, "Octo Cat", got["name"])
				require.Equal(t, "alice", got["externalId"])
				for name, value := range tt.want {
					require.Equal(t, value, got[name], name)
				}
				checkDates(t, tt.account, got)
				checkApp(t, tt.account.App, tt.appID, got["app"])

				credentials, there := got["credentials"].(map[string]any)
				require.Equal(t, include && tt.credentials != nil, there)
				if there {
					require.ElementsMatch(t, tt.credentials, keys(credentials))
				}
				if token, ok := credentials["oauthAccessToken"]; ok {
					require.Equal(t, sim.Token(tt.account.ID), token)
				}
			}
		})
	}
}

// checkDates checks that each time of an account is decoded as a time, and that only times that the account does not
// have are missing.
func checkDates(t *testing.T, a pipedreamtest.Account, got map[string]any) {
	t.Helper()
	for _, name := range dates {
		missing := a.TokenLife == 0 && name != "createdAt" && name != "updatedAt" || a.HideExpiry && name == "expiresAt"
		date, ok := got[name].(map[string]any)
		require.Equal(t, !missing, ok, "%s is %v", name, got[name])
		require.Equal(t, !missing, date["date"] != nil, name)
	}
	if a.TokenLife > 0 {
		require.Equal(t, got["lastRefreshedAt"], got["updatedAt"])
	}
}

// checkApp checks that an account's app has everything that the SDK knows about apps, decoded.
func checkApp(t *testing.T, want pipedreamtest.App, wantID, got any) {
	t.Helper()
	app, ok := got.(map[string]any)
	require.True(t, ok)
	require.Equal(t, wantID, app["id"])
	require.Equal(t, want.Slug, app["nameSlug"])
	require.Equal(t, want.Name, app["name"])
	require.Equal(t, want.AuthType, app["authType"])
	require.IsType(t, "", app["description"])
	require.IsType(t, "", app["imgSrc"])
	require.IsType(t, "", app["customFieldsJson"])
	require.IsType(t, []any{}, app["categories"])
	require.IsType(t, 0.0, app["featuredWeight"])
	profiles, ok := app["scopeProfiles"].([]any)
	require.True(t, ok)
	require.Equal(t, want.AuthType == "oauth", len(profiles) > 0)
}

func keys(m map[string]any) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	return names
}

// populate adds 25 accounts. Every fifth is bob's and of another app, and the others are alice's.
func populate(sim *pipedreamtest.Server) (all, bobs []string) {
	for i := range 25 {
		a := account("apn_"+string(rune('a'+i)), github, func(a *pipedreamtest.Account) { a.TokenLife, a.OAuthAppID = time.Hour, "oa_aPXiQd" })
		if i%5 == 0 {
			a.ExternalUserID, a.App, a.OAuthAppID = "bob", stripe, ""
			a.TokenLife, a.Credentials = 0, map[string]any{"api_key": "sk_simulated"}
			bobs = append(bobs, a.ID)
		}
		all = append(all, a.ID)
		sim.SetAccount(a)
	}
	return all, bobs
}

func ids(t *testing.T, r Result) (ids []string) {
	t.Helper()
	for _, a := range Decode[[]map[string]any](t, r) {
		id, ok := a["id"].(string)
		require.True(t, ok)
		ids = append(ids, id)
	}
	return ids
}

func TestLists(t *testing.T) {
	sim, client := setUp(t)
	all, bobs := populate(sim)
	others := func() (others []string) {
		for i, id := range all {
			if i%5 != 0 {
				others = append(others, id)
			}
		}
		return others
	}()
	for name, tt := range map[string]struct {
		query    map[string]any
		want     []string
		requests int
	}{
		// The last page has a cursor, so the SDK asks for one more page.
		"all of them":            {map[string]any{}, all, 4},
		"in pages of four":       {map[string]any{"limit": 4}, all, 8},
		"in one page":            {map[string]any{"limit": 100}, all, 2},
		"of a user":              {map[string]any{"externalUserId": "bob"}, bobs, 2},
		"of a user, in pages":    {map[string]any{"externalUserId": "bob", "limit": 2}, bobs, 4},
		"of an app by its slug":  {map[string]any{"app": "stripe", "limit": 100}, bobs, 2},
		"of an app by its id":    {map[string]any{"app": "app_OrZhaO", "limit": 100}, others, 2},
		"of an OAuth client":     {map[string]any{"oauthAppId": "oa_aPXiQd", "limit": 100}, others, 2},
		"of several":             {map[string]any{"externalUserId": "alice", "app": "github", "oauthAppId": "oa_aPXiQd", "limit": 20}, others, 2},
		"of nobody":              {map[string]any{"externalUserId": "carol"}, nil, 1},
		"of a user and no app":   {map[string]any{"externalUserId": "bob", "app": "github"}, nil, 1},
		"of an unknown client":   {map[string]any{"oauthAppId": "oa_none"}, nil, 1},
		"of a user with a space": {map[string]any{"externalUserId": "a b&c=d/é"}, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			sim.ResetRequests()
			require.Equal(t, tt.want, ids(t, client.Iterate(t, "accounts.list", tt.query)))
			require.Equal(t, tt.requests, sim.Count(pipedreamtest.KindList))
		})
	}
}

func TestListsWithCredentials(t *testing.T) {
	sim, client := setUp(t)
	populate(sim)
	for _, include := range []bool{false, true} {
		for _, got := range Decode[[]map[string]any](t, client.Iterate(t, "accounts.list", map[string]any{"limit": 10, "includeCredentials": include})) {
			credentials, there := got["credentials"].(map[string]any)
			require.Equal(t, include, there)
			if include && got["externalId"] == "alice" {
				id, _ := got["id"].(string)
				require.Equal(t, sim.Token(id), credentials["oauthAccessToken"])
			}
			require.IsType(t, map[string]any{}, got["updatedAt"])
		}
	}
}

func TestPages(t *testing.T) {
	sim, client := setUp(t)
	all, _ := populate(sim)
	type page struct {
		Data     []map[string]any `json:"data"`
		PageInfo map[string]any   `json:"pageInfo"`
	}
	first := Decode[page](t, client.Call(t, "accounts.list", map[string]any{"limit": 20}))
	require.Len(t, first.Data, 20)
	require.EqualValues(t, 20, first.PageInfo["count"])
	require.EqualValues(t, 25, first.PageInfo["totalCount"])

	last := Decode[page](t, client.Call(t, "accounts.list", map[string]any{"limit": 20, "after": first.PageInfo["endCursor"]}))
	require.Len(t, last.Data, 5)
	require.Equal(t, all[24], last.Data[4]["id"])
	require.NotEmpty(t, last.PageInfo["endCursor"])

	behind := Decode[page](t, client.Call(t, "accounts.list", map[string]any{"limit": 20, "after": last.PageInfo["endCursor"]}))
	require.Empty(t, behind.Data)
	require.EqualValues(t, 0, behind.PageInfo["count"])
	require.Nil(t, behind.PageInfo["endCursor"])

	before := Decode[page](t, client.Call(t, "accounts.list", map[string]any{"limit": 3, "before": last.PageInfo["startCursor"]}))
	require.Equal(t, all[17], before.Data[0]["id"])
}

func TestListsWithoutACursorAtTheEnd(t *testing.T) {
	sim, client := setUp(t, pipedreamtest.WithNoCursorAtEnd())
	all, _ := populate(sim)
	require.Equal(t, all, ids(t, client.Iterate(t, "accounts.list", map[string]any{"limit": 20})))
	require.Equal(t, 2, sim.Count(pipedreamtest.KindList))
}

func TestConnectToken(t *testing.T) {
	sim, client := setUp(t)
	for name, request := range map[string]map[string]any{
		"least": {"externalUserId": "carol"},
		"everything": {
			"externalUserId": "carol", "appId": "github", "oauthAppId": "oa_aPXiQd", "expiresIn": 900,
			"scope": "connect:accounts:read connect:accounts:write connect:apps:*", "allowProgressiveScopes": true,
			"successRedirectUri": "https://example.com/done", "errorRedirectUri": "https://example.com/failed",
			"webhookUri": "https://example.com/hook", "allowedOrigins": []string{"https://example.com"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			asked := time.Now()
			got := Decode[map[string]any](t, client.Call(t, "tokens.create", request))
			require.Regexp(t, `^ctok_[0-9a-f]{32}$`, got["token"])
			date, ok := got["expiresAt"].(map[string]any)
			require.True(t, ok)
			text, _ := date["date"].(string)
			expires, err := time.Parse(time.RFC3339, text)
			require.NoError(t, err)
			life := 4 * time.Hour
			if seconds, ok := request["expiresIn"].(int); ok {
				life = time.Duration(seconds) * time.Second
			}
			require.WithinRange(t, expires, asked.Add(life-time.Second), time.Now().Add(life+time.Second))

			link, ok := got["connectLinkUrl"].(string)
			require.True(t, ok)
			require.True(t, strings.HasSuffix(link, "&connectLink=true"), link)
			id, err := sim.Click(link + "&app=github&oauthAppId=oa_aPXiQd")
			require.NoError(t, err)
			connected := Decode[map[string]any](t, client.Call(t, "accounts.retrieve", id, with(true)))
			require.Equal(t, "carol", connected["externalId"])
			require.Contains(t, connected["credentials"], "oauthAccessToken")
		})
	}
}

func TestErrors(t *testing.T) {
	sim, client := setUp(t)
	require.Nil(t, client.Call(t, "accounts.list", map[string]any{}).Error) // has a token from here on
	other := []string{"PipedreamError"}
	for status, classes := range map[int][]string{
		400: other, 401: other, 402: other, 403: other, 404: other, 410: other, 422: other,
		429: {"PipedreamError", "TooManyRequestsError"},
		500: other, 501: other, 502: other, 503: other, 504: other,
	} {
		remove := sim.AddFault(pipedreamtest.Fault{Status: status, Body: `{"error":"why","code":"a_code","details":{"field":"app"}}`})
		for method, args := range map[string][]any{
			"accounts.retrieve": {"apn_github", with(true), once()},
			"accounts.list":     {map[string]any{"app": "github"}, once()},
			"tokens.create":     {map[string]any{"externalUserId": "alice"}, once()},
		} {
			sim.ResetRequests()
			r := client.Call(t, method, args...)
			require.NotNil(t, r.Error, "%s, %d", method, status)
			require.Equal(t, classes, r.Error.Classes, "%s, %d", method, status)
			require.Equal(t, status, r.Error.Status)
			require.Equal(t, map[string]any{"error": "why", "code": "a_code", "details": map[string]any{"field": "app"}}, r.Error.Body)
			require.Equal(t, 1, sim.Count(""))
		}
		remove()
	}
}

// TestRealErrors checks the errors that the simulated API returns by itself.
func TestRealErrors(t *testing.T) {
	sim, client := setUp(t, pipedreamtest.WithConnectLimit(3, time.Hour))
	sim.SetAccount(pipedreamtest.Account{ID: "apn_elsewhere", App: github, Project: "proj_other"})
	for _, id := range []string{"apn_none", "apn_elsewhere"} {
		r := client.Call(t, "accounts.retrieve", id, with(true), once())
		require.NotNil(t, r.Error, id)
		require.Equal(t, []string{"PipedreamError"}, r.Error.Classes)
		require.Equal(t, http.StatusNotFound, r.Error.Status)
		require.Equal(t, map[string]any{"error": "record not found"}, r.Error.Body)
	}
	require.Nil(t, client.Call(t, "accounts.list", map[string]any{}, once()).Error)

	r := client.Call(t, "accounts.list", map[string]any{}, once())
	require.NotNil(t, r.Error)
	require.Equal(t, []string{"PipedreamError", "TooManyRequestsError"}, r.Error.Classes)
	require.Equal(t, map[string]any{"error": "Throttled"}, r.Error.Body)
	require.NotEmpty(t, r.Error.Header["retry-after"])
	require.Equal(t, "3", r.Error.Header["x-ratelimit-limit"])
	require.Equal(t, "0", r.Error.Header["x-ratelimit-remaining"])
	require.NotEmpty(t, r.Error.Header["x-ratelimit-reset"])
}

// TestRetries has the SDK retry by itself, after the time that the answer names.
func TestRetries(t *testing.T) {
	sim, client := setUp(t)
	sim.SetAccount(account("apn_github", github, nil))
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		sim.ResetRequests()
		sim.AddFault(pipedreamtest.Fault{
			Kind: pipedreamtest.KindAccount, Times: 1, Status: status, Header: http.Header{"Retry-After": {"1"}},
		})
		require.Nil(t, client.Call(t, "accounts.retrieve", "apn_github").Error)
		require.Equal(t, 2, sim.Count(pipedreamtest.KindAccount))
		log := sim.Requests()
		require.GreaterOrEqual(t, log[len(log)-1].Time.Sub(log[len(log)-2].Time), 900*time.Millisecond)
	}
}

func TestOtherAnswers(t *testing.T) {
	sim, client := setUp(t)
	require.Nil(t, client.Call(t, "accounts.list", map[string]any{}).Error)
	for name, tt := range map[string]struct {
		fault  pipedreamtest.Fault
		status int
	}{
		"HTML of a gateway": {pipedreamtest.Fault{Garbage: true, Status: 502}, 502},
		"a cut connection":  {pipedreamtest.Fault{Cut: true}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			defer sim.AddFault(tt.fault)()
			r := client.Call(t, "accounts.retrieve", "apn_github", with(true), once())
			require.NotNil(t, r.Error)
			require.Equal(t, []string{"PipedreamError"}, r.Error.Classes)
			require.Equal(t, tt.status, r.Error.Status)
		})
	}
}

// TestRequests records the requests of the SDK. Another test compares the plugin's requests with them.
func TestRequests(t *testing.T) {
	sim, client := setUp(t)
	sim.SetAccount(account("apn_github", github, nil))
	require.Nil(t, client.Call(t, "accounts.retrieve", "apn_github", with(true)).Error)
	require.Nil(t, client.Call(t, "accounts.list", map[string]any{"externalUserId": "alice", "app": "github", "limit": 100, "includeCredentials": true}).Error)
	require.Nil(t, client.Call(t, "tokens.create", map[string]any{"externalUserId": "alice", "expiresIn": 900}).Error)

	var got []string
	for _, r := range sim.Requests() {
		got = append(got, strings.TrimSpace(r.Method+" "+r.Path+"?"+r.RawQuery+" "+r.Body))
		require.Equal(t, "production", r.Header.Get("x-pd-environment"))
		require.Equal(t, "@pipedream/sdk", r.Header.Get("X-Fern-Sdk-Name"))
		require.Equal(t, "3.1.6", r.Header.Get("X-Fern-Sdk-Version"), "the version in the lock file")
		if r.Kind != pipedreamtest.KindToken {
			require.Equal(t, "Bearer [redacted]", r.Header.Get("Authorization"))
		}
		if r.Method == http.MethodPost {
			require.Equal(t, "application/json", r.Header.Get("Content-Type"))
		}
	}
	require.Equal(t, []string{
		`POST /v1/oauth/token? {"client_id":"client_of_the_sdk","client_secret":"[redacted]","grant_type":"client_credentials"}`,
		`GET /v1/connect/proj_sdk/accounts/apn_github?include_credentials=true`,
		`GET /v1/connect/proj_sdk/accounts?external_user_id=alice&limit=100&app=github&include_credentials=true`,
		`POST /v1/connect/proj_sdk/tokens? {"expires_in":900,"external_user_id":"alice"}`,
	}, got)
}
