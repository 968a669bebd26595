package pipedreamtest

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// These are the environments of a Connect project.
const (
	environmentProduction  = "production"
	environmentDevelopment = "development"
)

// exchange is a request and its answer.
type exchange struct {
	route

	s    *Server
	w    http.ResponseWriter
	r    *http.Request
	body []byte

	fault   Fault // the zero Fault if there is none
	entry   *Request
	refusal *answer // the answer to a refused request

	connectBearer *connectToken // what authorizes the request, if it is a Connect token
	allowedOrigin string        // the web page that sent the request, if its Connect token allows that

	token   tokenRequest        // of a KindToken
	connect connectTokenRequest // of a KindConnectToken
	invalid string              // what is wrong with either, if anything
}

// arrive logs a request, counts it against the rate limit, and decides whether it is refused and which fault it meets.
// All of this happens at one moment, so that the log has the order of the decisions.
func (s *Server) arrive(w http.ResponseWriter, r *http.Request, body []byte) *exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := &exchange{route: routeOf(r.Method, r.URL), s: s, w: w, r: r, body: body}
	now := time.Now()
	s.identify(x)
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
	// A request counts whatever becomes of it, and the limit is checked before the key.
	if late := s.throttle(x, now); late != nil {
		x.refusal = late
	}
	return x
}

// bearer returns the bearer of the request.
func (x *exchange) bearer() string {
	bearer, _ := strings.CutPrefix(x.r.Header.Get("Authorization"), "Bearer ")
	return bearer
}

// asksForCredentials reports whether the request asks for credentials, in either of the documented ways.
func (x *exchange) asksForCredentials() bool {
	v := x.r.URL.Query().Get("include_credentials")
	return v == "1" || v == "true"
}

// withCredentials reports whether the answer has credentials.
func (x *exchange) withCredentials() bool {
	return x.asksForCredentials() && (x.connectBearer == nil || x.s.connectCredentials)
}

// environment is the environment of the Connect project that the request names.
func (x *exchange) environment() string { return x.r.Header.Get("x-pd-environment") }

// answer returns the API's answer to the request in the current state, and does what the request asks for.
func (x *exchange) answer() *answer {
	a := x.decide()
	if x.s.errorObjects && a.status >= http.StatusBadRequest && a.status != http.StatusTooManyRequests && a.text != "" {
		a = failureObject(a.status, "base", a.text)
	}
	return a
}

// decide is answer with errors in their usual form.
func (x *exchange) decide() *answer {
	if x.refusal != nil {
		return x.refusal
	}
	if x.kind == KindOther {
		return failure(http.StatusNotFound, "not found")
	}
	if !slices.Contains(operations[x.kind].methods, x.r.Method) {
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
	case KindToken:
		return x.s.answerToken(x)
	case KindConnectToken:
		return x.s.answerConnectToken(x, environment)
	case KindDelete:
		return x.s.answerDelete(x, environment)
	case KindUserAccounts:
		return x.s.answerUserAccounts(x, environment)
	case KindDeleteUser:
		return x.s.answerDeleteUser(x, environment)
	case KindProxy:
		return x.s.answerProxy(x, environment)
	case KindOAuthApps:
		return x.s.answerOAuthApps(x)
	default: // KindMe
		return success(map[string]any{"data": map[string]any{
			"id": "u_simulated", "username": "simulated", "email": "simulated@example.com", "beta_features": []any{},
		}})
	}
}

// send answers the request.
func (x *exchange) send(a *answer) {
	x.sendHeader(a)
	_, _ = x.w.Write(a.body) // fails only if the client has gone away
}

// sendHeader sends the status and header. The log has the status before the client can see it.
func (x *exchange) sendHeader(a *answer) {
	x.s.mu.Lock()
	x.entry.Status = a.status
	x.s.mu.Unlock()

	h := x.w.Header()
	if a.status != http.StatusNoContent {
		h.Set("Content-Type", "application/json; charset=utf-8")
	}
	if len(a.body) > 0 {
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	maps.Copy(h, a.header)
	if x.allowedOrigin != "" {
		allowOrigin(h, x.allowedOrigin)
	}
	x.w.WriteHeader(a.status)
}

// pause waits. If the client goes away or the server is closed meanwhile, the request ends without an answer.
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

// hang waits until the client goes away or the server is closed.
func (x *exchange) hang() {
	select {
	case <-x.r.Context().Done():
	case <-x.s.done:
	}
	x.cut()
}

// cut closes the connection and sends nothing more. It does not return.
func (x *exchange) cut() { panic(http.ErrAbortHandler) }
