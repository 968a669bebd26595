package api

import (
	"bufio"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

const limit = 20

// When a reused connection turns out to be dead, net/http repeats a GET by itself.
// Everything that can have reached the server is counted.
func TestRequestsThatNetHTTPRepeatsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := pipedreamtest.New()
		defer sim.Close()
		fleet(sim, 1)
		c := newClient(t, sim.Transport(), nil)
		defer c.Close()
		c.budget.SetLimit(limit)
		for range 3 {
			_, err := c.Account(patient(t), "apn_0000") // on a connection that is reused next
			require.NoError(t, err)
			sim.AddFault(pipedreamtest.Fault{Cut: true, Times: 1})
			_, err = c.Account(patient(t), "apn_0000")
			require.NoError(t, err, "net/http repeats the request")
		}
		require.Equal(t, 9, sim.Count(""))
		require.Equal(t, 9, c.counts.requests())
		require.Equal(t, limit-9, c.budget.Left())
		time.Sleep(time.Minute)
		require.Equal(t, limit, c.budget.Left(), "each slot comes free again")
	})
}

func TestRequestsThatNetHTTPRepeatsAreCountedOnARealConnection(t *testing.T) {
	var arrived atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		arrived.Add(1)
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		serveTwo(conn, buffered.Reader, &arrived)
	}))
	defer server.Close()
	transport, err := NewTransport("")
	require.NoError(t, err)
	c := newClient(t, transport, func(c *Config) {
		c.BaseURL, err = url.Parse(server.URL)
		require.NoError(t, err)
	})
	c.budget.SetLimit(limit)
	for range 4 {
		_, err := c.Account(patient(t), github)
		require.NoError(t, err)
	}
	require.Greater(t, arrived.Load(), int32(4), "some were repeated")
	require.Equal(t, int(arrived.Load()), c.counts.requests())
	require.Equal(t, limit-int(arrived.Load()), c.budget.Left())
}

// serveTwo answers the first request of a connection, which was read already. It
// reads the second one and closes the connection without an answer.
func serveTwo(conn net.Conn, reader *bufio.Reader, arrived *atomic.Int32) {
	defer func() { _ = conn.Close() }()
	const body = `{"id":"apn_github"}`
	if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n" + body)); err != nil {
		return
	}
	if _, err := http.ReadRequest(reader); err == nil {
		arrived.Add(1)
	}
}

func TestNoRequestGoesOutWithoutBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answer: says(`{"id":"apn_github"}`)}
		c := newClient(t, s, func(c *Config) { c.MaxRetries = 3 })
		c.budget.SetLimit(1)
		_, err := c.Account(t.Context(), github)
		require.NoError(t, err)
		_, err = c.Account(t.Context(), github)
		e := isError(t, err, NoBudget, "the mount's budget of requests is used up")
		require.Equal(t, Error{Kind: NoBudget, Account: github, Wait: time.Minute}, e)
		require.Len(t, s.requests(), 1)
	})
}

func TestACACertWithoutACertificateIsRefused(t *testing.T) {
	for _, pem := range []string{"nonsense", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"} {
		_, err := NewTransport(pem)
		require.EqualError(t, err, "has no PEM certificate")
	}
}

// net/http repeats no request that the budget has no slot for.
func TestNothingIsRepeatedWithoutASlot(t *testing.T) {
	for range 1000 { // it must not depend on luck
		synctest.Test(t, func(t *testing.T) {
			sim := pipedreamtest.New()
			defer sim.Close()
			fleet(sim, 1)
			c := newClient(t, sim.Transport(), nil)
			defer c.Close()
			c.budget.SetLimit(2)
			_, err := c.Account(patient(t), "apn_0000")
			require.NoError(t, err)
			sim.AddFault(pipedreamtest.Fault{Cut: true, Times: 1})
			_, err = c.Account(patient(t), "apn_0000")
			e := isError(t, err, NoBudget, "the mount's budget of requests is used up")
			require.Positive(t, e.Wait)
			synctest.Wait()
			require.Equal(t, 2, sim.Count(""), "it reached Pipedream all the same")
			require.Equal(t, 2, c.counts.requests())
		})
	}
}
