package pipedreamtest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestNoViolations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		s.SetAccount(alice)
		w := c.workspace(s)
		at := url.QueryEscape(base64.StdEncoding.EncodeToString([]byte("apn_alice")))
		for _, path := range []string{
			"/users/me", "/accounts", "/accounts/apn_github", "/accounts/apn_none", "/accounts/apn_github?include_credentials=true",
			"/accounts?org_id=o_x&app=github&oauth_app_id=oa_x&limit=100&include_credentials=1", "/accounts/apn_github?org_id=o_x",
		} {
			c.get(path, "Accept", "text/html, application/json;q=0.9")
		}
		for _, path := range []string{
			"/connect/proj_a/accounts", "/connect/proj_a/accounts/apn_alice?include_credentials=false",
			"/connect/proj_a/accounts?external_user_id=alice&app=app_x&limit=1&after=" + at + "&before=" + at,
		} {
			w.connect(path)
		}
		w.connectToken(`{"external_user_id":"alice"}`)
		c.token("client", "client_secret", "* connect:accounts:read")
		c.as("wrong").get("/accounts") // is refused, but is a correct request
		require.Empty(t, s.Violations())
	})
}

func TestViolations(t *testing.T) {
	const (
		list     = "GET /v1/accounts: "
		connect  = "GET /v1/connect/{project}/accounts: "
		token    = "POST /v1/oauth/token: "
		link     = "POST /v1/connect/{project}/tokens: "
		account  = "GET /v1/accounts/{id}: "
		wrong    = "query parameter %s has a value that it cannot have"
		good     = `{"grant_type":"client_credentials","client_id":"client","client_secret":"client_secret"`
		wantType = "the Content-Type is not that of such a body"
	)
	post := func(c caller, path, body string, header ...string) {
		c.do(c.t.Context(), http.MethodPost, path, body, header...)
	}
	for name, tt := range map[string]struct {
		ask  func(key, workspace caller)
		want []string
	}{
		"an unknown path": {
			func(c, _ caller) { c.get("/workflows/x?api_key=y") },
			[]string{"GET /v1/…: the API has no such path"},
		},
		"another method": {
			func(c, _ caller) { c.do(c.t.Context(), "BREW", "/users/me", "") },
			[]string{"another method /v1/users/me: the method is not GET"},
		},
		"parameters": {
			func(c, w caller) {
				c.get("/accounts?app_slug=github&external_user_id=alice&pd_test_key9=1")
				c.get("/users/me?org_id=o_x")
				c.get("/accounts/apn_x?app=github")
				w.connect("/connect/proj_a/accounts?org_id=o_x")
			},
			[]string{
				list + "unknown query parameter app_slug", list + "unknown query parameter external_user_id",
				list + "the query has a parameter that is no name",
				"GET /v1/users/me: unknown query parameter org_id",
				account + "unknown query parameter app",
				connect + "unknown query parameter org_id",
			},
		},
		"values": {
			func(c, w caller) {
				c.get("/accounts?app=&oauth_app_id=app_x&limit=101&after=x&before=&include_credentials=yes&org_id=")
				c.get("/accounts?app=oa_x&limit=ten")
				c.get("/accounts?limit=1&limit=2")
				c.get("/accounts?app=%zz")
				w.connect("/connect/proj_a/accounts?external_user_id=" + strings.Repeat("a", 251))
			},
			append(func() (want []string) {
				for _, name := range []string{"after", "app", "before", "include_credentials", "limit", "oauth_app_id", "org_id"} {
					want = append(want, list+fmt.Sprintf(wrong, name))
				}
				return want
			}(), list+"the query has limit 2 times", list+"the query cannot be read", connect+fmt.Sprintf(wrong, "external_user_id")),
		},
		"headers": {
			func(c, w caller) {
				c.as("").get("/accounts")
				c.get("/accounts", "Authorization", "Basic pd_test_key")
				w.get("/connect/proj_a/accounts")
				c.get("/accounts", "x-pd-environment", "staging")
				c.get("/accounts/apn_x", "Accept", "text/html")
			},
			[]string{
				list + "there is no Authorization header with a bearer",
				connect + "the header x-pd-environment is neither production nor development",
				list + "the header x-pd-environment is neither production nor development",
				account + "the header Accept excludes JSON",
			},
		},
		"ids": {
			func(c, w caller) {
				c.get("/accounts/github")
				w.connect("/connect/demo/accounts")
			},
			[]string{account + "the account does not begin with apn_", connect + "the project does not begin with proj_"},
		},
		"a body of a GET": {
			func(c, _ caller) { c.do(c.t.Context(), http.MethodGet, "/accounts", "{}") },
			[]string{list + "there is a body"},
		},
		"token requests": {
			func(c, _ caller) {
				post(c.as(""), "/oauth/token", good+`,"audience":"x","a secret":"y","scope":null}`, "Content-Type", mediaJSON)
				post(c, "/oauth/token", good+`,"scope":"everything"}`, "Content-Type", mediaJSON)
				post(c.as(""), "/oauth/token", good+`}`, "Content-Type", "text/plain")
				post(c.as(""), "/oauth/token", `[]`, "Content-Type", mediaJSON)
				post(c.as(""), "/oauth/token", `grant_type=client_credentials&client_id=a&client_id=b&audience=c`, "Content-Type", mediaForm)
				post(c.as(""), "/oauth/token", `%zz`, "Content-Type", mediaForm)
			},
			[]string{
				token + "the body has a null", token + "the body has what is no name", token + "the body has audience, which is unknown",
				token + "there is an Authorization header", token + "invalid_scope",
				token + wantType,
				token + "the body is no JSON object",
				token + "the body has a field more than once", token + "the body lacks client_secret",
				token + "the body is no form",
			},
		},
		"Connect tokens": {
			func(_, w caller) {
				w.connectToken(`{"external_id":"alice"}`)
				w.connectToken(`{"external_user_id":"alice","expires_in":14401}`)
				post(w, connectTokens, `external_user_id=alice`, "Content-Type", mediaForm, "x-pd-environment", "production")
			},
			[]string{
				link + "the body lacks external_user_id", link + "the body has external_id, which is unknown", link + "external_user_id is required",
				link + "expires_in must be between 1 and 14400",
				link + wantType,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newServer(t)
				tt.ask(c, c.workspace(s))
				tt.ask(c, c.workspace(s)) // again: each violation is reported once
				require.Equal(t, tt.want, s.Violations())
				for _, text := range s.Violations() {
					require.NotContains(t, text, "pd_test_key")
				}
			})
		})
	}
}

func TestViolationsIsACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		c.get("/nothing")
		s.Violations()[0] = "changed"
		require.NotEqual(t, "changed", s.Violations()[0])
	})
}

func TestACursorFromAFaultIsNotAViolation(t *testing.T) {
	for name, fault := range map[string]Fault{
		"a cursor": {EndCursor: json.RawMessage(`"odd"`)}, "an answer": {Status: http.StatusOK, Body: `{"page_info":{"end_cursor":"odd"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newServer(t)
				numbered(s, 1)
				s.AddFault(fault)()
				c.get("/accounts?after=odd").failed(t, http.StatusBadRequest)
				require.Empty(t, s.Violations())
			})
		})
	}
}
