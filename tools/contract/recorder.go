package contract

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
)

// Recorder is an HTTP handler in front of another one that checks each exchange.
type Recorder struct {
	document *Document
	next     http.Handler

	mu         sync.Mutex // guards the fields below
	operations map[string]bool
	findings   []Finding
}

// NewRecorder returns a recorder in front of a handler.
func NewRecorder(document *Document, next http.Handler) *Recorder {
	return &Recorder{document: document, next: next, operations: map[string]bool{}}
}

// ServeHTTP lets the other handler answer.
func (c *Recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	recorded := httptest.NewRecorder()
	c.next.ServeHTTP(recorded, r)
	got := Answered{Status: recorded.Code, Header: recorded.Header().Clone(), Body: bytes.Clone(recorded.Body.Bytes())}
	operation, findings := c.document.Check(r.Context(), r, body, got)

	c.mu.Lock()
	c.operations[operation] = true
	c.findings = append(c.findings, findings...)
	c.mu.Unlock()
	maps.Copy(w.Header(), recorded.Header())
	w.WriteHeader(recorded.Code)
	_, _ = w.Write(recorded.Body.Bytes()) // fails only if the client has gone away
}

// Operations returns, sorted, the operations that were asked for.
func (c *Recorder) Operations() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.operations))
}

// Findings returns what was found about these parts.
func (c *Recorder) Findings(parts ...Part) (found []Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.findings {
		if slices.Contains(parts, f.Part) {
			found = append(found, f)
		}
	}
	return found
}
