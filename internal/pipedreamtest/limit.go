package pipedreamtest

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// limitSpan is the period of most rate limits.
const limitSpan = time.Minute

// allowance is a rate limit: that many requests within any span; 0 means no limit.
type allowance struct {
	requests int
	span     time.Duration
}

// These are Pipedream's own limits.
var (
	workspaceAllowance = allowance{100, limitSpan}        // requests for accounts of the workspace
	connectAllowance   = allowance{2000, 5 * time.Minute} // requests for accounts of a Connect project, for each
	tokenAllowance     = allowance{100, limitSpan}        // Connect tokens, for each external user
	proxyAllowance     = allowance{1000, 5 * time.Minute} // requests through the proxy, for each project
)

// limits holds what the server counts. Server.mu guards it.
type limits struct {
	shared       *allowance // replaces workspace and connect, if set
	workspace    allowance
	connect      allowance
	ownConnect   bool // connect was set, and takes precedence over shared
	connectToken allowance
	oauthToken   allowance // none by default: that there is one is documented, but not how many
	proxy        allowance

	retryAfter bool // a 429 says when to ask again
	headers    bool // and has the headers X-RateLimit-*

	sharedWindow    window
	workspaceWindow window
	oauthWindow     window
	projectWindows  map[string]*window
	proxyWindows    map[string]*window
	userWindows     map[connectUser]*window
}

// WithLimit sets one limit for all */accounts/* requests together: how many are answered within any minute; 0 means no
// limit. Without it Pipedream's own limits apply: 100 per minute for the accounts of the workspace, and 2,000 in five
// minutes for the accounts of each Connect project.
func WithLimit(perMinute int) Option {
	return func(s *Server) { s.limits.shared = &allowance{perMinute, limitSpan} }
}

// WithConnectLimit sets how many requests for accounts of one Connect project are answered within any span; 0 means no
// limit. It takes precedence over WithLimit.
func WithConnectLimit(requests int, span time.Duration) Option {
	return func(s *Server) { s.limits.connect, s.limits.ownConnect = allowance{requests, span}, true }
}

// WithTokenLimit sets how many Connect tokens one external user gets within any minute. The default is 100; 0 means no
// limit.
func WithTokenLimit(perMinute int) Option {
	return func(s *Server) { s.limits.connectToken = allowance{perMinute, limitSpan} }
}

// WithOAuthTokenLimit sets how many requests to oauth/token are answered within any minute. By default there is no
// limit, because the real one is not documented.
func WithOAuthTokenLimit(perMinute int) Option {
	return func(s *Server) { s.limits.oauthToken = allowance{perMinute, limitSpan} }
}

// WithProxyLimit sets how many requests through the proxy of one Connect project are answered within any span. The
// default is 1,000 in five minutes; 0 means no limit.
func WithProxyLimit(requests int, span time.Duration) Option {
	return func(s *Server) { s.limits.proxy = allowance{requests, span} }
}

// WithRetryAfter sets whether the 429 of a rate limit has a Retry-After header. By default it does.
func WithRetryAfter(on bool) Option { return func(s *Server) { s.limits.retryAfter = on } }

// WithRateLimitHeaders sets whether the 429 of a rate limit has the headers X-RateLimit-Limit, X-RateLimit-Remaining
// and X-RateLimit-Reset. By default it does.
func WithRateLimitHeaders(on bool) Option { return func(s *Server) { s.limits.headers = on } }

// SetLimit changes the limit of [WithLimit]; 0 removes it. Requests of the last minute count towards the new limit.
func (s *Server) SetLimit(perMinute int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits.shared = &allowance{perMinute, limitSpan}
}

// throttle counts a request. It returns the answer for a request above its limit, and nil for any other. The caller
// holds s.mu.
func (s *Server) throttle(x *exchange, now time.Time) *answer {
	l := &s.limits
	var limit allowance
	var counted []*window // the first is the one that decides
	switch {
	case x.kind == KindConnectToken && x.refusal == nil && x.invalid == "":
		limit, counted = l.connectToken, []*window{windowOf(l.userWindows, x.connectUser())}
	case x.kind == KindToken:
		limit, counted = l.oauthToken, []*window{&l.oauthWindow}
	case x.kind == KindProxy:
		limit, counted = l.proxy, []*window{windowOf(l.proxyWindows, x.project)}
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

// throttled returns the answer for a request that came this much too early.
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

// windowOf returns the window of a key, and creates it if needed.
func windowOf[K comparable](windows map[K]*window, key K) *window {
	w := windows[key]
	if w == nil {
		w = &window{}
		windows[key] = w
	}
	return w
}

// longestSpan is how long a window remembers requests. It is longer than the span of any limit.
const longestSpan = time.Hour

// window holds the times of the accepted requests, oldest first.
type window struct{ times []time.Time }

// wait returns how long to wait until a request is accepted; 0 means now. A refused request does not count against
// later ones. A request exactly one span ago no longer counts.
func (w *window) wait(now time.Time, limit allowance) time.Duration {
	counted := w.times[w.upTo(now.Add(-limit.span)):]
	if limit.requests <= 0 || len(counted) < limit.requests {
		return 0
	}
	// If the limit was lowered, several of the oldest requests must leave.
	return counted[len(counted)-limit.requests].Add(limit.span).Sub(now)
}

// admit records an accepted request.
func (w *window) admit(now time.Time) {
	w.times = slices.Delete(w.times, 0, w.upTo(now.Add(-longestSpan)))
	w.times = append(w.times, now)
}

// upTo returns how many requests came at or before that time.
func (w *window) upTo(edge time.Time) int {
	n, _ := slices.BinarySearchFunc(w.times, edge, func(t, edge time.Time) int {
		if t.After(edge) {
			return 1
		}
		return -1
	})
	return n
}

// MostPerMinute returns the largest number of */accounts/* requests in a log within any minute. Requests exactly a
// minute apart are not within one.
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
