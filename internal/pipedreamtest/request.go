package pipedreamtest

import (
	"encoding/json"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Request is an entry in the log of the server. It never contains the bearer token or the client secret.
type Request struct {
	Time            time.Time `json:"time"` // of arrival
	Method          string    `json:"method"`
	Path            string    `json:"path"` // as it was sent, escapes included
	RawQuery        string    `json:"query,omitempty"`
	Kind            Kind      `json:"kind"`
	AccountID       string    `json:"account_id,omitempty"`
	WithCredentials bool      `json:"with_credentials"` // the request asked for credentials
	Status          int       `json:"status"`           // the status sent; 0 if none was sent yet
	Authorized      bool      `json:"authorized"`       // its key, token or client allowed the request
	UserAgent       string    `json:"user_agent,omitempty"`
	HeaderNames     []string  `json:"header_names,omitempty"` // sorted

	Header http.Header `json:"header,omitempty"` // with secrets replaced
	Body   string      `json:"body,omitempty"`   // likewise; replaced as a whole if it is neither a JSON object nor a form
}

// redacted replaces secrets in the log.
const redacted = "[redacted]"

// Requests returns a copy of the log, in order of arrival.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := make([]Request, len(s.log))
	for i, entry := range s.log {
		log[i] = *entry
		log[i].HeaderNames, log[i].Header = slices.Clone(entry.HeaderNames), entry.Header.Clone()
	}
	return log
}

// ResetRequests empties the log. It does not reset the rate limit.
func (s *Server) ResetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = nil
}

// Count returns how many requests of a kind the log has; "" means all kinds.
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

// record appends an entry for a new request. The caller holds s.mu.
func (s *Server) record(x *exchange, now time.Time) *Request {
	entry := &Request{
		Time:            now,
		Method:          x.r.Method,
		Path:            x.r.URL.EscapedPath(),
		RawQuery:        x.r.URL.RawQuery,
		Kind:            x.kind,
		AccountID:       x.account,
		WithCredentials: x.asksForCredentials(),
		Authorized:      x.refusal == nil,
		UserAgent:       x.r.UserAgent(),
		HeaderNames:     slices.Sorted(maps.Keys(x.r.Header)),
		Header:          loggedHeader(x.r.Header),
		Body:            x.loggedBody(),
	}
	s.log = append(s.log, entry)
	return entry
}

// loggedHeader returns a copy of a request's header for the log.
func loggedHeader(h http.Header) http.Header {
	h = h.Clone()
	for name, values := range h {
		bare := strings.TrimPrefix(name, http.CanonicalHeaderKey(proxyPrefix))
		if !slices.Contains([]string{"Authorization", "Cookie", "Proxy-Authorization"}, bare) {
			continue
		}
		for i, value := range values {
			scheme, _, ok := strings.Cut(value, " ")
			if !ok || bare == "Cookie" {
				values[i] = redacted
				continue
			}
			values[i] = scheme + " " + redacted
		}
	}
	return h
}

// loggedBody returns the request's body for the log. What a proxy forwards is not for the log.
func (x *exchange) loggedBody() string {
	const secret = "client_secret"
	body := x.body
	switch {
	case len(body) == 0:
		return ""
	case x.kind == KindProxy:
		return redacted
	}
	switch media, _, _ := mime.ParseMediaType(x.r.Header.Get("Content-Type")); media {
	case mediaJSON:
		var object map[string]any
		if json.Unmarshal(body, &object) != nil || object == nil {
			return redacted
		}
		if _, ok := object[secret]; ok {
			object[secret] = redacted
		}
		text, _ := appendJSON(nil, object) // it was JSON before
		return string(text)
	case mediaForm:
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return redacted
		}
		if form.Has(secret) {
			form.Set(secret, redacted)
		}
		return form.Encode()
	}
	return redacted
}
