package livecheck

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// notice is what the check must say of a Pipedream that is not as expected.
type notice struct {
	name    string
	form    Form
	verdict Verdict
}

// other is a Pipedream that is not as the simulator is by default.
type other struct {
	opts    []pipedreamtest.Option
	fault   pipedreamtest.Fault
	twist   twist
	prepare func(*pipedreamtest.Server)
	config  func(*Config)

	where   string // where it must be noticed; empty for everywhere
	notices []notice
}

const connect = "Connect, production"

// run checks it. Each must be noticed by name, and whatever it is, nothing secret is said.
func (o *other) run(t *testing.T) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(sinceBubble)
		sim := pipedreamtest.New(o.opts...)
		defer sim.Close()
		populate(sim)
		if o.prepare != nil {
			o.prepare(sim)
		}
		defer sim.AddFault(o.fault)()
		c := configFor(o.twist.over(sim.Transport()), false)
		if o.config != nil {
			o.config(&c)
		}
		began := time.Now()
		report := Run(context.Background(), c)
		require.Less(t, time.Since(began), 30*time.Minute)
		for _, n := range o.notices {
			result := of(t, report, n.name)[o.where]
			require.Contains(t, result.Seen, n.form, "%s: %s", n.name, result.Why)
			require.Equal(t, n.verdict, result.Verdict, n.name)
			if n.verdict == NotHandled {
				require.Contains(t, report.NotHandled, n.name)
			}
		}
		text := string(report.JSON())
		require.NotContains(t, text, "a mistake of this program")
		for _, secret := range append(sim.Secrets(), "alice", "carol", "octo", "Octo", "apn_own", "proj_test", "oa_test", testClient) {
			require.NotContains(t, text, secret)
		}
	})
}

func TestOtherForms(t *testing.T) {
	for name, o := range map[string]*other{
		"old forms of Connect": {
			opts: []pipedreamtest.Option{pipedreamtest.WithOldConnectForms()}, where: connect,
			notices: []notice{{"list.form", dataAccounts, Different}, {"account.form", dataAccount, AsExpected}, {"engine.list", "all of it", AsExpected}},
		},
		"unknown accounts as a 200": {
			opts: []pipedreamtest.Option{pipedreamtest.WithNotFoundAs200()}, where: connect,
			notices: []notice{{"error.no_account", "status 200", Different}, {"engine.no_account", "for an unknown account", AsExpected}},
		},
		"no cursor at the end": {
			opts: []pipedreamtest.Option{pipedreamtest.WithNoCursorAtEnd()}, where: connect,
			notices: []notice{{"list.last_cursor", emptyText, Different}},
		},
		"a capped limit": {
			opts: []pipedreamtest.Option{pipedreamtest.WithPageCap(2)}, where: connect,
			notices: []notice{{"list.limit", "shorter pages, though more follow", Different}, {"list.default_limit", "another number of accounts", Different}},
		},
		"filters after paging": {
			opts: []pipedreamtest.Option{pipedreamtest.WithFiltersAfterPaging()}, where: connect,
			notices: []notice{{"filter.paging", "after paging", Different}, {"filter.total", "another number", Different}},
		},
		"lists without totals": {
			opts: []pipedreamtest.Option{pipedreamtest.WithoutTotals(), pipedreamtest.WithPageCap(2)}, where: connect,
			notices: []notice{{"list.page_info", "no total_count", Different}, {"list.total", "no total_count", Different}, {"list.end", endsWithEmpty, Different}},
		},
		"scopes of Connect on the workspace": {
			opts: []pipedreamtest.Option{pipedreamtest.WithConnectScopesOnWorkspace()}, where: "workspace",
			notices: []notice{{"scope.read", answered, Learned}},
		},
		"errors as objects": {
			opts: []pipedreamtest.Option{pipedreamtest.WithErrorObjects()}, where: connect,
			notices: []notice{{"error.no_account", errorObject, Different}, {"error.bearer", errorObject, Different}},
		},
		"epoch times": {
			opts: []pipedreamtest.Option{pipedreamtest.WithTimes(pipedreamtest.TimesSeconds)}, where: connect,
			notices: []notice{{"field.expires_at", unixSeconds, Different}, {"engine.account", "all of it", AsExpected}},
		},
		"epoch times in milliseconds": {
			opts: []pipedreamtest.Option{pipedreamtest.WithTimes(pipedreamtest.TimesMilliseconds)}, where: connect,
			notices: []notice{{"field.created_at", unixMillis, Different}},
		},
		"times with an offset": {
			opts: []pipedreamtest.Option{pipedreamtest.WithTimes(pipedreamtest.TimesOffset)}, where: connect,
			notices: []notice{{"field.created_at", offsetTime, Different}},
		},
		"times in lower case": {
			opts: []pipedreamtest.Option{pipedreamtest.WithTimes(pipedreamtest.TimesLower)}, where: connect,
			notices: []notice{{"field.created_at", lowerTime, Different}},
		},
		"a low limit": {
			opts:    []pipedreamtest.Option{pipedreamtest.WithConnectLimit(20, 30*time.Second)},
			notices: []notice{{"limit.met", "a 429", Different}, {"limit.wait", "Retry-After in seconds", AsExpected}, {"limit.body", "error is Throttled", AsExpected}},
		},
		"no wait in a 429": {
			opts: []pipedreamtest.Option{
				pipedreamtest.WithConnectLimit(20, 30*time.Second), pipedreamtest.WithRetryAfter(false), pipedreamtest.WithRateLimitHeaders(false),
			},
			notices: []notice{{"limit.wait", "no Retry-After", Different}, {"limit.wait", "no X-RateLimit-Reset", Different}},
		},
		"a workspace for a key": {
			opts: []pipedreamtest.Option{pipedreamtest.WithOrgID("o_test")}, where: "workspace",
			config:  func(c *Config) { *c = configFor(c.Transport, true) },
			notices: []notice{{"error.org_id", "status 400", Learned}, {"list.answer", "status 400", NotHandled}},
		},
		"that workspace": {
			opts: []pipedreamtest.Option{pipedreamtest.WithOrgID("o_test")}, where: "workspace",
			config:  func(c *Config) { *c = configFor(c.Transport, true); c.OrgID = "o_test" },
			notices: []notice{{"error.org_id", "status 400", Learned}, {"list.answer", answered, AsExpected}},
		},
	} {
		t.Run(name, o.run)
	}
}
