package livecheck

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-pipedream/internal/api"
)

const nothingAnswered Form = "nothing was answered"

// answerFacts are about all answers of the run, so they come last.
var answerFacts = []fact{
	{
		name: "answer.usable", says: "Each request is answered with JSON.",
		expected: []Form{"JSON"}, handled: []Form{"an error without a body"},
		look: func(l *look) (s seen) {
			n := 0
			for _, got := range l.answers {
				switch problem := got.problem; {
				case problem == "":
					s.add("JSON")
				case problem == throttled, problem == interrupted, got.status == http.StatusNoContent:
				case problem == emptyBody && got.status >= http.StatusBadRequest:
					s.add("an error without a body")
				default:
					s.add(got.problem)
					n++
				}
			}
			if n > 0 {
				s = s.with("answers", n)
			}
			return s.or(nothingAnswered)
		},
	},
	{
		name: "answer.type", says: "The Content-Type of an answer is application/json.",
		expected: []Form{"application/json"}, handled: []Form{"another Content-Type", "no Content-Type"},
		look: func(l *look) (s seen) {
			for _, got := range l.answered() {
				media, _, _ := strings.Cut(got.header.Get("Content-Type"), ";")
				switch {
				case got.problem == emptyBody:
				case media == "":
					s.add("no Content-Type")
				case strings.TrimSpace(media) == "application/json":
					s.add("application/json")
				default:
					s.add("another Content-Type")
				}
			}
			return s.or(nothingAnswered)
		},
	},
	{
		name: "answer.time", says: "An answer takes less than 2 s.",
		expected: []Form{"less than 2 s"}, handled: []Form{"2 s to 5 s", "more than 5 s"},
		look: func(l *look) (s seen) {
			slowest := time.Duration(-1)
			for _, got := range l.answered() {
				slowest = max(slowest, got.received.Sub(got.sent))
			}
			switch {
			case slowest < 0:
				return unseen(nothingAnswered)
			case slowest < 2*time.Second:
				return as("less than 2 s")
			case slowest < 5*time.Second:
				return as("2 s to 5 s")
			}
			return as("more than 5 s")
		},
	},
	{
		name: "answer.size", says: "An answer has less than 1 MiB.",
		expected: []Form{"less than 1 MiB"}, handled: []Form{"1 to 4 MiB"},
		look: func(l *look) seen {
			largest := -1
			for _, got := range l.answered() {
				largest = max(largest, len(got.body))
			}
			switch {
			case largest < 0:
				return unseen(nothingAnswered)
			case largest <= api.MaxAccountAnswer:
				return as("less than 1 MiB")
			case largest <= api.MaxAnswer:
				return as("1 to 4 MiB")
			}
			return as("more than 4 MiB")
		},
	},
	{
		name: "answer.date", says: "Each answer has a Date.",
		expected: []Form{"a Date"}, handled: []Form{"no Date"},
		look: func(l *look) (s seen) {
			for _, got := range l.answered() {
				if _, err := http.ParseTime(got.header.Get("Date")); err != nil {
					s.add("no Date")
				} else {
					s.add("a Date")
				}
			}
			return s.or(nothingAnswered)
		},
	},
	{
		name: "answer.clock", says: "Pipedream's clock and that of this machine agree.",
		expected: []Form{"within 3 s"}, handled: []Form{"3 s to 30 s apart", "more than 30 s apart"},
		look: func(l *look) seen {
			ahead, ok := l.ahead()
			seconds := int(ahead.Round(time.Second).Seconds())
			switch {
			case !ok:
				return unseen("no answer has a Date")
			case ahead.Abs() <= 3*time.Second:
				return as("within 3 s")
			case ahead.Abs() <= 30*time.Second:
				return as("3 s to 30 s apart").with("seconds that this machine is ahead", seconds)
			}
			return as("more than 30 s apart").with("seconds that this machine is ahead", seconds)
		},
	},
	{
		name: "answer.cache", says: "No cache stands between this machine and Pipedream.",
		expected: []Form{"no Age"}, handled: []Form{"an Age"},
		look: func(l *look) (s seen) {
			for _, got := range l.answered() {
				if age := got.header.Get("Age"); age != "" && age != "0" {
					s.add("an Age")
				} else {
					s.add("no Age")
				}
			}
			return s.or(nothingAnswered)
		},
	},
}

