package pipedreamtest

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		begin := time.Now()
		c.get("/accounts/apn_github?include_credentials=true", "User-Agent", "agent/1")
		time.Sleep(time.Second)
		c.as("wrong_key").get("/accounts?limit=5", "User-Agent", "agent/2")
		c.as("").get("/nothing/a%2Fb", "User-Agent", "agent/3")

		names := []string{"Accept-Encoding", "Authorization", "User-Agent"}
		header := func(agent string) http.Header {
			return http.Header{"Accept-Encoding": {"gzip"}, "Authorization": {"Bearer [redacted]"}, "User-Agent": {agent}}
		}
		bare := header("agent/3")
		bare.Del("Authorization")
		require.Equal(t, []Request{
			{
				Time: begin, Method: "GET", Path: "/v1/accounts/apn_github", RawQuery: "include_credentials=true", Kind: KindAccount,
				AccountID: "apn_github", WithCredentials: true, Status: 200, Authorized: true, UserAgent: "agent/1", HeaderNames: names, Header: header("agent/1"),
			},
			{
				Time: begin.Add(time.Second), Method: "GET", Path: "/v1/accounts", RawQuery: "limit=5", Kind: KindList,
				Status: 401, UserAgent: "agent/2", HeaderNames: names, Header: header("agent/2"),
			},
			{
				Time: begin.Add(time.Second), Method: "GET", Path: "/v1/nothing/a%2Fb", Kind: KindOther,
				Status: 401, UserAgent: "agent/3", HeaderNames: []string{"Accept-Encoding", "User-Agent"}, Header: bare,
			},
		}, s.Requests())
	})
}

func TestRequestsHoldNoBearer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.SetAccount(github)
		c.get("/accounts/apn_github?include_credentials=1")
		c.as("wrong_key").get("/accounts")
		w := c.workspace(s)
		w.connect("/connect/proj_a/accounts")
		s.SetOAuthClient("client", "s3cret_of_the_client", 0)
		c.token("client", "s3cret_of_the_client", "")
		c.form(url.Values{"grant_type": {"client_credentials"}, "client_id": {"client"}, "client_secret": {"s3cret_of_the_client"}})
		for _, contentType := range []string{"", mediaJSON, mediaForm} {
			c.do(t.Context(), http.MethodPost, "/oauth/token", `%zz["s3cret_of_the_client"]`, "Content-Type", contentType)
		}
		c.get("/users/me", "Authorization", "pd_test_key", "Cookie", "session=pd_test_key")
		log := fmt.Sprintf("%+v", s.Requests())
		log = strings.ReplaceAll(log, `"client_secret":`, "") // which is also the secret that c.workspace sets
		log = strings.ReplaceAll(log, `client_secret=`, "")
		for _, secret := range append(s.Secrets(), "wrong_key") {
			require.NotContains(t, log, secret)
		}
	})
}

func TestRequestsHoldTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		c.token("client", "a_secret", "connect:accounts:read")
		c.form(url.Values{"client_id": {"client"}, "client_secret": {"a_secret"}})
		c.workspace(s).connectToken(`{"external_user_id":"alice","expires_in":900}`)
		log := s.Requests()
		require.JSONEq(t, `{"grant_type":"client_credentials","client_id":"client","client_secret":"[redacted]","scope":"connect:accounts:read"}`, log[0].Body)
		require.Equal(t, "client_id=client&client_secret=%5Bredacted%5D", log[1].Body)
		require.JSONEq(t, `{"external_user_id":"alice","expires_in":900}`, log[3].Body)
		require.Equal(t, KindConnectToken, log[3].Kind)
	})
}

func TestRequestsIsACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		c.get("/users/me")
		log := s.Requests()
		log[0].Status, log[0].HeaderNames[0] = 0, "changed"
		log[0].Header.Set("User-Agent", "changed")
		require.Equal(t, 200, s.Requests()[0].Status)
		require.NotEqual(t, "changed", s.Requests()[0].HeaderNames[0])
		require.NotEqual(t, "changed", s.Requests()[0].Header.Get("User-Agent"))
	})
}

func TestRequestsInOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.AddFault(Fault{Kind: KindMe, Delay: time.Minute})
		done := make(chan struct{})
		go func() { defer close(done); c.get("/users/me") }()
		synctest.Wait()
		c.get("/accounts")

		log := s.Requests()
		require.Equal(t, KindMe, log[0].Kind)
		require.Zero(t, log[0].Status, "it was not answered yet")
		require.Equal(t, KindList, log[1].Kind)
		<-done
		require.Equal(t, http.StatusOK, s.Requests()[0].Status)
	})
}

func TestCountAndReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithLimit(3))
		c.get("/users/me")
		c.get("/accounts/apn_x")
		c.get("/accounts/apn_y")
		c.get("/accounts")
		c.token("client", "secret", "")
		require.Equal(t, 2, s.Count(KindAccount))
		require.Equal(t, 1, s.Count(KindList))
		require.Equal(t, 1, s.Count(KindMe))
		require.Equal(t, 1, s.Count(KindToken))
		require.Equal(t, 0, s.Count(KindOther))
		require.Equal(t, 5, s.Count(""))

		s.ResetRequests()
		require.Empty(t, s.Requests())
		require.Zero(t, s.Count(""))
		c.get("/accounts").failed(t, http.StatusTooManyRequests) // the limit remembers
	})
}
