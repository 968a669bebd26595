package pipedreamtest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
)

// service is an http.Server of the simulated API and its listener.
type service struct {
	listener net.Listener
	server   *http.Server
}

// Start listens on a free port of 127.0.0.1 and returns the API's base URL, "http://127.0.0.1:port/v1".
func (s *Server) Start() (baseURL string, err error) { return s.StartAt("127.0.0.1:0") }

// StartAt is Start on the given address, which must be a loopback address.
func (s *Server) StartAt(addr string) (baseURL string, err error) {
	l, err := ListenLoopback(addr)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = l.Close()
		return "", http.ErrServerClosed
	}
	s.serve(l)
	return "http://" + l.Addr().String() + "/v1", nil
}

// ListenLoopback listens on a TCP address, "host:port". It refuses addresses that other machines could reach.
func ListenLoopback(addr string) (net.Listener, error) {
	resolved, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, err
	}
	if !resolved.IP.IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address", addr)
	}
	return net.ListenTCP("tcp", resolved)
}

// Transport returns a real *http.Transport, the same one on every call. Its connections lead to this server over
// [net.Pipe], whatever host is requested, with http or https. Goroutines that wait on such a connection are durably
// blocked, so the clock of a synctest bubble advances. That is not so with a network connection.
func (s *Server) Transport() http.RoundTripper {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.transport == nil {
		l := newPipeListener()
		if s.closed {
			_ = l.Close()
		} else {
			s.serve(l)
		}
		s.transport = &http.Transport{DialContext: l.dial, DialTLSContext: l.dial}
	}
	return s.transport
}

// serve accepts connections from l from now on. The caller holds s.mu.
func (s *Server) serve(l net.Listener) {
	srv := &http.Server{ //nolint:gosec // no ReadHeaderTimeout: a test's clock passes hours while a connection idles
		Handler: s,
		// A new connection is counted while its acceptor is. Close waits for the acceptors first, so it misses no
		// connection.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.working.Add(1)
			case http.StateClosed, http.StateHijacked: // the handler that took it closes it
				s.working.Done()
			default: // a change that leaves it open
			}
		},
	}
	s.serving = append(s.serving, service{l, srv})
	s.accepting.Go(func() { _ = srv.Serve(l) }) // its error says that Close closed l
}

// Close stops listening, closes every connection, ends the requests that hang, and returns once all of the server's
// goroutines have ended. Later requests get no answer.
func (s *Server) Close() { s.closeOnce.Do(s.close) }

func (s *Server) close() {
	s.mu.Lock()
	s.closed = true
	serving, transport := s.serving, s.transport
	s.mu.Unlock()
	close(s.done)

	// http.Server.Close misses a connection that is just being accepted, so accepting is stopped first.
	for _, v := range serving {
		_ = v.listener.Close()
	}
	s.accepting.Wait()
	for _, v := range serving {
		_ = v.server.Close()
	}
	if transport != nil {
		transport.CloseIdleConnections()
	}
	s.working.Wait()
}

// pipeListener accepts the other ends of the connections that its dial method returns.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

// dial has the signature of the DialContext of http.Transport. It ignores the address.
func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
