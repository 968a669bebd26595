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

// Fault makes the server misbehave. The first fields select requests, and the others say how. Set one of those, with
// these exceptions: Delay, Performed and Informational go with any other, Status with Garbage and Empty, LengthOff with Leftover,
// and the fields for lists with each other and with any field about the real answer. Such a fault changes whatever the
// API would have answered, even a 401 or 429. If several faults match, the one that was added first applies.
type Fault struct {
	Kind      Kind               // the kind of request; empty means any
	AccountID string             // the account of the request; empty means any
	Where     func(Request) bool // further conditions on the request; nil means none
	Times     int                // how many requests meet the fault; 0 means all until it is removed
	After     int                // how many requests pass first

	Delay     time.Duration // wait before anything else happens
	Performed bool          // the API does what the request asks for, and the fault concerns only the answer

	Hang bool // no answer, until the client goes away or the server is closed
	Cut  bool // close the connection without an answer. On a reused connection, net/http's client retries by itself

	Status   int         // this status
	Header   http.Header // with these headers
	Body     string      // and this body; if empty and the status is 400 or more, an error like those of the API
	Redirect string      // 302 to this URL with the path and query of the request appended

	Garbage  bool  // HTML
	Empty    bool  // no body
	HugeBody int64 // a JSON text of that many bytes, almost all of them one string

	CutBody       bool          // the real answer, but the connection is closed in the middle of the body
	TruncatedJSON bool          // the first half of the real answer as a complete answer
	SlowBody      time.Duration // the real answer, one byte at a time with this pause between them
	DeepNesting   int           // the real answer with a member "deep" of that many nested lists
	DuplicateKeys bool          // the real answer with each member twice, the real one last
	WrongAccount  string        // the real answer for this other account, even if it belongs elsewhere

	Informational []int       // statuses, of 1xx, that are sent before the answer. A 103 has a Link header
	Trailer       http.Header // the real answer, chunked, with these trailers
	LengthOff     int         // the real answer with a Content-Length that is wrong by this much; bytes beyond it stay on the connection
	Leftover      string      // the real answer, followed by this on the connection

	// The following are only for lists.
	LoopCursors  int             // a list never ends: after that many cursors the first one is repeated
	EndlessList  bool            // a list never ends, and no cursor is repeated
	PageSize     int             // pages of that many accounts, whatever the request says
	ListElement  json.RawMessage // this before the accounts of each page, valid JSON or not
	TotalCount   json.RawMessage // this as the total_count
	NoTotalCount bool            // no total_count
	EndCursor    json.RawMessage // this as the end_cursor
	Fat          int             // each account on a page is that many bytes longer
}

// endlessCount is the total_count of an endless list.
const endlessCount = 1_000_000

// endless reports whether lists never end.
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

// activeFault is a fault and how often it still applies. Server.mu guards it.
type activeFault struct {
	Fault
	passed, met int
}

// AddFault makes the server misbehave from now on, until the fault is used up or the returned function is called.
// Requests that hang at that time keep hanging.
func (s *Server) AddFault(f Fault) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Header, f.Trailer, f.Informational = f.Header.Clone(), f.Trailer.Clone(), slices.Clone(f.Informational)
	active := &activeFault{Fault: f}
	// The answer of the fault may contain any cursor.
	s.anyCursor = s.anyCursor || f.Body != "" || f.EndCursor != nil
	s.faults = append(s.faults, active)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults = slices.DeleteFunc(s.faults, func(other *activeFault) bool { return other == active })
	}
}

// nextFault returns the fault that a request meets, or the zero Fault. The caller holds s.mu.
func (s *Server) nextFault(x *exchange) Fault {
	for i, f := range s.faults {
		if f.Kind != "" && f.Kind != x.kind || f.AccountID != "" && f.AccountID != x.account || f.Where != nil && !f.Where(*x.entry) {
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

// serve answers a request, or does what the fault says instead.
func (x *exchange) serve() {
	f := &x.fault
	x.pause(f.Delay)
	if f.Performed && (f.Hang || f.Cut || f.HugeBody > 0 || f.replaces()) {
		_ = x.answer()
	}
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

// replaces reports whether the fault replaces the answer.
func (f *Fault) replaces() bool {
	return f.Status != 0 || f.Redirect != "" || f.Garbage || f.Empty
}

// replacement returns the answer that the fault sends.
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

// mangle returns the real answer as the fault changes it.
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

// sendHuge sends a JSON text of that many bytes without holding it in memory, and without announcing its length.
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

// sendCut sends half of the body and closes the connection.
func (x *exchange) sendCut(a *answer) {
	x.sendHeader(a)
	_, _ = x.w.Write(a.body[:len(a.body)/2])
	_ = http.NewResponseController(x.w).Flush()
	x.cut()
}

// sendSlowly sends an answer one byte at a time.
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

// inform sends 1xx answers. The client keeps waiting for the final one.
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

// sendTrailer sends an answer in chunks, followed by trailers.
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

// sendRaw writes an answer directly to the connection, so that its length can be wrong and other bytes can follow it.
// If the answer is shorter than it says, the connection is closed after it. Otherwise the client may use it again and
// finds what is left there.
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
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat)) // as net/http does
	_, _ = fmt.Fprintf(buf, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	_ = header.Write(buf)
	_, _ = fmt.Fprintf(buf, "\r\n%s%s", a.body, leftover)
	if buf.Flush() != nil || lengthOff > len(leftover) {
		return
	}
	x.drain(conn, buf.Reader)
}

// drain reads until the client closes the connection or the server is closed.
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
