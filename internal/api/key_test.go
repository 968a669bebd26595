package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/redact"
)

// refuses returns a Pipedream that answers 401 for requests that begin with one of
// the paths below /v1, and with the account of GitHub otherwise.
func refuses(paths *[]string) *script {
	return &script{answer: func(req *http.Request) reply {
		switch rest := strings.TrimPrefix(req.URL.RequestURI(), "/v1"); {
		case rest == "/oauth/token":
			return reply{status: http.StatusOK, body: `{"access_token":"t","expires_in":3600}`}
		case slices.ContainsFunc(*paths, func(path string) bool { return strings.HasPrefix(rest, path) }):
			return reply{status: http.StatusUnauthorized, body: `{"error":"unauthorized"}`}
		case strings.HasPrefix(rest, "/accounts?"):
			return reply{status: http.StatusOK, body: `{"data":[]}`}
		default:
			return reply{status: http.StatusOK, body: `{"id":"apn_github"}`}
		}
	}}
}

func ofAnOAuthClient(c *Config) { c.APIKey, c.ClientID, c.ClientSecret = "", "client", "secret" }

// One account's 401 must not hold off all the others, so it is confirmed first.
func TestA401OfOneAccountIsConfirmedFirst(t *testing.T) {
	for name, tc := range map[string]struct {
		change  func(*Config)
		confirm string
	}{
		"with an API key":      {nil, "/v1/users/me"},
		"with an OAuth client": {ofAnOAuthClient, "/v1/accounts?limit=1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := refuses(&[]string{"/accounts/apn_stripe"})
				c := newClient(t, s, tc.change)
				_, err := c.Account(t.Context(), github)
				require.NoError(t, err)
				before := len(s.requests())

				_, err = c.Account(t.Context(), stripe)
				e := isError(t, err, Unauthorized, "Pipedream refused the API key or OAuth client for this account (HTTP 401)")
				require.Equal(t, stripe, e.Account)
				require.False(t, e.IsAccountFault(), "its live token stays")
				require.Equal(t, []string{"/v1/accounts/apn_stripe?include_credentials=true", tc.confirm}, s.requests()[before:])
				require.NoError(t, c.holdOffs.CheckAll(), "the others go on")
				_, err = c.Account(t.Context(), github)
				require.NoError(t, err)
			})
		})
	}
}

func TestARevokedKeyHoldsEverythingOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := []string{"/none"}
		c := newClient(t, refuses(&refused), nil)
		_, err := c.Account(t.Context(), github)
		require.NoError(t, err)
		refused = []string{"/accounts", "/users/me"}
		_, err = c.Account(t.Context(), github)
		isError(t, err, KeyRefused, "Pipedream refused the API key or OAuth client (HTTP 401)")
		require.Equal(t, KeyRefused, KindOf(c.holdOffs.CheckAll()))
	})
}

// However long ago the key worked, one account's 401 is confirmed.
func TestA401OnAQuietMountIsConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := refuses(&[]string{"/accounts/apn_stripe"})
		c := newClient(t, s, nil)
		_, err := c.Account(t.Context(), stripe)
		require.Equal(t, Unauthorized, KindOf(err), "before it ever worked")
		time.Sleep(time.Hour)
		_, err = c.Account(t.Context(), stripe)
		require.Equal(t, Unauthorized, KindOf(err))
		require.NoError(t, c.holdOffs.CheckAll())
		require.Len(t, s.requests(), 4)
	})
}

// A list is about no single account.
func TestA401OfAListIsNotConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := refuses(&[]string{"/accounts?"})
		c := newClient(t, s, nil)
		_, err := c.Account(t.Context(), github)
		require.NoError(t, err)
		_, err = c.Page(t.Context(), "")
		require.Equal(t, KeyRefused, KindOf(err))
		require.Len(t, s.requests(), 2)
	})
}

// answers returns a Pipedream that answers paths below /v1 that begin so as it is told,
// and works otherwise.
func answers(replies map[string]reply) *script {
	working := refuses(&[]string{"/none"})
	return &script{answer: func(req *http.Request) reply {
		rest := strings.TrimPrefix(req.URL.RequestURI(), "/v1")
		for path, r := range replies {
			if strings.HasPrefix(rest, path) {
				return r
			}
		}
		return working.answer(req)
	}}
}

