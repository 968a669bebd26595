package livecheck

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestWrongPipedreams(t *testing.T) {
	for name, o := range map[string]*other{
		"another wrapping": {
			twist: lists(func(list map[string]any) { list["data"] = map[string]any{"items": list["data"]} }), where: connect,
			notices: []notice{{"list.form", otherList, NotHandled}, {"engine.list", "not at all", NotHandled}},
		},
		"a bare list": {
			twist: twist{body: func(req *http.Request, _ int, value any) any {
				if object, ok := value.(map[string]any); ok && isList(req) && object["data"] != nil {
					return object["data"]
				}
				return value
			}}, where: connect,
			notices: []notice{{"list.form", bareList, NotHandled}, {"engine.list", "not at all", NotHandled}},
		},
		"another wrapping of one account": {
			twist: twist{body: func(req *http.Request, status int, value any) any {
				if strings.Contains(req.URL.Path, "/accounts/") && status == http.StatusOK {
					return map[string]any{"account": value}
				}
				return value
			}}, where: connect,
			notices: []notice{{"account.form", otherAccount, NotHandled}, {"engine.account", "not at all", NotHandled}},
		},
		"numbers as texts": {
			twist: twist{number: func(n json.Number) any { return n.String() }}, where: connect,
			notices: []notice{{"list.numbers", numberText, Different}, {"engine.list", "all but total_count", Different}},
		},
		"an expires_in as text": {
			twist:   twist{number: func(n json.Number) any { return n.String() }},
			notices: []notice{{"token.answer", "expires_in is a number as text", Different}, {"token.life", "3600 s", AsExpected}},
		},
		"another 404": {
			twist: twist{body: func(_ *http.Request, status int, value any) any {
				if status == http.StatusNotFound {
					return map[string]any{"message": "Not Found"}
				}
				return value
			}}, where: connect,
			notices: []notice{{"error.no_account", errorMissing, NotHandled}, {"engine.no_account", "for an outage", NotHandled}},
		},
		"a 500 for an unknown account": {
			twist: twist{answer: func(resp *http.Response) {
				if resp.StatusCode == http.StatusNotFound {
					resp.StatusCode = http.StatusInternalServerError
				}
			}}, where: connect,
			notices: []notice{{"error.no_account", "status 500", NotHandled}, {"engine.no_account", "for an outage", NotHandled}},
		},
		"a wrong key is a 400": {
			twist: twist{answer: func(resp *http.Response) {
				if resp.StatusCode == http.StatusUnauthorized {
					resp.StatusCode = http.StatusBadRequest
				}
			}}, where: connect,
			notices: []notice{{"error.bearer", "status 400", NotHandled}},
		},
		"tokens that never change": {
			prepare: func(sim *pipedreamtest.Server) {
				sim.Update("apn_own1c", func(a *pipedreamtest.Account) { a.NoRefresh, a.TokenLife = true, 5*time.Minute })
			},
			config: func(c *Config) { c.Watch = 10 * time.Minute }, where: connect,
			notices: []notice{{"life.change", "the same token after its end", Different}},
		},
		"tokens that change late": {
			prepare: func(sim *pipedreamtest.Server) {
				sim.Update("apn_own1c", func(a *pipedreamtest.Account) { a.RefreshBefore, a.TokenLife = -30*time.Second, 5*time.Minute })
			},
			config: func(c *Config) { c.Watch = 10 * time.Minute }, where: connect,
			notices: []notice{{"life.change", "another token after the end of the old one", Different}, {"life.refresh", "next_refresh_at after expires_at", Different}},
		},
		"tokens that change in time": {
			prepare: func(sim *pipedreamtest.Server) {
				sim.Update("apn_own1c", func(a *pipedreamtest.Account) { a.TokenLife = 10 * time.Minute })
			},
			config: func(c *Config) { c.Watch = 10 * time.Minute }, where: connect,
			notices: []notice{{"life.change", "another token by next_refresh_at", AsExpected}, {"life.length", "10 minutes to an hour", Different}},
		},
		"a token that has ended": {
			prepare: func(sim *pipedreamtest.Server) {
				sim.Update("apn_own1c", func(a *pipedreamtest.Account) { a.NoRefresh, a.TokenLife = true, time.Minute })
				time.Sleep(10 * time.Minute)
			}, where: connect,
			notices: []notice{{"life.ended", "ended", Different}, {"life.overdue", "past", Different}},
		},
		"a Date hours ahead":  {twist: clock(3 * time.Hour), notices: []notice{{"answer.clock", "more than 30 s apart", Different}}},
		"a Date hours behind": {twist: clock(-3 * time.Hour), notices: []notice{{"answer.clock", "more than 30 s apart", Different}}},
		"a Date a bit off":    {twist: clock(15 * time.Second), notices: []notice{{"answer.clock", "3 s to 30 s apart", Different}}},
		"no Date": {
			twist:   twist{answer: func(resp *http.Response) { resp.Header.Del("Date") }},
			notices: []notice{{"answer.date", "no Date", Different}},
		},
		"a cache": {
			twist:   twist{answer: func(resp *http.Response) { resp.Header.Set("Age", "30") }},
			notices: []notice{{"answer.cache", "an Age", Different}},
		},
		"filters ignored": {
			twist: dropped("app", "oauth_app_id", "external_user_id"), where: connect,
			notices: []notice{
				{"filter.app", allOthersToo, Different},
				{"filter.user", allOthersToo, Different},
				{"filter.oauth_app", allOthersToo, Different},
				{"filter.no_user", allOthersToo, Different},
				{"filter.no_app", allOthersToo, Different},
			},
		},
		"oa_ on Pipedream's own client": {
			prepare: func(sim *pipedreamtest.Server) {
				sim.Update("apn_theirs1c", func(a *pipedreamtest.Account) { a.OAuthAppID = "oa_theirs" })
			}, where: connect,
			notices: []notice{{"account.app_id", "oa_… without credentials", Different}},
		},
		"after ignored": {
			twist: dropped("after"), where: connect, opts: []pipedreamtest.Option{pipedreamtest.WithPageCap(2)},
			notices: []notice{{"list.after", "the same page again", NotHandled}, {"list.end", endsWithLoop, Different}, {"list.distinct", "an account came twice", Different}},
		},
		"limit ignored": {
			twist: dropped("limit"), where: connect,
			notices: []notice{{"list.small_limit", "more than one account", Different}},
		},
		"a total_count that is too small": {
			twist: infos(func(info map[string]any) { info["total_count"] = 1 }), where: connect,
			notices: []notice{{"list.total", "more accounts came than total_count says", NotHandled}},
		},
		"a total_count that is too large": {
			twist: infos(func(info map[string]any) { info["total_count"] = 900 }), where: connect,
			notices: []notice{{"list.total", "fewer accounts came than total_count says", Different}},
		},
		"no page_info": {
			twist: lists(func(list map[string]any) { delete(list, "page_info") }), where: connect,
			notices: []notice{{"list.page_info", "no end_cursor", NotHandled}},
		},
		"cursors that are numbers": {
			twist: infos(func(info map[string]any) { info["end_cursor"] = 7 }), where: connect,
			notices: []notice{{"list.last_cursor", number, NotHandled}, {"engine.list", "not the cursor", NotHandled}},
		},
		"a list that never ends": {
			fault: pipedreamtest.Fault{Kind: pipedreamtest.KindList, EndlessList: true, PageSize: 2}, where: connect,
			notices: []notice{{"list.end", endsWithPatience, Different}, {"list.distinct", "an account came twice", Different}},
		},
		"cursors in a loop": {
			fault: pipedreamtest.Fault{Kind: pipedreamtest.KindList, LoopCursors: 2}, where: connect,
			notices: []notice{{"list.end", endsWithLoop, Different}},
		},
		"pages that are too long": {
			fault: pipedreamtest.Fault{Kind: pipedreamtest.KindList, LoopCursors: 1, PageSize: 201}, where: connect,
			notices: []notice{{"list.limit", "pages that are longer than the engine reads", NotHandled}, {"engine.list", "not at all", NotHandled}},
		},
		"elements that are no accounts": {
			fault: pipedreamtest.Fault{Kind: pipedreamtest.KindList, ListElement: json.RawMessage(`7`)}, where: connect,
			notices: []notice{{"engine.list", "not all accounts", NotHandled}},
		},
		"lists without credentials": {
			twist: twist{request: func(req *http.Request) {
				if isList(req) {
					q := req.URL.Query()
					q.Del("include_credentials")
					req.URL.RawQuery = q.Encode()
				}
			}}, where: connect,
			notices: []notice{{"list.credentials", "none, though alone there are some", Different}},
		},
		"credentials that nobody asked for": {
			twist: twist{request: func(req *http.Request) {
				q := req.URL.Query()
				if strings.Contains(req.URL.Path, "/accounts") {
					q.Set("include_credentials", "true")
				}
				req.URL.RawQuery = q.Encode()
			}}, where: connect,
			notices: []notice{{"list.credentials_unasked", "credentials", Different}},
		},
		"another account": {
			fault: pipedreamtest.Fault{Kind: pipedreamtest.KindAccount, WrongAccount: "apn_dead1c"}, where: connect,
			notices: []notice{{"account.answer", "something else", NotHandled}, {"engine.account", "not at all", NotHandled}},
		},
		"an end that is no time": {
			twist: everyAccount(func(a map[string]any) { a["expires_at"] = "soon" }), where: connect,
			notices: []notice{{"field.expires_at", otherTime, NotHandled}, {"engine.list", "not all accounts", NotHandled}},
		},
		"owners that are numbers": {
			twist: everyAccount(func(a map[string]any) { a["external_id"] = 7 }), where: connect,
			notices: []notice{{"field.external_id", number, NotHandled}, {"engine.list", "not its owner", NotHandled}},
		},
		"credentials in a text": {
			twist: everyAccount(func(a map[string]any) {
				if a["credentials"] != nil {
					a["credentials"] = "{}"
				}
			}), where: connect,
			notices: []notice{{"field.credentials", anyText, NotHandled}, {"engine.list", "not all accounts", NotHandled}},
		},
		"health in texts": {
			twist: everyAccount(func(a map[string]any) { a["healthy"], a["dead"] = "true", 0 }), where: connect,
			notices: []notice{{"field.healthy", booleanText, Different}, {"field.dead", number, Different}},
		},
		"an HTML gateway": {
			fault:   pipedreamtest.Fault{Garbage: true},
			notices: []notice{{"answer.usable", htmlBody, NotHandled}},
		},
		"HTML for accounts alone": {
			fault:   pipedreamtest.Fault{Kind: pipedreamtest.KindList, Garbage: true},
			notices: []notice{{"answer.usable", htmlBody, NotHandled}, {"answer.type", "another Content-Type", Different}},
		},
		"redirects": {
			fault:   pipedreamtest.Fault{Redirect: "https://elsewhere.example.com"},
			notices: []notice{{"answer.usable", redirected, NotHandled}},
		},
		"a 429 at once, for good": {
			fault:   pipedreamtest.Fault{Status: http.StatusTooManyRequests},
			notices: []notice{{"limit.met", "a 429 again, after the wait that the first one asked for", NotHandled}},
		},
		"a 429 that asks to wait for a day": {
			fault:   pipedreamtest.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"86400"}}},
			notices: []notice{{"limit.met", "a 429 again, after the wait that the first one asked for", NotHandled}},
		},
		"one 429, with a date": {
			fault: pipedreamtest.Fault{
				Status: http.StatusTooManyRequests, Times: 1, Body: "slow down",
				Header: http.Header{"Retry-After": {"Fri, 26 Dec 2025 00:00:30 GMT"}},
			},
			notices: []notice{{"limit.met", "a 429", Different}, {"limit.wait", "Retry-After as a date", Different}, {"limit.body", "another body", Different}},
		},
		"no answers": {
			fault:   pipedreamtest.Fault{Hang: true},
			notices: []notice{{"answer.usable", noAnswer, NotHandled}},
		},
		"one that hangs": {
			fault:   pipedreamtest.Fault{Kind: pipedreamtest.KindList, Hang: true, Times: 1},
			notices: []notice{{"answer.usable", noAnswer, NotHandled}},
		},
		"slow bodies": {
			fault:   pipedreamtest.Fault{SlowBody: time.Second},
			notices: []notice{{"answer.usable", noAnswer, NotHandled}, {"answer.time", "more than 5 s", Different}},
		},
		"slow answers": {
			fault:   pipedreamtest.Fault{Delay: 3 * time.Second},
			notices: []notice{{"answer.time", "2 s to 5 s", Different}},
		},
		"an endless body": {
			fault:   pipedreamtest.Fault{HugeBody: 1 << 40},
			notices: []notice{{"answer.usable", tooLarge, NotHandled}, {"answer.size", "more than 4 MiB", NotHandled}},
		},
		"connections that are closed": {
			fault:   pipedreamtest.Fault{Cut: true},
			notices: []notice{{"answer.usable", noConnection, NotHandled}},
		},
		"bodies that are cut": {
			fault:   pipedreamtest.Fault{CutBody: true},
			notices: []notice{{"answer.usable", cutShort, NotHandled}},
		},
		"JSON that is cut": {
			fault:   pipedreamtest.Fault{TruncatedJSON: true},
			notices: []notice{{"answer.usable", notJSON, NotHandled}},
		},
		"no bodies": {
			fault:   pipedreamtest.Fault{Kind: pipedreamtest.KindList, Empty: true},
			notices: []notice{{"answer.usable", emptyBody, NotHandled}},
		},
		"deep nesting": {
			fault:   pipedreamtest.Fault{DeepNesting: 20000},
			notices: []notice{{"answer.usable", notJSON, NotHandled}},
		},
		"members that come twice": {
			fault: pipedreamtest.Fault{DuplicateKeys: true}, where: connect,
			notices: []notice{{"engine.list", "all of it", AsExpected}},
		},
		"an outage": {
			fault: pipedreamtest.Fault{Status: http.StatusServiceUnavailable}, where: "workspace",
			config:  func(c *Config) { *c = configFor(c.Transport, true) },
			notices: []notice{{"list.answer", "status 503", NotHandled}},
		},
		"no access": {
			fault: pipedreamtest.Fault{Kind: pipedreamtest.KindList, Status: http.StatusForbidden}, where: connect,
			notices: []notice{{"list.answer", "status 403", Different}},
		},
		"an access token without a life": {
			twist: twist{body: func(req *http.Request, _ int, value any) any {
				if strings.HasSuffix(req.URL.Path, "/oauth/token") {
					delete(value.(map[string]any), "expires_in")
				}
				return value
			}},
			notices: []notice{{"token.answer", "expires_in is absent", NotHandled}},
		},
	} {
		t.Run(name, o.run)
	}
}

func TestNoGatewayIsTakenForPipedream(t *testing.T) {
	for _, gateway := range pipedreamtest.Gateways() {
		for _, status := range []int{200, 401, 403, 404, 503} {
			synctest.Test(t, func(t *testing.T) {
				sim := pipedreamtest.New()
				defer sim.Close()
				populate(sim)
				sim.AddFault(gateway.Fault(status))
				report := Run(context.Background(), configFor(sim.Transport(), true))
				require.False(t, report.SawAccounts(), gateway.Name)
				for _, result := range report.Results {
					about, _, _ := strings.Cut(result.Name, ".")
					if slices.Contains([]string{"filter", "account", "life", "field", "engine", "token", "user"}, about) {
						require.NotEqual(t, AsExpected, result.Verdict, "%s, %d: %s", gateway.Name, status, result.Name)
					}
				}
			})
		}
	}
}
