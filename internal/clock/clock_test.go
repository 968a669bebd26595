package clock

import (
	"testing"
	"testing/synctest"
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
			c := New(nil)
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

// steps is a clock on the wall that is set while the monotonic clock goes on.
func steps(t *testing.T, f func(c *Clock, step, answer func(time.Duration))) {
	synctest.Test(t, func(*testing.T) {
		wall := time.Duration(0)
		c := New(func(now time.Time) time.Time { return now.Round(0).Add(wall) })
		f(c, func(by time.Duration) { wall += by }, func(ahead time.Duration) {
			time.Sleep(2 * time.Second)
			now := time.Now()
			c.Observe(c.wall(now).Add(-ahead).Truncate(time.Second), now, now)
		})
	})
}

func TestAStepBack(t *testing.T) {
	steps(t, func(c *Clock, step, answer func(time.Duration)) {
		answer(0)
		before := c.Now()
		time.Sleep(time.Hour)
		step(-3 * time.Hour)
		after := c.Now()
		require.InDelta(t, time.Hour.Seconds(), after.There.Sub(before.There).Seconds(), 2, "an hour has passed")
		ahead, _ := c.Ahead()
		require.Equal(t, -3*time.Hour, ahead)
		answer(-3 * time.Hour)
		require.False(t, c.Doubts())
		ahead, _ = c.Ahead()
		require.Equal(t, -3*time.Hour, ahead)
	})
}

// A clock that jumped ahead was either set or that of a machine that was suspended. One
// answer tells which.
func TestAJumpAhead(t *testing.T) {
	const h = 3 * time.Hour
	for name, ahead := range map[string]time.Duration{"set": h, "suspended": 0} {
		t.Run(name, func(t *testing.T) {
			steps(t, func(c *Clock, step, answer func(time.Duration)) {
				answer(0)
				before := c.Now()
				step(h)
				require.Equal(t, h, c.Now().There.Sub(before.There), "to be safe, the time has passed")
				answer(ahead)
				require.False(t, c.Doubts())
				known, _ := c.Ahead()
				require.Equal(t, ahead, known)
				require.InDelta(t, (h - ahead).Seconds(), c.Now().There.Sub(before.There).Seconds(), 4)
			})
		})
	}
}

func TestAContradictionRests(t *testing.T) {
	steps(t, func(c *Clock, _, answer func(time.Duration)) {
		answer(0)
		answer(time.Hour)
		require.True(t, c.Doubts())
		answer(2 * time.Hour)
		c.Rest()
		require.False(t, c.Doubts(), "answers without order do not double the requests")
		time.Sleep(time.Minute)
		require.True(t, c.Doubts())
		answer(0)
		require.False(t, c.Doubts())
	})
}

func TestARestoredDifference(t *testing.T) {
	steps(t, func(c *Clock, _, answer func(time.Duration)) {
		c.Restore(time.Hour)
		now := c.Now()
		require.True(t, now.Unsure)
		require.Equal(t, time.Hour-precision, now.Here.Sub(now.There))
		require.True(t, now.Here.Equal(now.ToHere(now.There)))
		answer(time.Hour)
		require.False(t, c.Now().Unsure)
		c.Restore(2 * time.Hour)
		c.Suspect()
		ahead, _ := c.Ahead()
		require.Equal(t, time.Hour, ahead, "Pipedream knows better")
		require.False(t, c.Now().Unsure)
	})
}

// A warm read asks for the time and allocates nothing.
func TestNowAllocatesNothing(t *testing.T) {
	c := New(nil)
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = c.Now() }))
}
