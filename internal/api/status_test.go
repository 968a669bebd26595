package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestStatusErrors(t *testing.T) {
	const object, page, fields, foreign = ` {"error":"pd_secret","code":7,"details":{}} `, `<html>pd_secret</html>`, `{"error":{"account":["pd_secret"]}}`, `{"message":"pd_secret"}`
	unlike := func(status string) string {
		return "Pipedream is not available (HTTP " + status + "): it answered with status " + status + ", in a form that is not Pipedream's"
	}
	for name, tc := range map[string]struct {
		status    int
		body      string
		kind      Kind
		text      string
		ofAccount bool
		ofAll     bool
	}{
		"400":                {400, object, Rejected, "Pipedream rejected the request (HTTP 400)", false, false},
		"400 about a field":  {400, fields, Rejected, "Pipedream rejected the request (HTTP 400)", false, false},
		"401":                {401, object, Unauthorized, "Pipedream refused the API key or OAuth client for this account (HTTP 401)", false, false},
		"402":                {402, object, PaymentRequired, "Pipedream requires payment (HTTP 402)", false, false},
		"403":                {403, object, Forbidden, "Pipedream refused access (HTTP 403)", true, false},
		"403 with a list":    {403, `[{}]`, Unavailable, unlike("403"), false, false},
		"403 without more":   {403, ``, Unavailable, unlike("403"), false, false},
		"404":                {404, object, NotFound, "Pipedream does not know it (HTTP 404)", true, false},
		"404, cut off":       {404, `{"error":`, Unavailable, unlike("404"), false, false},
		"410":                {410, object, NotFound, "Pipedream does not know it (HTTP 410)", true, false},
		"418":                {418, object, Unavailable, "Pipedream is not available (HTTP 418): it answered with status 418", false, false},
		"422":                {422, object, Rejected, "Pipedream rejected the request (HTTP 422)", false, false},
		"429":                {429, object, Throttled, "the rate limit is used up (HTTP 429)", false, true},
		"429 of a gateway":   {429, page, Throttled, "the rate limit is used up (HTTP 429)", false, true},
		"500":                {500, object, Unavailable, "Pipedream is not available (HTTP 500): it answered with status 500", false, false},
		"501":                {501, object, Unavailable, "Pipedream is not available (HTTP 501): it answered with status 501", false, false},
		"503 of a gateway":   {503, page, Unavailable, "Pipedream is not available (HTTP 503): it answered with status 503", false, false},
		"200 of a gateway":   {200, page, BadAnswer, "Pipedream's answer could not be understood: it is not the JSON that was expected", false, false},
		"204 without a body": {204, ``, BadAnswer, "Pipedream's answer could not be understood: it is not the JSON that was expected", false, false},
		"400 of a gateway":   {400, page, Unavailable, unlike("400"), false, false},
		"401 of a gateway":   {401, page, Unavailable, unlike("401"), false, false},
		"402 of a gateway":   {402, foreign, Unavailable, unlike("402"), false, false},
		"403 of a gateway":   {403, foreign, Unavailable, unlike("403"), false, false},
		"404 of a gateway":   {404, `{"error":"Not Found","path":"/v1"}`, Unavailable, unlike("404"), false, false},
		"410 of a gateway":   {410, `{}`, Unavailable, unlike("410"), false, false},
		"422 of a gateway":   {422, `{"error":{"code":"pd_secret","message":"pd_secret"}}`, Unavailable, unlike("422"), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := account(t, ofAccounts(func(*http.Request) reply { return reply{status: tc.status, body: tc.body} }))
			e := isError(t, err, tc.kind, tc.text)
			require.Equal(t, github, e.Account)
			require.Equal(t, tc.ofAccount, IsAccountFault(err))
			require.Equal(t, tc.ofAll, e.AffectsAll())
			require.NotContains(t, err.Error(), "pd_secret")
		})
	}
}