// answered returns the answers that had a status.
func (l *look) answered() []*answer {
	return slices.DeleteFunc(slices.Clone(l.answers), func(got *answer) bool { return got.status == 0 })
}

// ahead is how far this machine's clock is ahead of Pipedream's: the median of all answers.
func (a *asker) ahead() (ahead time.Duration, ok bool) {
	var all []time.Duration
	for _, got := range a.answers {
		date, err := http.ParseTime(got.header.Get("Date"))
		if err == nil {
			middle := got.sent.Add(got.received.Sub(got.sent) / 2).Round(0)
			all = append(all, middle.Sub(date.Add(time.Second/2))) // a Date counts whole seconds
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	slices.Sort(all)
	return all[len(all)/2], true
}

// now is the time by Pipedream's clock.
func (a *asker) now() time.Time {
	ahead, _ := a.ahead()
	return time.Now().Add(-ahead)
}

const noThrottle Form = "there was no 429"

// limitFacts are about the rate limit. The check never tries to reach it.
var limitFacts = []fact{
	{
		name: "limit.met", says: "There is no 429 at the pace of this check.",
		expected: []Form{noThrottle}, handled: []Form{"a 429"},
		look: func(l *look) (s seen) {
			switch {
			case l.stopped == limitUsed:
				s.add("a 429 again, after the wait that the first one asked for")
			case len(l.throttles) > 0:
				s.add("a 429")
			case len(l.answered()) == 0:
				return unseen(nothingAnswered)
			default:
				return as(noThrottle)
			}
			return s.with("429s", len(l.throttles)).with("requests", len(l.answers))
		},
	},
	{
		name: "limit.wait", says: "A 429 says in Retry-After and X-RateLimit-Reset how long to wait.",
		expected: []Form{"Retry-After in seconds", "X-RateLimit-Reset in Unix seconds"},
		handled:  []Form{"Retry-After as a date", "no Retry-After", "X-RateLimit-Reset in Unix milliseconds", "no X-RateLimit-Reset"},
		look: func(l *look) (s seen) {
			for _, got := range l.throttles {
				s.add(retryForm(got.header.Get("Retry-After")))
				s.add(resetForm(got.header.Get("X-RateLimit-Reset")))
			}
			return s.or(noThrottle)
		},
	},
	{
		name: "limit.body", says: `The body of a 429 is {"error":"Throttled"}.`,
		expected: []Form{"error is Throttled"}, handled: []Form{"another body"},
		look: func(l *look) (s seen) {
			for _, got := range l.throttles {
				if m, _ := objectOf(got.body); textOf(m["error"]) == "Throttled" {
					s.add("error is Throttled")
				} else {
					s.add("another body")
				}
			}
			return s.or(noThrottle)
		},
	},
	{
		name: "limit.header", says: "Whether answers other than a 429 have X-RateLimit-Limit is not documented.",
		expected: []Form{"X-RateLimit-Limit", "no X-RateLimit-Limit"}, open: true,
		look: func(l *look) (s seen) {
			for _, got := range l.answered() {
				n, err := strconv.Atoi(got.header.Get("X-RateLimit-Limit"))
				switch {
				case got.status == http.StatusTooManyRequests:
				case err == nil:
					s.add("X-RateLimit-Limit")
					s = s.with("requests", n)
				default:
					s.add("no X-RateLimit-Limit")
				}
			}
			return s.or(nothingAnswered)
		},
	},
}

func retryForm(value string) Form {
	if value == "" {
		return "no Retry-After"
	}
	if _, err := strconv.ParseFloat(value, 64); err == nil {
		return "Retry-After in seconds"
	}
	if _, err := http.ParseTime(value); err == nil {
		return "Retry-After as a date"
	}
	return "Retry-After in another form"
}

func resetForm(value string) Form {
	if value == "" {
		return "no X-RateLimit-Reset"
	}
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return "X-RateLimit-Reset in another form"
	}
	switch _, form := fromUnix(n); form {
	case unixSeconds:
		return "X-RateLimit-Reset in Unix seconds"
	case unixMillis:
		return "X-RateLimit-Reset in Unix milliseconds"
	default:
		return "X-RateLimit-Reset in another form"
	}
}
