package pipedreamtest

import (
	"fmt"
	"net/http"
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
		require.Equal(t, []Request{
			{
				Time: begin, Method: "GET", Path: "/v1/accounts/apn_github", RawQuery: "include_credentials=true", Kind: KindAccount,
				AccountID: "apn_github", WithCredentials: true, Status: 200, Authorized: true, UserAgent: "agent/1", HeaderNames: names,
			},
			{
				Time: begin.Add(time.Second), Method: "GET", Path: "/v1/accounts", RawQuery: "limit=5", Kind: KindList,
				Status: 401, UserAgent: "agent/2", HeaderNames: names,
			},
			{
				Time: begin.Add(time.Second), Method: "GET", Path: "/v1/nothing/a%2Fb", Kind: KindOther,
				Status: 401, UserAgent: "agent/3", HeaderNames: []string{"Accept-Encoding", "User-Agent"},
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
		log := fmt.Sprintf("%+v", s.Requests())
		for _, secret := range append(s.Secrets(), "wrong_key") {
			require.NotContains(t, log, secret)
		}
	})
}

func TestRequestsIsACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		c.get("/users/me")
		log := s.Requests()
		log[0].Status, log[0].HeaderNames[0] = 0, "changed"
		require.Equal(t, 200, s.Requests()[0].Status)
		require.NotEqual(t, "changed", s.Requests()[0].HeaderNames[0])
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