func TestAnErrorSaysHowAndWherePipedreamWasAsked(t *testing.T) {
	s := &script{answer: func(req *http.Request) reply {
		if req.URL.Path == "/v1/oauth/token" {
			return reply{status: http.StatusOK, body: `{"access_token":"t","expires_in":3600}`}
		}
		if req.URL.Path == "/v1/connect/proj_1/accounts" {
			return reply{status: http.StatusOK, body: `{"data":[]}`}
		}
		return fails(http.StatusForbidden)(req)
	}}
	c := newClient(t, s, func(c *Config) {
		c.APIKey, c.ClientID, c.ClientSecret, c.Scope, c.ProjectID, c.Environment = "", "client", "secret", "connect:*", "proj_1", "production"
	})
	_, err := c.Metadata(t.Context(), github)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, Error{
		Kind: Forbidden, Account: github, Status: 403, OAuth: true, Scope: "connect:*", Project: "proj_1", Environment: "production",
	}, *e)
	require.ErrorAs(t, c.NoAccount("user-1", "github"), &e)
	require.Equal(t, "user-1", e.User)
	require.NotContains(t, e.Error(), "user-1", "log lines name no user")
	require.Equal(t, "Pipedream is not available: it did not answer in time (pipedream.test)", c.NoAnswer(github).Error())
}

// The API has no redirects, and the key must not go where one points.
func TestARedirectIsNeverFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := &script{answer: func(*http.Request) reply {
			return reply{status: status, header: http.Header{"Location": {"http://elsewhere.test/pd_secret"}}, body: `{}`}
		}}
		_, err := newClient(t, s, func(c *Config) { c.MaxRetries = 3 }).Account(t.Context(), github)
		isError(t, err, Unavailable, "Pipedream is not available (HTTP "+strconv.Itoa(status)+
			"): it answered with a redirect, which is never followed; check base_url")
		require.Len(t, s.requests(), 1)
	}
}

func TestRetryAfter(t *testing.T) {
	const wait, reset, date = "Retry-After", "X-Ratelimit-Reset", "Date"
	at := func(d time.Duration) []string { return []string{time.Now().Add(d).UTC().Format(http.TimeFormat)} }
	in := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }
	for name, tc := range map[string]struct {
		header func() http.Header
		wait   time.Duration
	}{
		"it does not say": {func() http.Header { return nil }, 0},
		"in seconds":      {func() http.Header { return http.Header{wait: {"7"}} }, 7 * time.Second},
		"until a date": {func() http.Header {
			return http.Header{wait: {time.Now().Add(9 * time.Second).UTC().Format(http.TimeFormat)}}
		}, 9 * time.Second},
		"until its reset":                {func() http.Header { return http.Header{reset: {in(20 * time.Second)}} }, 20 * time.Second},
		"both, the reset is later":       {func() http.Header { return http.Header{wait: {"7"}, reset: {in(20 * time.Second)}} }, 20 * time.Second},
		"both, the reset is earlier":     {func() http.Header { return http.Header{wait: {"30"}, reset: {in(20 * time.Second)}} }, 30 * time.Second},
		"both, the first is invalid":     {func() http.Header { return http.Header{wait: {"soon"}, reset: {in(20 * time.Second)}} }, 20 * time.Second},
		"both, the second is invalid":    {func() http.Header { return http.Header{wait: {"30"}, reset: {"soon"}} }, 30 * time.Second},
		"both are in the past":           {func() http.Header { return http.Header{wait: {"-5"}, reset: {in(-time.Hour)}} }, 0},
		"for a day, by mistake":          {func() http.Header { return http.Header{wait: {"86400"}} }, 10 * time.Minute},
		"until tomorrow, by mistake":     {func() http.Header { return http.Header{reset: {in(24 * time.Hour)}} }, 10 * time.Minute},
		"for longer than a number holds": {func() http.Header { return http.Header{wait: {"99999999999999999999"}} }, 10 * time.Minute},
		"for three thousand years":       {func() http.Header { return http.Header{wait: {"99999999999"}} }, 10 * time.Minute},
		"for a second and a half":        {func() http.Header { return http.Header{wait: {"1.5"}} }, 1500 * time.Millisecond},
		"for what is no number":          {func() http.Header { return http.Header{wait: {"NaN"}} }, 0},
		"until its reset in ms": {func() http.Header {
			return http.Header{reset: {strconv.FormatInt(time.Now().Add(20*time.Second).UnixMilli(), 10)}}
		}, 20 * time.Second},
		"until a date, of a clock that is ahead": {func() http.Header {
			return http.Header{date: at(2 * time.Hour), wait: at(2*time.Hour + 9*time.Second)}
		}, 9 * time.Second},
		"until a date, of a clock that is behind": {func() http.Header {
			return http.Header{date: at(-2 * time.Hour), wait: at(9*time.Second - 2*time.Hour)}
		}, 9 * time.Second},
		"until its reset, of a clock that is ahead": {func() http.Header {
			return http.Header{date: at(2 * time.Hour), reset: {in(2*time.Hour + 9*time.Second)}}
		}, 9 * time.Second},
		"until its reset, of a clock that is behind": {func() http.Header {
			return http.Header{date: at(-2 * time.Hour), reset: {in(9*time.Second - 2*time.Hour)}}
		}, 9 * time.Second},
		"until its reset, at no time": {func() http.Header {
			return http.Header{date: {"soon"}, reset: {in(9 * time.Second)}}
		}, 9 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClient(t, &script{answer: func(*http.Request) reply { return reply{status: 429, header: tc.header(), body: `{}`} }}, nil)
				_, err := c.Account(t.Context(), github)
				require.Equal(t, tc.wait, isError(t, err, Throttled, "the rate limit is used up (HTTP 429)").Wait)
				held := time.Until(c.holdOffs.AllUntil())
				require.GreaterOrEqual(t, held, max(tc.wait, 750*time.Millisecond))
				require.LessOrEqual(t, held, max(tc.wait, time.Second))
			})
		})
	}
}

