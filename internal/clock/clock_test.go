package clock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asked is one answer: when its request was sent, how long it took, how far this
// machine's clock was ahead, and how long a cache had kept it.
type asked struct {
	at, took, ahead, age time.Duration
}

func TestAhead(t *testing.T) {
	const ms, s, h = time.Millisecond, time.Second, time.Hour
	for name, tc := range map[string]struct {
		answers []asked
		ahead   time.Duration
		known   bool
	}{
		"no answer":                        {nil, 0, false},
		"a right clock":                    {[]asked{{0, 100 * ms, 0, 0}}, 0, true},
		"a second ahead":                   {[]asked{{0, 0, s, 0}, {s, 0, s, 0}, {2 * s, 0, s, 0}}, 0, true},
		"two seconds behind":               {[]asked{{0, 0, -2 * s, 0}, {s, 0, -2 * s, 0}, {2 * s, 0, -2 * s, 0}}, 0, true},
		"hours ahead, by one answer":       {[]asked{{0, 0, 2 * h, 0}}, 0, false},
		"hours ahead":                      {[]asked{{0, 0, 2 * h, 0}, {s, 0, 2 * h, 0}}, 2 * h, true},
		"hours behind":                     {[]asked{{0, 0, -2 * h, 0}, {s, 0, -2 * h, 0}}, -2 * h, true},
		"a minute ahead, with delays":      {[]asked{{0, 800 * ms, 60 * s, 0}, {5 * s, 300 * ms, 60 * s, 0}}, 60 * s, true},
		"years behind":                     {[]asked{{0, 0, -30 * 365 * 24 * h, 0}, {s, 0, -30 * 365 * 24 * h, 0}}, -30 * 365 * 24 * h, true},
		"one wrong Date":                   {[]asked{{0, 0, 0, 0}, {s, 0, 9 * h, 0}, {2 * s, 0, 0, 0}, {3 * s, 0, 9 * h, 0}, {4 * s, 0, 0, 0}}, 0, true},
		"wrong Dates that do not agree":    {[]asked{{0, 0, 0, 0}, {s, 0, 9 * h, 0}, {2 * s, 0, 7 * h, 0}, {3 * s, 0, 5 * h, 0}}, 0, true},
		"a cache that repeats its answer":  {[]asked{{0, 0, 0, 0}, {10 * s, 0, 0, 10 * s}, {11 * s, 0, 0, 11 * s}, {12 * s, 0, 0, 12 * s}}, 0, true},
		"a slow answer says nothing":       {[]asked{{0, 0, 0, 0}, {s, 6 * s, 2 * h, 0}, {9 * s, 6 * s, 2 * h, 0}}, 0, true},
		"a clock that is set back":         {[]asked{{0, 0, 2 * h, 0}, {s, 0, 2 * h, 0}, {2 * s, 0, 0, 0}, {3 * s, 0, 0, 0}}, 0, true},
		"a clock that is set ahead":        {[]asked{{0, 0, 0, 0}, {s, 0, h, 0}, {2 * s, 0, h, 0}}, h, true},
		"a clock that is put almost right": {[]asked{{0, 0, 2 * h, 0}, {s, 0, 2 * h, 0}, {2 * s, 0, s, 0}, {3 * s, 0, s, 0}}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			var c Clock
			there := time.Date(2026, 11, 28, 12, 0, 0, 400_000_000, time.UTC)
			for _, a := range tc.answers {
				date := there.Add(a.at + a.took/2 - a.age).Truncate(time.Second)
				sent := there.Add(a.at + a.ahead)
				before, _ := c.Ahead()
				changed := c.Observe(date, sent, sent.Add(a.took))
				after, _ := c.Ahead()
				require.Equal(t, before != after, changed)
			}
			ahead, known := c.Ahead()
			require.InDelta(t, tc.ahead.Seconds(), ahead.Seconds(), 1)
			require.Equal(t, tc.known, known)
		})
	}
}
