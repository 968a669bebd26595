package pipedreamtest

import (
	"strings"
	"time"
)

// TimeForm is a way to write the times of an account.
type TimeForm string

// These are the forms of times.
const (
	TimesISO          TimeForm = "iso"          // 2024-02-11T05:18:46.000Z, as documented
	TimesOffset       TimeForm = "offset"       // 2024-02-11T05:18:46.000+0000
	TimesLower        TimeForm = "lower"        // 2024-02-11t05:18:46.000z
	TimesSeconds      TimeForm = "seconds"      // 1707628726, rounded down to the second
	TimesMilliseconds TimeForm = "milliseconds" // 1707628726000
)

// WithTimes sets how times are written in accounts that have no form of their own. The default is [TimesISO].
func WithTimes(form TimeForm) Option {
	if !form.Valid() {
		panic("pipedreamtest: no such form of times: " + string(form))
	}
	return func(s *Server) { s.times = form }
}

// Valid reports whether the form exists. An empty form is valid.
func (f TimeForm) Valid() bool {
	switch f {
	case "", TimesISO, TimesOffset, TimesLower, TimesSeconds, TimesMilliseconds:
		return true
	}
	return false
}

// write returns a time in that form as JSON.
func (f TimeForm) write(t time.Time) any {
	switch f {
	case TimesOffset:
		return t.UTC().Format("2006-01-02T15:04:05.000-0700")
	case TimesLower:
		return strings.ToLower(stamp(t))
	case TimesSeconds:
		return t.Unix()
	case TimesMilliseconds:
		return t.UnixMilli()
	default:
		return stamp(t)
	}
}

// stamp formats a time as the API is documented to.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }
