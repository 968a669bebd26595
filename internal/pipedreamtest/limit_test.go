package pipedreamtest

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLimitCountsAllAccountsRequestsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithLimit(4))
		s.SetAccount(alice)
		w := c.workspace(s)
		require.Equal(t, http.StatusOK, c.get("/accounts").status)
		c.get("/accounts/apn_none").failed(t, http.StatusNotFound)
		require.Equal(t, http.StatusOK, w.connect("/connect/proj_a/accounts").status)
		require.Equal(t, http.StatusOK, w.connect("/connect/proj_a/accounts/apn_alice").status)

		c.get("/accounts").failed(t, http.StatusTooManyRequests)
		c.as("wrong").get("/accounts/apn_none").failed(t, http.StatusTooManyRequests)
		w.connect("/connect/proj_a/accounts").failed(t, http.StatusTooManyRequests)
		w.connect("/connect/proj_a/accounts/apn_alice").failed(t, http.StatusTooManyRequests)

		require.Equal(t, http.StatusOK, c.get("/users/me").status)
		require.Equal(t, http.StatusOK, c.token("client", "client_secret", "").status)
	})
}

func TestLimitSlides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newServer(t, WithLimit(2))
		status := func() int { return c.get("/accounts").status }
		require.Equal(t, 200, status())
		time.Sleep(40 * time.Second)
		require.Equal(t, 200, status())
		require.Equal(t, 429, status())
		time.Sleep(20*time.Second - time.Nanosecond)
		require.Equal(t, 429, status())
		time.Sleep(time.Nanosecond) // the first request leaves the window; refused ones were never in it
		require.Equal(t, 200, status())
		require.Equal(t, 429, status())
		time.Sleep(40 * time.Second)
		require.Equal(t, 200, status())
	})
}

func TestLimitCountsFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithLimit(2))
		s.AddFault(Fault{Status: http.StatusServiceUnavailable, Times: 2})
		c.get("/accounts").failed(t, http.StatusServiceUnavailable)
		c.get("/accounts").failed(t, http.StatusServiceUnavailable)
		c.get("/accounts").failed(t, http.StatusTooManyRequests)
	})
}

func TestSetLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t, WithRetryAfter(true))
		for range 10 {
			require.Equal(t, 200, c.get("/accounts").status)
			time.Sleep(time.Second)
		}
		s.SetLimit(3)
		r := c.get("/accounts")
		r.failed(t, http.StatusTooManyRequests)
		require.Equal(t, "57", r.header.Get("Retry-After")) // when the eighth request, 3 s ago, leaves the window
		time.Sleep(57 * time.Second)
		require.Equal(t, 200, c.get("/accounts").status)
		s.SetLimit(0)
		for range 10 {
			require.Equal(t, 200, c.get("/accounts").status)
		}
	})
}

func TestThrottled(t *testing.T) {
	names := []string{"Retry-After", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"}
	for name, tt := range map[string]struct {
		options []Option
		want    []string // values of the headers, in that order
	}{
		"by default":         {nil, []string{"30", "1", "0", "946684861"}}, // synctest begins at 946684800
		"without a wait":     {[]Option{WithRetryAfter(false)}, []string{"", "1", "0", "946684861"}},
		"without the others": {[]Option{WithRateLimitHeaders(false)}, []string{"30", "", "", ""}},
		"without any":        {[]Option{WithRetryAfter(false), WithRateLimitHeaders(false)}, []string{"", "", "", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, c := newServer(t, append(tt.options, WithLimit(1))...)
				time.Sleep(time.Millisecond)
				c.get("/accounts")
				time.Sleep(30*time.Second + time.Millisecond)
				r := c.get("/accounts")
				r.failed(t, http.StatusTooManyRequests)
				require.JSONEq(t, `{"error":"Throttled"}`, r.body)
				for i, header := range names {
					require.Equal(t, tt.want[i], r.header.Get(header), header)
				}
			})
		})
	}
}

func TestPipedreamsOwnLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		w := c.workspace(s)
		for range 100 {
			require.Equal(t, 200, w.get("/accounts").status)
		}
		for range 2000 {
			require.Equal(t, 200, w.connect("/connect/proj_a/accounts").status)
		}
		w.get("/accounts").failed(t, http.StatusTooManyRequests)
		r := w.connect("/connect/proj_a/accounts/apn_x")
		r.failed(t, http.StatusTooManyRequests)
		require.Equal(t, "300", r.header.Get("Retry-After"))
		require.Equal(t, "2000", r.header.Get("X-RateLimit-Limit"))
		require.Equal(t, 200, w.connect("/connect/proj_b/accounts").status, "each project has a separate limit")

		time.Sleep(time.Minute)
		require.Equal(t, 200, w.get("/accounts").status)
		w.connect("/connect/proj_a/accounts").failed(t, http.StatusTooManyRequests)
		time.Sleep(4 * time.Minute)
		require.Equal(t, 200, w.connect("/connect/proj_a/accounts").status)
	})
}

func TestConnectLimit(t *testing.T) {
	for name, options := range map[string][]Option{
		"alone":               {WithConnectLimit(2, time.Hour)},
		"with another limit":  {WithConnectLimit(2, time.Hour), WithLimit(1)},
		"with no other limit": {WithConnectLimit(2, time.Hour), WithLimit(0)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newServer(t, options...)
				w := c.workspace(s)
				for range 2 {
					require.Equal(t, 200, w.connect("/connect/proj_a/accounts").status)
				}
				require.Equal(t, 200, w.get("/accounts").status, "the workspace does not count them")
				w.connect("/connect/proj_a/accounts").failed(t, http.StatusTooManyRequests)
				time.Sleep(time.Hour - time.Nanosecond)
				w.connect("/connect/proj_a/accounts").failed(t, http.StatusTooManyRequests)
				time.Sleep(time.Nanosecond)
				require.Equal(t, 200, c.workspace(s).connect("/connect/proj_a/accounts").status)
			})
		})
	}
}

func TestRetryAfterIsLongEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := newServer(t, WithLimit(1), WithRetryAfter(true))
		c.get("/accounts")
		time.Sleep(30*time.Second + time.Millisecond)
		require.Equal(t, "30", c.get("/accounts").header.Get("Retry-After"))
		time.Sleep(30 * time.Second)
		require.Equal(t, 200, c.get("/accounts").status)
	})
}

func TestMostPerMinute(t *testing.T) {
	at := func(seconds ...float64) (log []Request) {
		for _, s := range seconds {
			log = append(log, Request{Kind: KindAccount, Time: time.Unix(0, 0).Add(time.Duration(s * float64(time.Second)))})
		}
		return log
	}
	require.Equal(t, 0, MostPerMinute(nil))
	require.Equal(t, 1, MostPerMinute(at(0)))
	require.Equal(t, 1, MostPerMinute(at(0, 60, 120)), "requests a minute apart are not within a minute")
	require.Equal(t, 2, MostPerMinute(at(0, 59.999, 120)))
	require.Equal(t, 4, MostPerMinute(at(0, 50, 55, 61, 65, 115)), "a window can begin anywhere")
	require.Equal(t, 3, MostPerMinute(at(65, 0, 61, 7)), "in any order")

	log := at(0, 1, 2, 3)
	log[0].Kind, log[1].Kind, log[2].Kind = KindMe, KindToken, KindList
	require.Equal(t, 2, MostPerMinute(log))
}
