package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// theDocument returns Pipedream's document, and skips the test if there is none.
func theDocument(t *testing.T) *Document {
	t.Helper()
	name := os.Getenv("PIPEDREAM_OPENAPI")
	if name == "" {
		t.Skip("left out: PIPEDREAM_OPENAPI does not have the path of Pipedream's OpenAPI document")
	}
	text, err := os.ReadFile(name) //nolint:gosec // the file is for the caller to choose
	require.NoError(t, err)
	document, err := Load(text)
	require.NoError(t, err)
	return document
}

// listen serves a handler on loopback and returns its address.
func listen(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

// answer is an answer to a caller.
type answer struct {
	status int
	object map[string]any // of a JSON object
}

// caller sends requests of Connect in production.
type caller struct {
	*testing.T

	base, bearer string
}

func (c caller) send(method, path, body string, header ...string) answer {
	c.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, c.base+path, bytes.NewReader([]byte(body)))
	require.NoError(c, err)
	r.Header.Set("X-Pd-Environment", "production")
	if c.bearer != "" {
		r.Header.Set("Authorization", "Bearer "+c.bearer)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for pair := range slices.Chunk(header, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	res, err := http.DefaultClient.Do(r)
	require.NoError(c, err)
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	require.NoError(c, err)
	a := answer{status: res.StatusCode}
	_ = json.Unmarshal(text, &a.object) // what is no object is nobody's business here
	return a
}

func (c caller) text(a answer, name string) string {
	c.Helper()
	text, ok := a.object[name].(string)
	require.True(c, ok, "%s in %v", name, a.object)
	return text
}
