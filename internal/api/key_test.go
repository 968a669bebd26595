package api

import (
	"net/http"
	"slices"
	"strings"
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
				e := isError(t, err, Unauthorized, "Pipedream refused the API key or OAuth client for this account (its answer was 401)")
				require.Equal(t, stripe, e.Account)
				require.False(t, e.OfAccount(), "its live token stays")
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
		isError(t, err, KeyRefused, "Pipedream refused the API key or OAuth client (its answer was 401)")
		require.Equal(t, KeyRefused, KindOf(c.holdOffs.CheckAll()))
	})
}

// No second request goes out for a key that has not worked for a minute, or for a
// list, which is about no single account.
func TestA401IsConfirmedOnlyIfTheKeyWorkedLately(t *testing.T) {
	t.Run("a key that never worked", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := refuses(&[]string{"/accounts"})
			_, err := newClient(t, s, nil).Account(t.Context(), github)
			require.Equal(t, KeyRefused, KindOf(err))
			require.Len(t, s.requests(), 1)
		})
	})
	t.Run("a key that worked a minute ago", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := refuses(&[]string{"/accounts/apn_stripe"})
			c := newClient(t, s, nil)
			_, err := c.Account(t.Context(), github)
			require.NoError(t, err)
			time.Sleep(time.Minute)
			_, err = c.Account(t.Context(), stripe)
			require.Equal(t, KeyRefused, KindOf(err))
			require.Len(t, s.requests(), 2)
		})
	})
	t.Run("a list", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := refuses(&[]string{"/accounts?"})
			c := newClient(t, s, nil)
			_, err := c.Account(t.Context(), github)
			require.NoError(t, err)
			_, err = c.Page(t.Context(), "")
			require.Equal(t, KeyRefused, KindOf(err))
			require.Len(t, s.requests(), 2)
		})
	})
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
			require.NoError(t, newClient(t, s, tc.change).Verify(t.Context()))
			require.Equal(t, tc.requests, s.requests())

			refused := []string{strings.TrimPrefix(tc.requests[len(tc.requests)-1], "/v1")}
			err := newClient(t, refuses(&refused), tc.change).Verify(t.Context())
			isError(t, err, KeyRefused, "Pipedream refused the API key or OAuth client (its answer was 401)")
		})
	}
}

func TestAnswersOfTheTokenEndpoint(t *testing.T) {
	const refused, unavailable = "Pipedream refused the API key or OAuth client (its answer was ", "Pipedream is not available (its answer was "
	for name, tc := range map[string]struct {
		status int
		body   string
		kind   Kind
		text   string
	}{
		"400":                   {400, `{"error":"invalid_scope"}`, KeyRefused, refused + "400)"},
		"401":                   {401, `{"error":"invalid_client"}`, KeyRefused, refused + "401)"},
		"403":                   {403, `{"error":"no"}`, KeyRefused, refused + "403)"},
		"404":                   {404, `{"error":"not found"}`, Unavailable, unavailable + "404): it answered with status 404, in a form that is not Pipedream's"},
		"404 of a gateway":      {404, `<html>`, Unavailable, unavailable + "404): it answered with status 404, in a form that is not Pipedream's"},
		"410":                   {410, `{}`, Unavailable, unavailable + "410): it answered with status 410, in a form that is not Pipedream's"},
		"429":                   {429, `{}`, Throttled, "Pipedream's rate limit is used up (its answer was 429)"},
		"500":                   {500, `{}`, Unavailable, unavailable + "500): it answered with status 500, in a form that is not Pipedream's"},
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
			require.False(t, e.OfAccount(), "it says nothing about the account, so what is cached stays")
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
