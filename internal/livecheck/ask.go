package livecheck

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
	"vault-plugin-secrets-pipedream/internal/redact"
)

// Why an answer is of no use, or nothing is sent.
const (
	noAnswer     Form = "no answer in time"
	noConnection Form = "no connection"
	cutShort     Form = "an answer that ends in the middle"
	redirected   Form = "a redirect"
	tooLarge     Form = "an answer that is too large"
	htmlBody     Form = "HTML"
	emptyBody    Form = "an empty body"
	notJSON      Form = "no JSON"
	throttled    Form = "a 429"
	interrupted  Form = "the check was interrupted"
	gaveUp       Form = "nothing was asked any more, because there was no usable answer several times in a row"
	limitUsed    Form = "nothing was asked any more, because Pipedream answered 429 even after the wait that it asked for"
)

const (
	// maxSilent is how many requests in a row may fail before nothing more is asked.
	maxSilent = 4
	// maxThrottled is how often one request may get a 429.
	maxThrottled = 2
	// longestWait bounds the wait that a 429 asks for, and defaultWait is for one that asks for none.
	longestWait, defaultWait = 2 * time.Minute, time.Minute
)

// bearer is who asks.
type bearer struct {
	kind   string // distinguishes bearers in the memory of answers, and is no secret
	secret redact.Secret
}

// query is a request.
type query struct {
	method      string
	path        []string
	values      url.Values
	environment string
	bearer      bearer
	body        any
	often       bool // it is sent each time, and not only once
}

// answer is what came back.
type answer struct {
	status         int
	header         http.Header
	body           []byte
	problem        Form // empty if it is JSON
	sent, received time.Time
}

// ok reports whether it is a success with JSON.
func (a *answer) ok() bool { return a.problem == "" && a.status >= 200 && a.status < 300 }

// why says in the report why it is not ok.
func (a *answer) why() Form {
	if a.problem != "" {
		return a.problem
	}
	return statusForm(a.status)
}

// outcome is whether a request was answered.
func (a *answer) outcome() seen {
	switch {
	case a.problem != "":
		return unseen(a.problem)
	case a.ok():
		return as(answered)
	}
	return as(statusForm(a.status))
}

// statusForm is the form of a status.
func statusForm(status int) Form { return Form("status " + strconv.Itoa(status)) }

// asker sends requests, one at a time.
type asker struct {
	ctx    context.Context
	config *Config
	client *http.Client

	memory    map[string]*answer
	answers   []*answer // of all requests that were sent
	throttles []*answer
	silent    int  // requests in a row that were of no use
	stopped   Form // why nothing is sent any more; empty if it is
}

