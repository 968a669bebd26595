package pipedreamtest

import (
	"maps"
	"net/http"
	"strconv"
	"time"
)

// The environments of a Connect project.
const (
	environmentProduction  = "production"
	environmentDevelopment = "development"
)

// exchange is one request on its way to its answer.
type exchange struct {
	route

	s    *Server
	w    http.ResponseWriter
	r    *http.Request
	body []byte

	fault   Fault // the zero Fault where the request is spared
	entry   *Request
	refusal *answer // what it gets in place of what it asks for

	token   tokenRequest        // of a KindToken
	connect connectTokenRequest // of a KindConnectToken
	invalid string              // what is wrong with either; empty where nothing is
}

// arrive logs a request, counts it against the rate limit, and settles whether it is refused and which fault it meets: all at
// one moment, so that the order of the log is that of the decisions.
func (s *Server) arrive(w http.ResponseWriter, r *http.Request, body []byte) *exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := &exchange{route: routeOf(r.URL), s: s, w: w, r: r, body: body}
	now := time.Now()
	switch contentType := r.Header.Get("Content-Type"); x.kind {
	case KindToken:
		x.token, x.invalid = parseTokenRequest(contentType, body)
	case KindConnectToken:
		x.connect, x.invalid = parseConnectTokenRequest(contentType, body)
	default:
	}
	s.check(x)
	x.refusal = s.refuse(x, now)
	x.entry = s.record(x, now)
	x.fault = s.nextFault(x)
	// A request counts whatever becomes of it, and the limit comes before the key.
	if late := s.throttle(x, now); late != nil {
		x.refusal = late
	}
	return x
}

// withCredentials says whether the request asks for credentials, in either of the documented ways.
func (x *exchange) withCredentials() bool {
	v := x.r.URL.Query().Get("include_credentials")
	return v == "1" || v == "true"
}

// environment is that of the Connect project, as the request names it.
func (x *exchange) environment() string { return x.r.Header.Get("x-pd-environment") }

// answer returns what the API says to the request, as things are now.
func (x *exchange) answer() *answer {
	if x.refusal != nil {
		return x.refusal
	}
	if x.r.Method != x.kind.method() {
		return failure(http.StatusMethodNotAllowed, "method not allowed")
	}
	environment := ""
	if x.project != "" {
		environment = x.environment()
		if environment != environmentProduction && environment != environmentDevelopment {
			return failure(http.StatusBadRequest, "x-pd-environment must be development or production")
		}
	}
	switch x.kind {
	case KindAccount:
		return x.s.answerAccount(x, environment)
	case KindList:
		return x.s.answerList(x, environment)
	case KindMe:
		return success(map[string]any{"data": map[string]any{
			"id": "u_simulated", "username": "simulated", "email": "simulated@example.com", "beta_features": []any{},
		}})
	case KindToken:
		return x.s.answerToken(x)
	case KindConnectToken:
		return x.s.answerConnectToken(x, environment)
	default:
		return failure(http.StatusNotFound, "not found")
	}
}

// send answers the request.
func (x *exchange) send(a *answer) {
	x.sendHeader(a)
	_, _ = x.w.Write(a.body) // it fails when the client has gone away, which is its business
}

// sendHeader answers without the body yet. The log has the status before the client can.
func (x *exchange) sendHeader(a *answer) {
	x.s.mu.Lock()
	x.entry.Status = a.status
	x.s.mu.Unlock()

	h := x.w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	if len(a.body) > 0 {
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	maps.Copy(h, a.header)
	x.w.WriteHeader(a.status)
}

// pause waits, unless the client goes away or the server is closed before: then the request ends without an answer.
func (x *exchange) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-x.r.Context().Done():
		x.cut()
	case <-x.s.done:
		x.cut()
	}
}

// hang waits for the client to go away or the server to be closed.
func (x *exchange) hang() {
	select {
	case <-x.r.Context().Done():
	case <-x.s.done:
	}
	x.cut()
}

// cut closes the connection, with nothing more sent than was. It does not return.
func (x *exchange) cut() { panic(http.ErrAbortHandler) }