func TestPassingFailuresAreRetried(t *testing.T) {
	const ms = time.Millisecond
	ok := says(`{"id":"apn_github"}`)
	user := says(`{"id":"u_1"}`) // the answer to a probe
	busy := func(*http.Request) reply {
		return reply{status: 503, header: http.Header{"Retry-After": {"3"}, "X-Ratelimit-Reset": {"9999999999"}}}
	}
	for name, tc := range map[string]struct {
		answers []func(*http.Request) reply // in order; the last one repeats
		within  time.Duration
		asked   int
		took    time.Duration
		kind    Kind
	}{
		"a 500, then the account":        {answers: []func(*http.Request) reply{fails(500), ok}, asked: 2, took: 500 * ms},
		"with longer and longer waits":   {answers: []func(*http.Request) reply{fails(500), fails(502), fails(503), ok}, asked: 4, took: 3500 * ms},
		"no more often than allowed":     {answers: []func(*http.Request) reply{fails(500)}, asked: 4, took: 3500 * ms, kind: Unavailable},
		"as late as it asks for":         {answers: []func(*http.Request) reply{busy, ok}, asked: 2, took: 3 * time.Second},
		"not past the caller's deadline": {answers: []func(*http.Request) reply{busy, ok}, within: 3 * time.Second, asked: 1, kind: Unavailable},
		"not a 404":                      {answers: []func(*http.Request) reply{fails(404), user}, asked: 2, kind: NotFound},
		"not a 401":                      {answers: []func(*http.Request) reply{fails(401)}, asked: 2, kind: KeyRefused},
		"not a 501":                      {answers: []func(*http.Request) reply{fails(501)}, asked: 1, kind: Unavailable},
		"not nonsense":                   {answers: []func(*http.Request) reply{says(`nonsense`)}, asked: 1, kind: BadAnswer},
		"not what is too large":          {answers: []func(*http.Request) reply{says(string(make([]byte, MaxAnswer+1)))}, asked: 1, kind: TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{}
				s.answer = func(req *http.Request) reply { return tc.answers[min(len(s.requests()), len(tc.answers))-1](req) }
				c := newClient(t, s, func(c *Config) { c.MaxRetries = 3 })
				within := tc.within
				if within == 0 {
					within = time.Minute
				}
				ctx, cancel := context.WithTimeout(t.Context(), within)
				defer cancel()
				began := time.Now()
				_, err := c.Account(ctx, github)
				require.Equal(t, tc.kind, KindOf(err))
				require.Len(t, s.requests(), tc.asked)
				require.Equal(t, tc.took, time.Since(began))
				require.Equal(t, tc.asked, c.counts.requests())
				require.Equal(t, []string{ForAccount}, c.counts.answered, "once, after the retries")
			})
		})
	}
}

