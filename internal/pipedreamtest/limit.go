package pipedreamtest

import (
	"slices"
	"time"
)

// limitSpan is what the rate limit counts over.
const limitSpan = time.Minute

// window holds when the requests of the last minute were let in, oldest first.
type window struct{ times []time.Time }

// admit lets a request in, or says how long to wait. A request that is refused does not count against later ones, and one
// that came exactly a minute ago counts no more.
func (w *window) admit(now time.Time, limit int) (ok bool, wait time.Duration) {
	past, _ := slices.BinarySearchFunc(w.times, now.Add(-limitSpan), func(t, edge time.Time) int {
		if t.After(edge) {
			return 1
		}
		return -1
	})
	w.times = slices.Delete(w.times, 0, past)
	if limit > 0 && len(w.times) >= limit {
		// With a limit that was lowered, more than the oldest one has to leave.
		return false, w.times[len(w.times)-limit].Add(limitSpan).Sub(now)
	}
	w.times = append(w.times, now)
	return true, 0
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
