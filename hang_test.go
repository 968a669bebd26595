package pipedream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// endless are answers that never end, each written to the connection of one request.
// They end with the connection.
var endless = map[string]func(net.Conn){
	"another protocol": func(c net.Conn) {
		write(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		wait(c)
	},
	"another protocol that trickles": func(c net.Conn) {
		write(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		trickle(c, " ")
	},
	"nothing":                  wait,
	"half a header":            func(c net.Conn) { write(c, "HTTP/1.1 200 OK\r\nContent-"); wait(c) },
	"informational answers":    func(c net.Conn) { trickle(c, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n") },
	"a body that never begins": func(c net.Conn) { write(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"); wait(c) },
	"a body that trickles":     func(c net.Conn) { write(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{"); trickle(c, " ") },
	"chunks that trickle": func(c net.Conn) {
		write(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		trickle(c, "1\r\n \r\n")
	},
	"an error that trickles":    func(c net.Conn) { write(c, "HTTP/1.1 503 X\r\nContent-Length: 100000\r\n\r\n{"); trickle(c, " ") },
	"a refusal that trickles":   func(c net.Conn) { write(c, "HTTP/1.1 401 X\r\nContent-Length: 100000\r\n\r\n{"); trickle(c, " ") },
	"a body until it is closed": func(c net.Conn) { write(c, "HTTP/1.1 200 OK\r\n\r\n{}"); wait(c) },
}

func write(c net.Conn, text string) bool {
	_, err := io.WriteString(c, text)
	return err == nil
}

func wait(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

func trickle(c net.Conn, text string) {
	for write(c, text) {
		time.Sleep(10 * time.Millisecond)
	}
}

// gateway is a server on loopback that is between the engine and a Pipedream with one
// account. A request whose path has a given end gets an answer that never ends.
type gateway struct {
	url string

	mu     sync.Mutex // guards the fields below
	end    string     // of the paths that are answered with answer; empty for none
	answer func(net.Conn)
	conns  map[net.Conn]struct{}
}

// listen returns a listener on loopback that is closed at the end of the test.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	l := listen(t)
	g := &gateway{url: "http://" + l.Addr().String() + "/v1", conns: map[net.Conn]struct{}{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			g.conns[c] = struct{}{}
			g.mu.Unlock()
			serving.Go(func() { defer func() { _ = c.Close() }(); g.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		g.mu.Lock()
		for c := range g.conns {
			_ = c.Close()
		}
		g.mu.Unlock()
		serving.Wait()
	})
	return g
}

func (g *gateway) serve(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if answer := g.met(r.URL.Path); answer != nil {
			answer(c)
			return
		}
		const account = `{"id":"apn_github","external_id":"alice","app":{"name_slug":"github"},"credentials":{"oauth_access_token":"T"}}`
		body := `{}`
		switch {
		case strings.HasSuffix(r.URL.Path, "/oauth/token"):
			body = `{"access_token":"at","expires_in":3600}`
		case strings.HasSuffix(r.URL.Path, "/tokens"):
			body = `{"token":"ctok_1","connect_link_url":"https://pipedream.com/_static/connect.html?token=ctok_1"}`
		case strings.HasSuffix(r.URL.Path, "/"+github):
			body = account
		case strings.HasSuffix(r.URL.Path, "/accounts"):
			body = `{"data":[` + account + `],"page_info":{"total_count":1}}`
		}
		if !write(c, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)) {
			return
		}
	}
}

// met returns the answer that never ends that a request meets; nil for none.
func (g *gateway) met(path string) func(net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.end == "" || !strings.HasSuffix(path, g.end) {
		return nil
	}
	return g.answer
}

func (g *gateway) misbehave(end string, answer func(net.Conn)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.end, g.answer = end, answer
}

// tooLong is far beyond all deadlines of a mount with a request_timeout of a second.
const tooLong = 20 * time.Second

// vaultGivesUp is when Vault cancels a request in these tests, instead of after 90 s.
const vaultGivesUp = 5 * time.Second

var errStuck = errors.New("it was not answered")

// ask sends a request on the real clock, as Vault does, and fails with errStuck if it
// is not answered long after all deadlines.
func (m *mount) ask(op logical.Operation, path string, data map[string]any) error {
	ctx, cancel := context.WithTimeout(m.Context(), vaultGivesUp)
	answered := make(chan error, 1)
	go func() {
		defer cancel()
		_, err := m.b.HandleRequest(ctx, &logical.Request{Operation: op, Path: path, Data: data, Storage: m.storage, MountPoint: "pipedream/"})
		answered <- err
	}()
	select {
	case err := <-answered:
		return err
	case <-time.After(tooLong):
		return errStuck
	}
}

// onGateway returns a mount on the real clock that reaches a Pipedream through g.
func onGateway(t *testing.T, g *gateway) *mount {
	t.Helper()
	m := fuzzMount(t)
	t.Cleanup(func() { m.b.Cleanup(context.Background()) })
	m.b.Logger().SetLevel(hclog.Off)
	require.NoError(t, m.ask(logical.UpdateOperation, "config", map[string]any{
		"base_url": g.url, "client_id": "client", "client_secret": "secret", "project_id": "proj_1", "request_timeout": 1, "max_retries": 0, "rate_limit": 0,
	}))
	require.NoError(t, m.ask(logical.UpdateOperation, "roles/github", map[string]any{"app": "github", "external_user_id": "alice"}))
	return m
}

// No answer holds a request, a lock or a write of config beyond its deadline, whatever
// was asked for. Once Pipedream answers again, so does the engine.
func TestAnswersThatNeverEnd(t *testing.T) {
	t.Parallel()
	ask := func(op logical.Operation, path string, data map[string]any) func(*mount) error {
		return func(m *mount) error { return m.ask(op, path, data) }
	}
	var cases sync.WaitGroup // all at once, since each mostly waits
	for what, of := range map[string]struct {
		end string
		ask func(*mount) error
	}{
		"an account":        {"/accounts/" + github, ask(logical.ReadOperation, "creds/"+github, nil)},
		"a refresh":         {"/accounts/" + github, ask(logical.UpdateOperation, "refresh/"+github, nil)},
		"its metadata":      {"/accounts/" + github, ask(logical.ReadOperation, "accounts/"+github, nil)},
		"a search":          {"/accounts", ask(logical.ReadOperation, "creds/github", nil)},
		"a list":            {"/accounts", ask(logical.ListOperation, "accounts", nil)},
		"an access token":   {"/oauth/token", ask(logical.ReadOperation, "creds/"+github, nil)},
		"a link":            {"/tokens", ask(logical.UpdateOperation, "connect/github", map[string]any{"new": true})},
		"a token for links": {"/oauth/token", ask(logical.UpdateOperation, "connect/github", map[string]any{"new": true})},
		"a check of config": {"/accounts", ask(logical.UpdateOperation, "config", map[string]any{"verify": true})},
	} {
		for how, answer := range endless {
			g := newGateway(t)
			m := onGateway(t, g)
			cases.Go(func() {
				g.misbehave(of.end, answer)
				if err := of.ask(m); err == nil || errors.Is(err, errStuck) {
					t.Errorf("%s, answered with %s: %v", what, how, err)
					return
				}
				g.misbehave("", nil)
				for began := time.Now(); ; time.Sleep(500 * time.Millisecond) {
					err := of.ask(m)
					if err == nil {
						break
					}
					if errors.Is(err, errStuck) || time.Since(began) > tooLong {
						t.Errorf("%s, once it was answered with %s: %v, though Pipedream answers again", what, how, err)
						return
					}
				}
				// A write of config needs what a stuck request may hold.
				g.misbehave(of.end, answer)
				if err := of.ask(m); errors.Is(err, errStuck) {
					t.Errorf("%s, answered with %s again: %v", what, how, err)
				}
				for _, data := range []map[string]any{{"min_ttl": 60}, {"client_secret": "another", "verify": false}} {
					if err := ask(logical.UpdateOperation, "config", data)(m); err != nil {
						t.Errorf("a write of config after %s was answered with %s: %v", what, how, err)
					}
				}
			})
		}
	}
	cases.Wait()
}

func TestAServerThatNeverFinishesItsHandshake(t *testing.T) {
	t.Parallel()
	l := listen(t) // connections wait in its backlog
	m := fuzzMount(t)
	t.Cleanup(func() { m.b.Cleanup(context.Background()) })
	err := m.ask(logical.UpdateOperation, "config", map[string]any{
		"base_url": "https://" + l.Addr().String() + "/v1", "api_key": testKey, "request_timeout": 1, "max_retries": 0,
	})
	require.ErrorContains(t, err, "it did not answer in time")
}
