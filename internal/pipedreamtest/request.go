package pipedreamtest

import (
	"maps"
	"slices"
	"time"
)

// Request is an entry of the server's log. It never holds the bearer.
type Request struct {
	Time            time.Time `json:"time"` // of arrival
	Method          string    `json:"method"`
	Path            string    `json:"path"` // as it was sent, escapes included
	RawQuery        string    `json:"query,omitempty"`
	Kind            Kind      `json:"kind"`
	AccountID       string    `json:"account_id,omitempty"`
	WithCredentials bool      `json:"with_credentials"` // the request asked for them
	Status          int       `json:"status"`           // what was sent; 0 where nothing was, or not yet
	Authorized      bool      `json:"authorized"`       // its key, token or client was good for what it asked
	UserAgent       string    `json:"user_agent,omitempty"`
	HeaderNames     []string  `json:"header_names,omitempty"` // sorted
}

// Requests returns a copy of the log, in order of arrival.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := make([]Request, len(s.log))
	for i, entry := range s.log {
		log[i] = *entry
		log[i].HeaderNames = slices.Clone(entry.HeaderNames)
	}
	return log
}

// ResetRequests empties the log. The rate limit does not forget.
func (s *Server) ResetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
}

// Count returns how many requests of a kind the log holds; of all kinds for "".
func (s *Server) Count(kind Kind) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, entry := range s.log {
		if kind == "" || entry.Kind == kind {
			n++
		}
	}
	return n
}

// record appends the entry of a request that arrives. The caller holds s.mu.
func (s *Server) record(x *exchange, now time.Time) *Request {
	entry := &Request{
		Time:            now,
		Method:          x.r.Method,
		Path:            x.r.URL.EscapedPath(),
		RawQuery:        x.r.URL.RawQuery,
		Kind:            x.kind,
		AccountID:       x.account,
		WithCredentials: x.withCredentials(),
		Authorized:      x.refusal == nil,
		UserAgent:       x.r.UserAgent(),
		HeaderNames:     slices.Sorted(maps.Keys(x.r.Header)),
	}
	s.log = append(s.log, entry)
	return entry
}