// What one account is refused is believed only if something else works after it.
func TestARefusalIsBelievedOnlyIfSomethingElseWorks(t *testing.T) {
	const all, one = "/accounts", "/accounts/apn_stripe"
	says := func(status int) reply { return reply{status: status, body: `{"error":"so"}`} }
	missing := reply{status: http.StatusOK, body: `{"error":"record not found"}`}
	page := reply{status: http.StatusOK, body: `<html>`}
	for name, tc := range map[string]struct {
		change  func(*Config)
		replies map[string]reply
		known   bool // whether another account was read before
		kind    Kind
		about   string // the account that it is about
	}{
		"the key works":                              {nil, map[string]reply{one: says(403)}, false, Forbidden, stripe},
		"the key works, in a 200":                    {nil, map[string]reply{one: missing}, false, NotFound, stripe},
		"the key is refused":                         {nil, map[string]reply{one: says(404), "/users/me": says(401)}, false, KeyRefused, stripe},
		"everything is refused":                      {nil, map[string]reply{all: says(403), "/users/me": says(403)}, true, Forbidden, ""},
		"it is down":                                 {nil, map[string]reply{one: says(404), "/users/me": says(503)}, false, Unavailable, stripe},
		"it is a gateway":                            {nil, map[string]reply{one: says(404), "/users/me": page}, false, BadAnswer, stripe},
		"the client works":                           {ofAnOAuthClient, map[string]reply{one: says(404)}, false, NotFound, stripe},
		"no list, another account works":             {ofAnOAuthClient, map[string]reply{one: says(403), "/accounts?": says(403)}, true, Forbidden, stripe},
		"no list, no account works":                  {ofAnOAuthClient, map[string]reply{all: says(403)}, true, Forbidden, ""},
		"no list, and nothing known":                 {ofAnOAuthClient, map[string]reply{one: says(404), "/accounts?": says(403)}, false, Forbidden, ""},
		"no list, nothing known, it is as forbidden": {ofAnOAuthClient, map[string]reply{one: says(403), "/accounts?": says(403)}, false, Forbidden, ""},
		"no list, and it is the 401 of an account":   {ofAnOAuthClient, map[string]reply{one: says(401), "/accounts?": says(403)}, false, Unauthorized, stripe},
		"no project":                                 {ofAnOAuthClient, map[string]reply{all: says(404)}, true, NotFound, ""},
		"no project, in a 200":                       {ofAnOAuthClient, map[string]reply{all: missing}, true, NotFound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				replies := map[string]reply{}
				c := newClient(t, answers(replies), tc.change)
				if tc.known {
					_, err := c.Account(t.Context(), github)
					require.NoError(t, err)
				}
				for path, r := range tc.replies {
					replies[path] = r
				}
				_, err := c.Account(patient(t), stripe)
				var e *Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, tc.kind, e.Kind, e.Error())
				require.Equal(t, tc.about, e.Account)
				require.Equal(t, tc.about != "" && isRefused(tc.kind), e.IsAccountFault())
			})
		})
	}
}

// A name that does not exist costs one more request, once.
func TestARefusalIsConfirmedOnceForAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replies := map[string]reply{"/accounts/apn_stripe": {status: http.StatusNotFound, body: `{"error":"record not found"}`}}
		s := answers(replies)
		c := newClient(t, s, nil)
		asks := func() int {
			before := len(s.requests())
			_, err := c.Account(patient(t), stripe)
			require.Equal(t, NotFound, KindOf(err))
			time.Sleep(time.Hour)
			return len(s.requests()) - before
		}
		require.Equal(t, 2, asks())
		require.Equal(t, 1, asks())
		replies["/accounts/apn_stripe"] = reply{status: http.StatusGatewayTimeout}
		_, err := c.Account(patient(t), stripe)
		require.Equal(t, Unavailable, KindOf(err))
		replies["/accounts/apn_stripe"] = reply{status: http.StatusNotFound, body: `{"error":"record not found"}`}
		require.Equal(t, 2, asks(), "after any other answer")
		replies["/accounts?"] = reply{status: http.StatusOK, body: `{"data":[{"id":"apn_stripe"}]}`}
		_, err = c.Page(patient(t), "")
		require.NoError(t, err)
		require.Equal(t, 2, asks(), "after a list had it")
	})
}

