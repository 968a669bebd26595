package pipedream

import (
	"bufio"
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/api"
)

// startProxy returns the address of a proxy that answers each request with that text
// and ends the connection. Without a text it never answers.
func startProxy(t *testing.T, answer string) string {
	t.Helper()
	l := listen(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
					return
				}
				write(c, answer)
				if answer == "" {
					wait(c)
				}
			}()
		}
	}()
	return l.Addr().String()
}

// A proxy that cannot be used does not read as a fault of Pipedream's host, and the
// proxy's password is in no text and no log.
func TestAProxyThatCannotBeUsedIsNamed(t *testing.T) {
	t.Parallel()
	const noBody = " X\r\nContent-Length: 0\r\n\r\n"
	closed := listen(t)
	require.NoError(t, closed.Close())
	for name, tc := range map[string]struct {
		proxy string
		text  string
	}{
		"wants a login":     {startProxy(t, "HTTP/1.1 407"+noBody), "the proxy wants a login"},
		"forbids it":        {startProxy(t, "HTTP/1.1 403"+noBody), "the proxy answered with status 403"},
		"reaches nothing":   {startProxy(t, "HTTP/1.1 502"+noBody), "the proxy answered with status 502"},
		"hangs up":          {startProxy(t, " "), "the connection failed"},
		"never answers":     {startProxy(t, ""), "it did not answer in time"},
		"cannot be reached": {closed.Addr().String(), "the proxy cannot be used: the connection was refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMount(t)
			transport, err := api.NewTransport("")
			require.NoError(t, err)
			transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: tc.proxy, User: url.UserPassword("proxyuser", "proxypass")})
			m.b.transport = transport
			_, err = m.write("config", map[string]any{
				"base_url": "https://pipedream.invalid/v1", "api_key": testKey, "request_timeout": 1, "max_retries": 0,
			})
			m.refused(err, http.StatusBadGateway, tc.text+" (pipedream.invalid through the proxy "+tc.proxy+")")
			for _, text := range []string{err.Error(), m.logs.String()} {
				require.NotContains(t, text, "proxyuser")
				require.NotContains(t, text, "proxypass")
			}
		})
	}
}
