package pipedreamtest

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Fault makes the server misbehave. The first fields say to which requests, the others how: one of them is set, but Delay goes
// with any, and Status with Garbage and Empty. A fault that names the real answer misuses whatever the API would have said, a 401
// or 429 included. Of several faults, a request meets the one that was added first.
type Fault struct {
	Kind      Kind   // of the requests; any where empty
	AccountID string // of the one account they ask for; any where empty
	Times     int    // how many requests meet the fault; until it is removed where 0
	After     int    // how many are let pass first

	Delay time.Duration // wait before whatever else happens

	Hang bool // no answer, until the client goes away or the server is closed
	Cut  bool // close the connection without an answer. On a connection used before, net/http's client asks again by itself

	Status   int         // this status
	Header   http.Header // with these headers
	Body     string      // and this body; an error as the API words them where empty and the status is 400 or more
	Redirect string      // 302 to this URL followed by the request's own path and query

	Garbage  bool  // HTML
	Empty    bool  // no body
	HugeBody int64 // a JSON text of that many bytes, all but the first and last few of them one string

	CutBody       bool          // the real answer, the connection closed in the middle of its body
	TruncatedJSON bool          // the first half of the real answer, as if it were all
	SlowBody      time.Duration // the real answer, a byte at a time, with this long between any two
	DeepNesting   int           // the real answer with a member "deep" of that many nested lists
	DuplicateKeys bool          // the real answer with each member twice, the real one last
	WrongAccount  string        // the real answer, but for a request of this other account, wherever that belongs
}

// activeFault is a fault and how much of it is left. It is guarded by Server.mu.
type activeFault struct {
	Fault
	passed, met int
}

// AddFault makes the server misbehave from now on, until the fault has run out or the function returned is called. Requests that
// hang by then go on hanging.
func (s *Server) AddFault(f Fault) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Header = f.Header.Clone()
	active := &activeFault{Fault: f}
	s.faults = append(s.faults, active)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults = slices.DeleteFunc(s.faults, func(other *activeFault) bool { return other == active })
	}
}

// nextFault returns the fault that a request meets, the zero Fault for none. The caller holds s.mu.
func (s *Server) nextFault(x *exchange) Fault {
	for i, f := range s.faults {
		if f.Kind != "" && f.Kind != x.kind || f.AccountID != "" && f.AccountID != x.account {
			continue
		}
		if f.passed < f.After {
			f.passed++
			continue
		}
		if f.met++; f.met == f.Times {
			s.faults = slices.Delete(s.faults, i, i+1)
		}
		return f.Fault
	}
	return Fault{}
}

// serve answers a request, or does what the fault says in place of that.
func (x *exchange) serve() {
	f := &x.fault
	x.pause(f.Delay)
	switch {
	case f.Hang:
		x.hang()
	case f.Cut:
		x.cut()
	case f.HugeBody > 0:
		x.sendHuge(f.HugeBody)
	case f.CutBody:
		x.sendCut(x.answer())
	case f.SlowBody > 0:
		x.sendSlowly(x.answer(), f.SlowBody)
	case f.replaces():
		x.send(f.replacement(x.r))
	default:
		x.send(f.mangle(x.answer()))
	}
}

// replaces says whether the fault has an answer of its own.
func (f *Fault) replaces() bool {
	return f.Status != 0 || f.Redirect != "" || f.Garbage || f.Empty
}

// replacement returns the fault's own answer.
func (f *Fault) replacement(r *http.Request) *answer {
	a := &answer{status: http.StatusOK, header: http.Header{}}
	switch {
	case f.Redirect != "":
		a.status = http.StatusFound
		a.header.Set("Location", strings.TrimSuffix(f.Redirect, "/")+r.URL.RequestURI())
	case f.Garbage:
		a.header.Set("Content-Type", "text/html; charset=utf-8")
		a.body = []byte("<!DOCTYPE html><html><body><h1>We'll be right back</h1></body></html>\n")
	case f.Empty:
	case f.Body == "" && f.Status >= http.StatusBadRequest:
		a.body = failure(f.Status, strings.ToLower(http.StatusText(f.Status))).body
	default:
		a.body = []byte(f.Body)
	}
	if f.Status != 0 {
		a.status = f.Status
	}
	maps.Copy(a.header, f.Header)
	return a
}

// mangle returns what the fault makes of the real answer.
func (f *Fault) mangle(a *answer) *answer {
	body := a.body
	switch {
	case f.TruncatedJSON:
		body = body[:len(body)/2]
	case f.DeepNesting > 0:
		body = nest(body, f.DeepNesting)
	case f.DuplicateKeys:
		body = duplicateKeys(body)
	}
	return &answer{status: a.status, header: a.header, body: body}
}

// sendHuge sends a JSON text of that many bytes, never whole in memory and without saying its length before.
func (x *exchange) sendHuge(size int64) {
	const head, tail = `{"data":"`, `"}`
	x.sendHeader(&answer{status: http.StatusOK})
	chunk := []byte(strings.Repeat("a", 32<<10))
	_, err := x.w.Write([]byte(head))
	for left := size - int64(len(head)+len(tail)); left > 0 && err == nil; {
		n := min(left, int64(len(chunk)))
		_, err = x.w.Write(chunk[:n])
		left -= n
	}
	_, _ = x.w.Write([]byte(tail))
}

// sendCut sends half of an answer's body and closes the connection.
func (x *exchange) sendCut(a *answer) {
	x.sendHeader(a)
	_, _ = x.w.Write(a.body[:len(a.body)/2])
	_ = http.NewResponseController(x.w).Flush()
	x.cut()
}

// sendSlowly sends an answer a byte at a time.
func (x *exchange) sendSlowly(a *answer, between time.Duration) {
	x.sendHeader(a)
	flush := http.NewResponseController(x.w).Flush
	for i := range a.body {
		if i > 0 {
			x.pause(between)
		}
		_, _ = x.w.Write(a.body[i : i+1])
		_ = flush()
	}
}