// A retry is a request like any other: it waits for the hold-off of everything.
func TestARetryWaitsForTheHoldOffOfEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{}
		s.answer = func(req *http.Request) reply {
			if len(s.requests()) == 1 {
				return reply{status: 429, header: http.Header{"Retry-After": {"5"}}}
			}
			return says(`{"id":"apn_github"}`)(req)
		}
		c := newClient(t, s, func(c *Config) { c.MaxRetries = 1 })
		began := time.Now()
		_, err := c.Account(patient(t), github)
		require.NoError(t, err)
		require.Equal(t, 5*time.Second, time.Since(began))
	})
}

func TestConnectionErrors(t *testing.T) {
	t.Run("it hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sim := pipedreamtest.New()
			defer sim.Close()
			sim.AddFault(pipedreamtest.Fault{Hang: true})
			c := newClient(t, sim.Transport(), nil)
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := c.Account(ctx, github)
			isError(t, err, Unavailable, "Pipedream is not available: it did not answer in time (pipedream.test)")
		})
	})
	t.Run("its reader gave up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sim := pipedreamtest.New()
			defer sim.Close()
			sim.AddFault(pipedreamtest.Fault{Hang: true})
			c := newClient(t, sim.Transport(), nil)
			defer c.Close()
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			_, err := c.Account(ctx, github)
			require.ErrorIs(t, err, context.Canceled)
		})
	})
	t.Run("it was cut", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sim := pipedreamtest.New()
			defer sim.Close()
			sim.AddFault(pipedreamtest.Fault{Cut: true})
			c := newClient(t, sim.Transport(), nil)
			defer c.Close()
			_, err := c.Account(patient(t), github)
			isError(t, err, Unavailable, "Pipedream is not available: the connection failed (pipedream.test)")
		})
	})
	t.Run("it was cut in the middle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sim := pipedreamtest.New()
			defer sim.Close()
			fleet(sim, 1)
			sim.AddFault(pipedreamtest.Fault{CutBody: true, Times: 1})
			c := newClient(t, sim.Transport(), func(c *Config) { c.MaxRetries = 1 })
			defer c.Close()
			_, err := c.Account(patient(t), "apn_0000")
			require.NoError(t, err, "it was tried again")
			require.Equal(t, 2, sim.Count(pipedreamtest.KindAccount))
		})
	})
}

// What failed on the way to a proxy was not Pipedream.
func TestErrorsOfAProxy(t *testing.T) {
	refuses := func(op string, err error) http.RoundTripper {
		return failing{&net.OpError{Op: op, Net: "tcp", Err: err}}
	}
	for name, tc := range map[string]struct {
		transport http.RoundTripper
		text      string
	}{
		"its name is unknown": {refuses("proxyconnect", &net.DNSError{Name: "proxy.test"}), "the proxy cannot be used: its host name cannot be resolved (pipedream.test)"},
		"SOCKS refuses":       {refuses("socks connect", errors.New("secret")), "the proxy cannot be used: the connection failed (pipedream.test)"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newClient(t, tc.transport, nil).Account(t.Context(), github)
			isError(t, err, Unavailable, "Pipedream is not available: "+tc.text)
		})
	}
	t.Run("its address is not valid", func(t *testing.T) {
		transport, err := NewTransport("")
		require.NoError(t, err)
		transport.Proxy = func(*http.Request) (*url.URL, error) { return nil, errors.New("secret") }
		_, err = newClient(t, transport, nil).Account(t.Context(), github)
		isError(t, err, Unavailable, "Pipedream is not available: the address of the proxy in Vault's environment is not valid (pipedream.test)")
	})
}

// failing is a transport that fails.
type failing struct{ error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.error }

// Whatever goes wrong has words for log lines, an outcome for metrics, and a status that
// Vault's clients take for what it is.
func TestEveryKindIsDescribed(t *testing.T) {
	for kind := Unavailable; kind < numKinds; kind++ {
		e := &Error{Kind: kind}
		require.NotEmpty(t, e.Error(), "kind %d", kind)
		require.NotEmpty(t, Outcome(e), e.Error())
		require.Contains(t, []int{http.StatusBadRequest, http.StatusTooManyRequests, http.StatusBadGateway}, e.HTTPStatus(), e.Error())
	}
}
