package livecheck

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// canary is in everything that an answer can have.
const canary = "canary"

// canaries returns an account of which everything says canary that can.
func canaries(id, project string) pipedreamtest.Account {
	a := pipedreamtest.Account{
		ID: "apn_" + canary + id, Name: canary + "@example.com", Project: project, ExternalUserID: canary + "-user-" + id,
		App:        pipedreamtest.App{ID: "app_" + canary, Slug: canary + "_app" + id, Name: canary, AuthType: "oauth"},
		OAuthAppID: "oa_" + canary, Scopes: []string{canary + ":read"}, Unhealthy: true, Error: canary + " is locked out",
		TokenLife: time.Hour,
		Credentials: map[string]any{
			"oauth_access_token": canary + "_token", "oauth_refresh_token": canary, "oauth_uid": canary, "oauth_client_id": canary,
			canary + "_key": canary, "number": 424242424242, "inner": map[string]any{canary: []any{canary}},
		},
		Override: map[string]any{
			canary: canary, canary + "_inner": map[string]any{canary: canary}, "authorized_scopes": []any{canary, 424242424242},
		},
	}
	if project == "" {
		a.ExternalUserID = ""
	}
	return a
}

// loud is a twist that puts canaries into headers, and into what else an answer has.
var loud = twist{
	answer: func(resp *http.Response) {
		for _, name := range []string{"X-" + canary, "Server", "Set-Cookie", "Link", "X-Request-Id", "Age", "Via", "X-RateLimit-Limit"} {
			resp.Header.Add(name, canary)
		}
		resp.Header.Set("Content-Type", "application/json; x="+canary)
	},
	body: func(_ *http.Request, status int, value any) any {
		object, ok := value.(map[string]any)
		if !ok {
			return value
		}
		if status >= http.StatusBadRequest {
			object["error"] = map[string]any{canary: []any{canary}}
		}
		object[canary] = map[string]any{canary: canary}
		if info, ok := object["page_info"].(map[string]any); ok {
			info[canary], info["beta"] = canary, canary
		}
		if object["access_token"] != nil {
			object["token_type"], object["scope"] = canary, canary
		}
		return object
	},
}

func TestAReportSaysNothingOfAnybody(t *testing.T) {
	for name, o := range map[string]other{
		"by default": {},
		"all over":   {twist: loud},
		"old forms":  {opts: []pipedreamtest.Option{pipedreamtest.WithOldConnectForms(), pipedreamtest.WithErrorObjects(), pipedreamtest.WithPageCap(1)}},
		"wrapped":    {twist: lists(func(list map[string]any) { list["data"] = map[string]any{canary: list["data"]} })},
		"texts of a gateway": {fault: pipedreamtest.Fault{
			Status: http.StatusBadRequest, Body: `{"` + canary + `":"` + canary + `"}`, Header: http.Header{"X-" + canary: {canary}},
		}},
		"texts of a page":  {fault: pipedreamtest.Fault{Status: http.StatusOK, Body: "<p>" + canary + "</p>"}},
		"an odd 429":       {fault: pipedreamtest.Fault{Status: http.StatusTooManyRequests, Times: 1, Body: canary, Header: http.Header{"Retry-After": {canary}, "X-RateLimit-Reset": {canary}}}},
		"a redirect there": {fault: pipedreamtest.Fault{Redirect: "https://" + canary + ".example.com"}},
		"odd times": {twist: everyAccount(func(a map[string]any) {
			for name := range a {
				if name != "id" && name != "app" {
					a[name] = canary
				}
			}
		})},
	} {
		for _, withKey := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sim := pipedreamtest.New(append(o.opts, pipedreamtest.WithAPIKey(canary+"_api_key"))...)
					defer sim.Close()
					sim.SetOAuthClient(canary+"_client", canary+"_secret", time.Hour)
					for _, project := range []string{"", "proj_" + canary} {
						sim.SetAccount(canaries("1"+project, project))
						sim.SetAccount(canaries("2"+project, project))
					}
					defer sim.AddFault(o.fault)()
					c := configFor(o.twist.over(sim.Transport()), withKey)
					c.BaseURL.Host = canary + ".example.com"
					if withKey {
						c.APIKey = canary + "_api_key"
					} else {
						c.ClientID, c.ClientSecret, c.ProjectID = canary+"_client", canary+"_secret", "proj_"+canary
					}
					report := Run(context.Background(), c)
					var text bytes.Buffer
					require.NoError(t, report.Write(&text))
					all := strings.ToLower(text.String() + string(report.JSON()))
					require.NotContains(t, all, canary)
					require.NotContains(t, all, "424242")
					require.NotContains(t, all, "a mistake of this program")
				})
			})
		}
	}
}
