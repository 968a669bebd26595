package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"vault-plugin-secrets-pipedream/internal/backoff"
	"vault-plugin-secrets-pipedream/internal/clock"
	"vault-plugin-secrets-pipedream/internal/guard"
)

const (
	// maxRetryAfter bounds the wait that an answer may ask for, so that a mistake of
	// Pipedream's cannot put a mount out of service for a day.
	maxRetryAfter = 10 * time.Minute
	// laterDate is how long after an answer the next one has a later Date for sure.
	laterDate = time.Second + 10*time.Millisecond
)

// readClock takes the time from a successful answer of Pipedream's own: not that of a
// gateway, which may have another clock, and not of a cache.
func (c *Client) readClock(resp *http.Response, sent, received time.Time) {
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if c.config.Clock == nil || err != nil || resp.StatusCode != http.StatusOK || isAged(resp) {
		return
	}
	if !c.config.Clock.Observe(date, sent, received) {
		return
	}
	if ahead, _ := c.config.Clock.Ahead(); ahead.Abs() > clock.Wrong {
		c.logger().Warn("the clock of this server differs from Pipedream's; correct it", "ahead", ahead.String())
	}
}

// isAged reports whether a cache kept an answer for a while. Some write an age of 0 to
// answers that they did not keep.
func isAged(resp *http.Response) bool {
	age := resp.Header.Get("Age")
	return age != "" && age != "0"
}

// SettleTime returns once it is clear what time it is by Pipedream's clock. If the last
// answer contradicts what was known about that, it takes another one to tell a clock that
// was changed from a Date that is wrong. Until then, nobody can judge how long the
// credentials live that came with the answer.
func (c *Client) SettleTime(ctx context.Context) {
	if !c.config.Clock.Doubts() || backoff.Sleep(ctx, laterDate) != nil || !c.config.Clock.Doubts() {
		return
	}
	if bearer, err := c.auth.bearer(ctx); err == nil && c.config.Clock.Doubts() {
		_ = c.probe(ctx, bearer) // the Date of its answer counts, and nothing else
	}
	c.config.Clock.Rest()
}

// AskTime has Pipedream tell the time, unless it was asked already, and waits for that
// until ctx ends. All who call it meanwhile wait for the same answer.
func (c *Client) AskTime(ctx context.Context) {
	select {
	case <-c.askTime(false).done:
	case <-ctx.Done():
	}
}

// StartAskTime is [Client.AskTime] for somebody who does not wait. If Pipedream gave no
// answer before, it is asked again.
func (c *Client) StartAskTime() { c.askTime(true) }

// timing is an attempt to be told the time.
type timing struct {
	done   chan struct{} // closed when it has ended
	failed bool          // whether it could not be sent, or had no answer; set before done is closed
}

func (t *timing) hasFailed() bool {
	select {
	case <-t.done:
		return t.failed
	default:
		return false
	}
}

// askTime returns the latest attempt. It begins one if there is none, and also if the
// latest has failed and again is set.
func (c *Client) askTime(again bool) *timing {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timing == nil || again && c.timing.hasFailed() {
		c.timing = &timing{done: make(chan struct{})}
		go c.runTiming(c.timing)
	}
	return c.timing
}

func (c *Client) runTiming(t *timing) {
	defer close(t.done)
	err := guard.Run(c.logger(), func() error {
		ctx, cancel := context.WithTimeout(c.ctx, c.config.Timeout)
		defer cancel()
		bearer, err := c.auth.bearer(ctx) // an OAuth client asks for an access token first, whose answer may tell it
		if err == nil && !c.config.Clock.Told() {
			err = c.probe(ctx, bearer)
		}
		if err == nil {
			c.SettleTime(ctx)
		}
		return err
	})
	t.failed = Unsent(err) || KindOf(err) == Unavailable
}

// retryAfter returns how long an answer asks to wait; 0 if it does not ask. That is
// what Retry-After says (seconds or a date). For a 429 it is the later of that and
// X-RateLimit-Reset (a Unix time).
func (c *Client) retryAfter(resp *http.Response) time.Duration {
	answered := c.answeredAt(resp)
	wait := time.Duration(0)
	value := resp.Header.Get("Retry-After")
	if seconds, _ := strconv.ParseFloat(value, 64); seconds > 0 { // infinite beyond what a number holds
		wait = time.Duration(min(seconds, maxRetryAfter.Seconds()) * float64(time.Second))
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(answered)
	}
	reset, err := strconv.ParseInt(resp.Header.Get("X-RateLimit-Reset"), 10, 64)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		at := time.Unix(reset, 0)
		if reset >= firstMilliseconds {
			at = time.UnixMilli(reset)
		}
		wait = max(wait, at.Sub(answered))
	}
	return min(max(0, wait), maxRetryAfter)
}

// answeredAt returns when an answer was made, by the clock of whoever made it. That is
// Pipedream's, once it has told the time, and otherwise the answer's own Date, which can
// be wrong for once.
func (c *Client) answeredAt(resp *http.Response) time.Time {
	now := c.config.Clock.Now().There
	if _, told := c.config.Clock.Ahead(); told {
		return now
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil && !isAged(resp) {
		return date
	}
	return now
}