// However many accounts are refused at the same time, they share a request that goes
// out after the last of them.
func TestRefusalsAtTheSameTimeShareAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{}
		s.answer = func(req *http.Request) reply {
			if req.URL.Path == "/v1/users/me" {
				time.Sleep(time.Second)
				return says(`{"id":"u_1"}`)(req)
			}
			if strings.HasSuffix(req.URL.Path, "late") {
				time.Sleep(500 * time.Millisecond)
			}
			return fails(http.StatusNotFound)(req)
		}
		c := newClient(t, s, nil)
		var readers sync.WaitGroup
		for i := range 20 {
			for _, late := range []string{"", "_late"} {
				readers.Go(func() {
					id := "apn_" + strconv.Itoa(i) + late
					_, err := c.Account(patient(t), id)
					var e *Error
					require.ErrorAs(t, err, &e)
					require.Equal(t, NotFound, e.Kind)
					require.Equal(t, id, e.Account)
				})
			}
		}
		readers.Wait()
		probes := 0
		for _, asked := range s.requests() {
			if asked == "/v1/users/me" {
				probes++
			}
		}
		require.Len(t, s.requests(), 40+probes)
		require.GreaterOrEqual(t, probes, 2, "one that began before the late ones says nothing about them")
		require.LessOrEqual(t, probes, 6)
	})
}

// What answers must be Pipedream.
func TestAGatewayVerifiesNoKey(t *testing.T) {
	for _, body := range []string{``, `<html>`, `{}`, `[]`, `"ok"`, `null`, `{"message":"ok"}`, `{"success":false,"errors":[]}`, `{"error":"x"}`} {
		for path, change := range map[string]func(*Config){"/users/me": nil, "/accounts": ofAnOAuthClient} {
			_, err := newClient(t, answers(map[string]reply{path: {status: http.StatusOK, body: body}}), change).Verify(t.Context())
			require.Equal(t, BadAnswer, KindOf(err), "%s %s", path, body)
		}
	}
	_, err := newClient(t, answers(map[string]reply{"/accounts": {status: http.StatusOK, body: `{"error":"record not found"}`}}), ofAnOAuthClient).Verify(t.Context())
	require.Equal(t, NotFound, KindOf(err))
}

// The answer of the check shows whether there are any accounts.
func TestVerifySeesThatThereAreNoAccounts(t *testing.T) {
	for body, none := range map[string]bool{
		`{"page_info":{"total_count":0},"data":[]}`: true, `{"data":[]}`: true, `{"data":[{"id":"apn_1"}]}`: false,
		`{"page_info":{"total_count":3},"data":[]}`: false,
	} {
		got, err := newClient(t, answers(map[string]reply{"/accounts": {status: http.StatusOK, body: body}}), ofAnOAuthClient).Verify(t.Context())
		require.NoError(t, err)
		require.Equal(t, none, got, body)
	}
}

func TestHowAKeyIsVerified(t *testing.T) {
	for name, tc := range map[string]struct {
		change   func(*Config)
		requests []string
	}{
		"an API key":                {nil, []string{"/v1/users/me"}},
		"an API key of a workspace": {func(c *Config) { c.OrgID = "o_1" }, []string{"/v1/users/me", "/v1/accounts?limit=1&org_id=o_1"}},
		"an OAuth client":           {ofAnOAuthClient, []string{"/v1/oauth/token", "/v1/accounts?limit=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := refuses(&[]string{"/none"})
			_, err := newClient(t, s, tc.change).Verify(t.Context())
			require.NoError(t, err)
			require.Equal(t, tc.requests, s.requests())

			refused := []string{strings.TrimPrefix(tc.requests[len(tc.requests)-1], "/v1")}
			_, err = newClient(t, refuses(&refused), tc.change).Verify(t.Context())
			isError(t, err, KeyRefused, "Pipedream refused the API key or OAuth client (HTTP 401)")
		})
	}
}

