// Package sdk lets Go tests call Pipedream's official SDK, which runs in Node. Its requests, and what it makes of the
// answers, are the best check of the simulator without the real Pipedream.
package sdk

import (
	"bufio"
	"bytes"
	_ "embed" // for the program
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

//go:embed sdk.js
var program []byte

// Program is a running Node program that uses the SDK.
type Program struct {
	in  io.Writer
	out *bufio.Reader
}

// Client is a client of the SDK in a program.
type Client struct {
	program *Program
	name    string
	options Options
}

// Options are the options of a client, named as in the SDK.
type Options struct {
	BaseURL      string `json:"baseUrl"` // without the API's version
	ClientID     string `json:"clientId,omitempty"`
	ClientSecret string `json:"clientSecret,omitempty"`
	ProjectID    string `json:"projectId,omitempty"`
	Environment  string `json:"projectEnvironment,omitempty"` // the SDK's default is production

	// For the SDK's client for browsers, in place of the three above. It asks for the token with a callback.
	ConnectToken   string `json:"connectToken,omitempty"`
	ExternalUserID string `json:"externalUserId,omitempty"`
}

// Start runs the program until the test ends. It skips the test if NODE_MODULES is not set.
func Start(t *testing.T) *Program {
	t.Helper()
	modules := os.Getenv("NODE_MODULES")
	if modules == "" {
		t.Skip("NODE_MODULES is not set; make test-sdk sets it")
	}
	node, err := exec.LookPath("node")
	require.NoError(t, err)
	script := filepath.Join(t.TempDir(), "sdk.js")
	require.NoError(t, os.WriteFile(script, program, 0o600))

	cmd := exec.Command(node, script) //nolint:gosec,noctx // found where PATH says; it ends with its standard input
	cmd.Env = []string{"NODE_PATH=" + modules, "PATH=" + os.Getenv("PATH")}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		if t.Failed() {
			_ = cmd.Process.Kill() // it may hang in a call
		}
		err := cmd.Wait()
		if t.Failed() {
			t.Log(stderr.String())
			return
		}
		require.NoError(t, err, stderr.String())
	})
	return &Program{in: in, out: bufio.NewReader(out)}
}

// Client returns the client with that name. The same name returns the same client.
func (p *Program) Client(name string, options Options) *Client {
	options.BaseURL = strings.TrimSuffix(options.BaseURL, "/v1")
	return &Client{program: p, name: name, options: options}
}

// Result is the result of a call.
type Result struct {
	// Value is what the SDK returned, with {"date": "…"} for each time that it decoded.
	Value json.RawMessage `json:"value"`
	Error *Error          `json:"error"`
}

// Error is an error of the SDK.
type Error struct {
	Classes []string          `json:"classes"` // the classes of the SDK that it is an instance of, sorted
	Message string            `json:"message"`
	Status  int               `json:"status"`
	Body    any               `json:"body"`
	Header  map[string]string `json:"header"`
}

// call is a line that the program reads.
type call struct {
	Client  string  `json:"client"`
	Options Options `json:"options"`
	Method  string  `json:"method"`
	Args    []any   `json:"args"`
	Iterate bool    `json:"iterate"`
}

// Call calls a method, say "accounts.retrieve", with arguments as the SDK takes them.
func (c *Client) Call(t *testing.T, method string, args ...any) Result {
	t.Helper()
	return c.perform(t, call{Method: method, Args: args})
}

// Iterate is Call for a list, and returns all of its elements.
func (c *Client) Iterate(t *testing.T, method string, args ...any) Result {
	t.Helper()
	return c.perform(t, call{Method: method, Args: args, Iterate: true})
}

func (c *Client) perform(t *testing.T, what call) (r Result) {
	t.Helper()
	what.Client, what.Options = c.name, c.options
	line, err := json.Marshal(what)
	require.NoError(t, err)
	_, err = fmt.Fprintf(c.program.in, "%s\n", line)
	require.NoError(t, err)
	answer, err := c.program.out.ReadBytes('\n')
	require.NoError(t, err, "the Node program has ended")
	require.NoError(t, json.Unmarshal(answer, &r), string(answer))
	return r
}

// Decode returns the value of a call, which must have succeeded.
func Decode[T any](t *testing.T, r Result) (v T) {
	t.Helper()
	require.Nil(t, r.Error)
	require.NoError(t, json.Unmarshal(r.Value, &v), string(r.Value))
	return v
}