func newAsker(ctx context.Context, c *Config) *asker {
	return &asker{
		ctx: ctx, config: c, memory: map[string]*answer{},
		client: &http.Client{
			Transport:     c.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// ask returns the answer to a request, which is sent once.
func (a *asker) ask(q query) *answer {
	body, _ := json.Marshal(q.body) // all bodies are maps of texts and numbers
	key := strings.Join([]string{q.method, strings.Join(q.path, "/"), q.values.Encode(), q.environment, q.bearer.kind, string(body)}, " ")
	if known := a.memory[key]; known != nil && !q.often {
		return known
	}
	got := a.patiently(q, body)
	a.memory[key] = got
	return got
}

// patiently sends a request, and again after the wait that a 429 asks for.
func (a *asker) patiently(q query, body []byte) *answer {
	for tries := 1; ; tries++ {
		if !a.wait(a.turn()) {
			return &answer{problem: a.stopped}
		}
		got := a.send(a.ctx, q, body)
		a.answers = append(a.answers, got)
		if got.status != http.StatusTooManyRequests {
			a.note(got)
			return got
		}
		a.throttles = append(a.throttles, got)
		if tries == maxThrottled {
			a.stop(limitUsed)
			return got
		}
		if !a.wait(waitOf(got)) {
			return got
		}
	}
}

// turn returns how long to wait, so that no minute has more requests than it may.
func (a *asker) turn() time.Duration {
	first := len(a.answers) - a.config.PerMinute
	if first < 0 {
		return 0
	}
	return time.Until(a.answers[first].sent.Add(time.Minute))
}

// note counts requests that were of no use. An error in JSON is of use.
func (a *asker) note(got *answer) {
	if got.problem == "" || got.problem == emptyBody {
		a.silent = 0
		return
	}
	if a.silent++; a.silent == maxSilent {
		a.stop(gaveUp)
	}
}

func (a *asker) stop(why Form) { a.stopped = cmp.Or(a.stopped, why) }

// wait reports whether a request may be sent after that time.
func (a *asker) wait(d time.Duration) bool {
	if a.ctx.Err() != nil {
		a.stop(interrupted)
	}
	if a.stopped != "" {
		return false
	}
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-a.ctx.Done():
		a.stop(interrupted)
		return false
	}
}

// waitOf returns how long a 429 asks to wait, counted from its own Date.
func waitOf(got *answer) time.Duration {
	wait := time.Duration(0)
	if seconds, err := strconv.Atoi(got.header.Get("Retry-After")); err == nil {
		wait = time.Duration(min(max(seconds, 0), int(longestWait.Seconds()))) * time.Second
	} else if at, err := http.ParseTime(got.header.Get("Retry-After")); err == nil {
		wait = at.Sub(got.date())
	}
	if reset, err := strconv.ParseInt(got.header.Get("X-RateLimit-Reset"), 10, 64); err == nil {
		wait = max(wait, time.Unix(reset, 0).Sub(got.date()))
	}
	if wait <= 0 {
		return defaultWait
	}
	return min(wait, longestWait)
}

// date is when it was answered by its own clock, or by ours if it does not say.
func (a *answer) date() time.Time {
	if date, err := http.ParseTime(a.header.Get("Date")); err == nil {
		return date
	}
	return a.received
}

// send sends a request. What goes wrong is in the answer.
func (a *asker) send(ctx context.Context, q query, body []byte) *answer {
	ctx, cancel := context.WithTimeout(ctx, a.config.Timeout)
	defer cancel()
	got := &answer{sent: time.Now()}
	defer func() { got.received = time.Now() }()

	target := a.config.BaseURL.JoinPath(escaped(q.path)...)
	target.RawQuery = q.values.Encode()
	req, err := http.NewRequestWithContext(ctx, q.method, target.String(), nil)
	if err != nil {
		got.problem = noConnection
		return got
	}
	if q.body != nil {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		req.Header.Set("Content-Type", "application/json")
	}
	if q.bearer.secret != "" {
		req.Header.Set("Authorization", "Bearer "+string(q.bearer.secret))
	}
	if q.environment != "" {
		req.Header.Set("x-pd-environment", q.environment)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "pipedream-check/"+a.config.Version)

	resp, err := a.client.Do(req)
	if err != nil {
		got.problem = noConnection
		if ctx.Err() != nil {
			got.problem = a.late()
		}
		return got
	}
	defer func() { _ = resp.Body.Close() }()
	got.status, got.header = resp.StatusCode, resp.Header
	got.body, err = io.ReadAll(io.LimitReader(resp.Body, api.MaxAnswer+1))
	got.problem = got.trouble()
	switch {
	case err != nil && ctx.Err() != nil:
		got.problem = a.late()
	case err != nil:
		got.problem = cutShort
	}
	return got
}

// late is the problem of a request that took too long, or that was interrupted.
func (a *asker) late() Form {
	if a.ctx.Err() != nil {
		return interrupted
	}
	return noAnswer
}

// trouble returns why an answer cannot be read; empty if it can be.
func (a *answer) trouble() Form {
	body := bytes.TrimSpace(a.body)
	switch {
	case a.status == http.StatusTooManyRequests:
		return throttled
	case a.status >= 300 && a.status < 400:
		return redirected
	case len(a.body) > api.MaxAnswer:
		return tooLarge
	case len(body) == 0:
		return emptyBody
	case json.Valid(body):
		return ""
	case body[0] == '<':
		return htmlBody
	}
	return notJSON
}

// escaped returns the parts of a path as they are sent.
func escaped(path []string) []string {
	parts := make([]string, len(path))
	for i, part := range path {
		parts[i] = url.PathEscape(part)
	}
	return parts
}