func TestAnswersOfTheTokenEndpoint(t *testing.T) {
	const refused, unavailable = "Pipedream refused the API key or OAuth client (HTTP ", "Pipedream is not available (HTTP "
	for name, tc := range map[string]struct {
		status int
		body   string
		kind   Kind
		text   string
	}{
		"400":                   {400, `{"error":"invalid_scope"}`, KeyRefused, refused + "400)"},
		"401":                   {401, `{"error":"invalid_client"}`, KeyRefused, refused + "401)"},
		"403":                   {403, `{"error":"no"}`, KeyRefused, refused + "403)"},
		"404":                   {404, `{"error":"not found"}`, Unavailable, unavailable + "404): it answered with status 404"},
		"404 of a gateway":      {404, `<html>`, Unavailable, unavailable + "404): it answered with status 404, in a form that is not Pipedream's"},
		"410":                   {410, `{}`, Unavailable, unavailable + "410): it answered with status 410, in a form that is not Pipedream's"},
		"429":                   {429, `{}`, Throttled, "the rate limit is used up (HTTP 429)"},
		"500":                   {500, `{}`, Unavailable, unavailable + "500): it answered with status 500"},
		"400 of RFC 6749":       {400, `{"error":"invalid_scope","error_description":"d","error_uri":"https://a.example"}`, KeyRefused, refused + "400)"},
		"400 of a gateway":      {400, `<html>`, Unavailable, unavailable + "400): it answered with status 400, in a form that is not Pipedream's"},
		"401 of a gateway":      {401, `{"message":"Unauthorized"}`, Unavailable, unavailable + "401): it answered with status 401, in a form that is not Pipedream's"},
		"401 of RFC 6750":       {401, `{"error":"invalid_token","error_description":"d"}`, Unavailable, unavailable + "401): it answered with status 401, in a form that is not Pipedream's"},
		"401 about a field":     {401, `{"error":{"client_id":["is wrong"]}}`, Unavailable, unavailable + "401): it answered with status 401, in a form that is not Pipedream's"},
		"403 of a gateway":      {403, `{}`, Unavailable, unavailable + "403): it answered with status 403, in a form that is not Pipedream's"},
		"no JSON":               {200, `<html>`, BadAnswer, "Pipedream's answer could not be understood: it is not the JSON that was expected"},
		"no token":              {200, `{"expires_in":3600}`, BadAnswer, "Pipedream's answer could not be understood: it is not the JSON that was expected"},
		"a token for no header": {200, `{"access_token":"a\nb","expires_in":3600}`, BadAnswer, "Pipedream's answer could not be understood: it is not the JSON that was expected"},
		"no life":               {200, `{"access_token":"t"}`, BadAnswer, "Pipedream's answer could not be understood: the expires_in of its access token is not a number of seconds"},
		"a life that is over":   {200, `{"access_token":"t","expires_in":0}`, BadAnswer, "Pipedream's answer could not be understood: the expires_in of its access token is not a number of seconds"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{answer: func(*http.Request) reply { return reply{status: tc.status, body: tc.body} }}
			_, err := newClient(t, s, ofAnOAuthClient).Account(t.Context(), github)
			e := isError(t, err, tc.kind, tc.text)
			require.Equal(t, github, e.Account)
			require.False(t, e.IsAccountFault(), "it says nothing about the account, so what is cached stays")
			require.Equal(t, []string{"/v1/oauth/token"}, s.requests())
		})
	}
}

func TestHowLongAnAccessTokenIsUsed(t *testing.T) {
	for name, tc := range map[string]struct {
		expiresIn string
		used      time.Duration
	}{
		"an hour":            {`3600`, 59 * time.Minute},
		"as a text":          {`"3600"`, 59 * time.Minute},
		"a minute":           {`60`, 30 * time.Second},
		"a second":           {`1`, 500 * time.Millisecond},
		"a thousand years":   {`31536000000`, 24*time.Hour - time.Minute},
		"a number too large": {`1e300`, 24*time.Hour - time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answer: func(req *http.Request) reply {
					if req.URL.Path == "/v1/oauth/token" {
						return reply{status: http.StatusOK, body: `{"access_token":"t","expires_in":` + tc.expiresIn + `}`}
					}
					return reply{status: http.StatusOK, body: `{"id":"apn_github"}`}
				}}
				c := newClient(t, s, ofAnOAuthClient)
				asks := func(at time.Duration) int {
					time.Sleep(at)
					before := len(s.requests())
					_, err := c.Account(t.Context(), github)
					require.NoError(t, err)
					return len(s.requests()) - before
				}
				require.Equal(t, 2, asks(0))
				require.Equal(t, 1, asks(tc.used-time.Millisecond))
				require.Equal(t, 2, asks(time.Millisecond), "a new token")
			})
		})
	}
}

func TestCheckSecret(t *testing.T) {
	for _, s := range []string{"k", "pd_0123-._~+/=", strings.Repeat("k", MaxSecret)} {
		require.NoError(t, CheckSecret(redact.Secret(s)))
	}
	for s, want := range map[string]error{
		"": ErrEmpty, strings.Repeat("k", MaxSecret+1): ErrTooLong, `"key"`: ErrQuoted, `'key`: ErrQuoted, "key`": ErrQuoted,
		"a key": ErrBadCharacter, "key\n": ErrBadCharacter, "k\x00": ErrBadCharacter, "clé": ErrBadCharacter, "k\xff": ErrBadCharacter,
	} {
		require.ErrorIs(t, CheckSecret(redact.Secret(s)), want, "%q", s)
	}
}
