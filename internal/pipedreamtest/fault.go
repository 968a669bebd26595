package pipedreamtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault makes the server misbehave. The first fields say to which requests, the others how: one of them is set, but Delay and
// Informational go with any, Status with Garbage and Empty, LengthOff with Leftover, and those of lists with each other and with
// any that names the real answer. Such a fault misuses whatever the API would have said, a 401 or 429 included. Of several
// faults, a request meets the one that was added first.
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

	Informational []int       // statuses, of 1xx, that are sent before the answer. A 103 has a Link header
	Trailer       http.Header // the real answer, chunked, with these trailers
	LengthOff     int         // the real answer, its Content-Length wrong by that: what is above it is left on the connection
	Leftover      string      // the real answer, and this behind it on the connection

	// Lists alone.
	LoopCursors  int             // a list never ends: after that many cursors the first one comes again
	EndlessList  bool            // a list never ends, and no cursor comes twice
	PageSize     int             // pages of that many accounts, whatever the request says
	ListElement  json.RawMessage // this before the accounts of each page, be it JSON or not
	TotalCount   json.RawMessage // this as the total_count
	NoTotalCount bool            // no total_count
	EndCursor    json.RawMessage // this as the end_cursor
	Fat          int             // each account of a page is that many bytes longer
}

// endlessCount is the total_count of an endless list.
const endlessCount = 1_000_000

// endless says whether lists never end.
func (f *Fault) endless() bool { return f.LoopCursors > 0 || f.EndlessList }

// misuseList changes a page of a list, of which so many came before, and returns its elements.
func (f *Fault) misuseList(info map[string]any, data []any, turns int) []any {
	if f.endless() {
		next := turns + 1
		if f.LoopCursors > 0 {
			next = turns%f.LoopCursors + 1
		}
		info["end_cursor"], info["total_count"] = turnCursor(next), endlessCount
	}
	if f.EndCursor != nil {
		info["end_cursor"] = f.EndCursor
	}
	if f.TotalCount != nil {
		info["total_count"] = f.TotalCount
	}
	if f.NoTotalCount {
		delete(info, "total_count")
	}
	if f.Fat > 0 {
		for _, a := range data {
			a.(map[string]any)["beta_fat"] = strings.Repeat("a", f.Fat) //nolint:forcetypeassert // all are rendered accounts
		}
	}
	if f.ListElement != nil {
		data = append([]any{f.ListElement}, data...)
	}
	return data
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
	f.Header, f.Trailer, f.Informational = f.Header.Clone(), f.Trailer.Clone(), slices.Clone(f.Informational)
	active := &activeFault{Fault: f}
	// What an answer of the fault's own has for a cursor is not known here.
	s.anyCursor = s.anyCursor || f.Body != "" || f.EndCursor != nil
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
	}
	x.inform(f.Informational)
	switch {
	case f.HugeBody > 0:
		x.sendHuge(f.HugeBody)
	case f.CutBody:
		x.sendCut(x.answer())
	case f.SlowBody > 0:
		x.sendSlowly(x.answer(), f.SlowBody)
	case f.replaces():
		x.send(f.replacement(x.r))
	case f.Trailer != nil:
		x.sendTrailer(x.answer(), f.Trailer)
	case f.LengthOff != 0 || f.Leftover != "":
		x.sendRaw(x.answer(), f.LengthOff, f.Leftover)
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

// inform sends answers of 1xx, after which the client goes on waiting for the real one.
func (x *exchange) inform(statuses []int) {
	h := x.w.Header()
	for _, status := range statuses {
		if status == http.StatusEarlyHints {
			h.Set("Link", "</logo.png>; rel=preload")
		}
		x.w.WriteHeader(status)
		h.Del("Link")
	}
}

// sendTrailer sends an answer in chunks, with headers behind them.
func (x *exchange) sendTrailer(a *answer, trailer http.Header) {
	h := x.w.Header()
	for name := range trailer {
		h.Add("Trailer", name)
	}
	x.sendHeader(&answer{status: a.status, header: a.header})
	half := len(a.body) / 2
	_, _ = x.w.Write(a.body[:half])
	_ = http.NewResponseController(x.w).Flush()
	_, _ = x.w.Write(a.body[half:])
	maps.Copy(h, trailer)
}

// sendRaw writes an answer to the connection itself, so that neither its length nor what is behind it need be right. An answer
// that is shorter than it says ends with the connection; otherwise the client may go on, and finds what is left there.
func (x *exchange) sendRaw(a *answer, lengthOff int, leftover string) {
	conn, buf, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		x.cut()
	}
	defer func() { _ = conn.Close() }()
	x.s.mu.Lock()
	x.entry.Status = a.status
	x.s.mu.Unlock()

	header := x.w.Header()
	header.Set("Content-Type", "application/json; charset=utf-8")
	maps.Copy(header, a.header)
	header.Set("Content-Length", strconv.Itoa(len(a.body)+lengthOff))
	_, _ = fmt.Fprintf(buf, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	_ = header.Write(buf)
	_, _ = fmt.Fprintf(buf, "\r\n%s%s", a.body, leftover)
	if buf.Flush() != nil || lengthOff > len(leftover) {
		return
	}
	x.drain(conn, buf.Reader)
}

// drain reads until the client closes the connection, or the server is closed.
func (x *exchange) drain(conn io.Closer, r *bufio.Reader) {
	drained := make(chan struct{})
	go func() {
		select {
		case <-x.s.done:
			_ = conn.Close()
		case <-drained:
		}
	}()
	_, _ = io.Copy(io.Discard, r)
	close(drained)
}
