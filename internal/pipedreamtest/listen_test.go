package pipedreamtest

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStart(t *testing.T) {
	s := New()
	defer s.Close()
	s.SetAccount(github)
	base, err := s.Start()
	require.NoError(t, err)
	require.Regexp(t, `^http://127\.0\.0\.1:[0-9]+/v1$`, base)

	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c := caller{t: t, http: &http.Client{Transport: transport}, base: base, auth: defaultAPIKey}
	got := c.get("/accounts/apn_github?include_credentials=1").credentials(t)
	require.Equal(t, s.Token("apn_github"), got["oauth_access_token"])
}

func TestStartTwice(t *testing.T) {
	s := New()
	defer s.Close()
	one, err := s.Start()
	require.NoError(t, err)
	two, err := s.Start()
	require.NoError(t, err)
	require.NotEqual(t, one, two)
}

func TestStartAtRefusesOtherThanLoopback(t *testing.T) {
	s := New()
	defer s.Close()
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "127.0.0.1", "127.0.0.1:port"} {
		_, err := s.StartAt(addr)
		require.Error(t, err, addr)
	}
}

func TestStartAtTakenAddress(t *testing.T) {
	l, err := ListenLoopback("127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	s := New()
	defer s.Close()
	_, err = s.StartAt(l.Addr().String())
	require.Error(t, err)
}

func TestStartAfterClose(t *testing.T) {
	s := New()
	s.Close()
	_, err := s.Start()
	require.ErrorIs(t, err, http.ErrServerClosed)
}

func TestCloseReleasesNetworkClients(t *testing.T) {
	s := New()
	s.AddFault(Fault{Hang: true})
	base, err := s.Start()
	require.NoError(t, err)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c := caller{t: t, http: &http.Client{Transport: transport}, base: base}

	sent := make(chan struct{})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { close(sent) },
	})
	var wg sync.WaitGroup
	var r reply
	wg.Go(func() { r = c.do(ctx, http.MethodGet, "/users/me", "") })
	<-sent
	s.Close()
	wg.Wait()
	require.Error(t, r.err)
}

func TestTransportLeadsHereFromAnyHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		require.IsType(t, &http.Transport{}, s.Transport())
		first := s.Transport()
		require.Same(t, first, s.Transport())
		for _, base := range []string{"https://api.pipedream.com/v1", "http://127.0.0.1:1/v1", "https://gateway.internal:8443/v1"} {
			c.base = base
			require.Equal(t, http.StatusOK, c.get("/users/me").status, base)
		}
	})
}

func TestTransportLetsTheBubblesClockAdvance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.AddFault(Fault{Delay: 24 * time.Hour, Times: 1})
		begin := time.Now()
		require.Equal(t, http.StatusOK, c.get("/users/me").status)
		require.Equal(t, 24*time.Hour, time.Since(begin))
	})
}

func TestTransportGivesUpDialing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener() // nobody accepts
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := l.dial(ctx, "tcp", "anywhere:443")
		require.ErrorIs(t, err, context.DeadlineExceeded)

		require.NoError(t, l.Close())
		require.NoError(t, l.Close())
		_, err = l.dial(t.Context(), "tcp", "anywhere:443")
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = l.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		require.Equal(t, "pipe", l.Addr().Network())
		require.Equal(t, "pipe", l.Addr().String())
	})
}

// TestCloseEndsEverything proves it by the bubble's end: synctest.Test fails where a goroutine is left.
func TestCloseEndsEverything(t *testing.T) {
	for name, fault := range map[string]Fault{
		"idle":  {Status: 500},
		"hung":  {Hang: true},
		"late":  {Delay: time.Hour},
		"slow":  {SlowBody: time.Hour},
		"after": {Delay: time.Hour, Hang: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, c := newServer(t)
				s.AddFault(fault)
				var wg sync.WaitGroup
				for range 5 {
					wg.Go(func() { c.get("/accounts") })
				}
				synctest.Wait()
				begin := time.Now()
				s.Close()
				wg.Wait()
				require.Zero(t, time.Since(begin))
				require.Equal(t, 5, s.Count(KindList))
			})
		})
	}
}

func TestAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		require.Equal(t, http.StatusOK, c.get("/users/me").status)
		s.Close()
		s.Close()
		require.ErrorIs(t, c.get("/users/me").err, net.ErrClosed)
		require.Equal(t, 1, s.Count(""))
	})
}

func TestTransportMadeAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		s.Close()
		require.ErrorIs(t, callerOf(t, s).get("/users/me").err, net.ErrClosed)
	})
}
