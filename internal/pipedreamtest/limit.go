package pipedreamtest

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// limitSpan is what most rate limits count over.
const limitSpan = time.Minute

// allowance is a rate limit: that many requests within any span, or any number for 0.
type allowance struct {
	requests int
	span     time.Duration
}

// Pipedream's own limits.
var (
	workspaceAllowance = allowance{100, limitSpan}        // requests for accounts of the workspace
	connectAllowance   = allowance{2000, 5 * time.Minute} // requests for accounts of a Connect project, for each
	tokenAllowance     = allowance{100, limitSpan}        // Connect tokens, for each external user
)

// limits is what the server counts. It is guarded by Server.mu.
type limits struct {
	shared       *allowance // in place of workspace and connect, where set
	workspace    allowance
	connect      allowance
	ownConnect   bool // connect was set, and holds whatever shared says
	connectToken allowance

	retryAfter bool // a 429 says when to ask again
	headers    bool // and has the headers X-RateLimit-*

	sharedWindow    window
	workspaceWindow window
	projectWindows  map[string]*window
	userWindows     map[connectUser]*window
}

// WithLimit sets one limit for all */accounts/* requests together, whichever way they go: how many are answered within any
// minute, 0 for no limit. Without it Pipedream's own limits hold: 100 in a minute for the accounts of the workspace, and 2,000
// in five minutes for those of a Connect project, for each of them.
func WithLimit(perMinute int) Option {
	return func(s *Server) { s.limits.shared = &allowance{perMinute, limitSpan} }
}

// WithConnectLimit sets how many requests for accounts of one Connect project are answered within any span; 0 for no limit. It
// goes before WithLimit.
func WithConnectLimit(requests int, span time.Duration) Option {
	return func(s *Server) { s.limits.connect, s.limits.ownConnect = allowance{requests, span}, true }
}

// WithTokenLimit sets how many Connect tokens one external user gets within any minute; 100 without it, 0 for no limit.
func WithTokenLimit(perMinute int) Option {
	return func(s *Server) { s.limits.connectToken = allowance{perMinute, limitSpan} }
}

// WithRetryAfter sets whether a 429 by a rate limit carries a Retry-After header; it does without this option.
func WithRetryAfter(on bool) Option { return func(s *Server) { s.limits.retryAfter = on } }

// WithRateLimitHeaders sets whether a 429 by a rate limit carries the headers X-RateLimit-Limit, X-RateLimit-Remaining and
// X-RateLimit-Reset; it does without this option.
func WithRateLimitHeaders(on bool) Option { return func(s *Server) { s.limits.headers = on } }

// SetLimit changes the limit that [WithLimit] is about; 0 lifts it. Requests of the last minute count towards the new one.
func (s *Server) SetLimit(perMinute int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits.shared = &allowance{perMinute, limitSpan}
}

// throttle counts a request, and returns the answer for one that is past its limit, nil for any other. The caller holds s.mu.
func (s *Server) throttle(x *exchange, now time.Time) *answer {
	l := &s.limits
	var limit allowance
	var counted []*window // the first is the one that decides
	switch {
	case x.kind == KindConnectToken && x.refusal == nil && x.invalid == "":
		limit, counted = l.connectToken, []*window{windowOf(l.userWindows, x.connectUser())}
	case !x.kind.limited():
		return nil
	case x.project != "" && l.ownConnect:
		limit, counted = l.connect, []*window{windowOf(l.projectWindows, x.project)}
	case x.project != "":
		limit, counted = l.connect, []*window{windowOf(l.projectWindows, x.project), &l.sharedWindow}
	default:
		limit, counted = l.workspace, []*window{&l.workspaceWindow, &l.sharedWindow}
	}
	if l.shared != nil && len(counted) > 1 {
		limit = *l.shared
		slices.Reverse(counted)
	}
	if wait := counted[0].wait(now, limit); wait > 0 {
		return l.throttled(limit, now, wait)
	}
	for _, w := range counted {
		w.admit(now)
	}
	return nil
}

// throttled returns the answer for a request that came too early by that much.
func (l *limits) throttled(limit allowance, now time.Time, wait time.Duration) *answer {
	a := failure(http.StatusTooManyRequests, "Throttled")
	if l.retryAfter {
		a.header.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
	if l.headers {
		reset := now.Add(wait + time.Second - 1).Unix() // rounded up
		a.header.Set("X-RateLimit-Limit", strconv.Itoa(limit.requests))
		a.header.Set("X-RateLimit-Remaining", "0")
		a.header.Set("X-RateLimit-Reset", strconv.FormatInt(reset, 10))
	}
	return a
}

// windowOf returns the window of a key, which is made where there is none yet.
func windowOf[K comparable](windows map[K]*window, key K) *window {
	w := windows[key]
	if w == nil {
		w = &window{}
		windows[key] = w
	}
	return w
}

// longestSpan is how long a window remembers, longer than any limit counts.
const longestSpan = time.Hour

// window holds when requests were let in, oldest first.
type window struct{ times []time.Time }

// wait returns how long to wait until a request is let in; 0 for now. A request that is refused does not count against later
// ones, and one that came exactly a span ago counts no more.
func (w *window) wait(now time.Time, limit allowance) time.Duration {
	counted := w.times[w.upTo(now.Add(-limit.span)):]
	if limit.requests <= 0 || len(counted) < limit.requests {
		return 0
	}
	// With a limit that was lowered, more than the oldest one has to leave.
	return counted[len(counted)-limit.requests].Add(limit.span).Sub(now)
}

// admit counts a request.
func (w *window) admit(now time.Time) {
	w.times = slices.Delete(w.times, 0, w.upTo(now.Add(-longestSpan)))
	w.times = append(w.times, now)
}

// upTo returns how many requests came at that time or before.
func (w *window) upTo(edge time.Time) int {
	n, _ := slices.BinarySearchFunc(w.times, edge, func(t, edge time.Time) int {
		if t.After(edge) {
			return 1
		}
		return -1
	})
	return n
}

// MostPerMinute returns the greatest number of */accounts/* requests in a log that came within one minute, wherever it begins.
// Requests exactly a minute apart are not within one.
func MostPerMinute(log []Request) int {
	var times []time.Time
	for _, r := range log {
		if r.Kind.limited() {
			times = append(times, r.Time)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	most, first := 0, 0
	for last, t := range times {
		for t.Sub(times[first]) >= limitSpan {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}
