package backoff

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// failure is an error that says how long is left to wait.
type failure struct{ wait time.Duration }

func (failure) Error() string                       { return "it failed" }
func (f failure) WithWait(wait time.Duration) error { return failure{wait: wait} }

// left returns how long err says is left to wait.
func left(t *testing.T, err error) (wait time.Duration) {
	t.Helper()
	var f failure
	require.ErrorAs(t, err, &f)
	return f.wait
}

// heldFor asserts that a hold-off is that long, or up to a quarter shorter.
func heldFor(t *testing.T, about, wait time.Duration) {
	t.Helper()
	require.LessOrEqual(t, wait, about)
	require.GreaterOrEqual(t, wait, about*3/4)
}

func TestAHoldOffDoublesWithEachFailure(t *testing.T) {
	const s = time.Second
	for name, tc := range map[string]struct {
		lasting bool
		waits   []time.Duration
	}{
		"to 30 s if the failure may pass":        {false, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s, 30 * s}},
		"to 5 minutes if the failure is lasting": {true, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 64 * s, 128 * s, 256 * s, 300 * s, 300 * s}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := NewHoldOffs()
				for range 2 {
					for _, about := range tc.waits {
						require.NoError(t, h.Check("a"))
						h.Failed("a", Failure{Err: failure{}, Lasting: tc.lasting})
						require.Equal(t, time.Now(), h.FailedAt("a"))
						wait := left(t, h.Check("a"))
						heldFor(t, about, wait)
						require.NoError(t, h.Check("b"), "the others go on")
						require.NoError(t, h.CheckAll())
						time.Sleep(wait - 1)
						require.Equal(t, time.Duration(1), left(t, h.Check("a")))
						time.Sleep(time.Nanosecond)
					}
					h.Succeeded("a") // which starts over
				}
			})
		})
	}
}

func TestHoldOffAfterManyFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHoldOffs()
		for range 10_000 {
			h.Failed("a", Failure{Err: failure{}})
			h.Failed("b", Failure{Err: failure{}, Lasting: true})
		}
		heldFor(t, LongestHoldOff, left(t, h.Check("a")))
		heldFor(t, LongestLasting, left(t, h.Check("b")))
	})
}

func TestAHoldOffIsNeverShorterThanLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHoldOffs()
		h.Failed("a", Failure{Err: failure{}, Least: 7 * time.Minute})
		require.Equal(t, 7*time.Minute, left(t, h.Check("a")))
	})
}

func TestAnErrorWithoutWithWaitIsReturnedAsIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, plain := NewHoldOffs(), errors.New("plain")
		h.Failed("a", Failure{Err: plain})
		require.Equal(t, plain, h.Check("a"))
	})
}

func TestARetryEndsAHoldOffAndKeepsTheCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHoldOffs()
		for range 4 {
			h.Failed("a", Failure{Err: failure{}, Lasting: true})
		}
		failedAt := h.FailedAt("a")
		h.Retry("a")
		require.NoError(t, h.Check("a"))
		require.True(t, h.Doubtful("a"), "it has not succeeded yet")
		require.Equal(t, failedAt, h.FailedAt("a"))
		h.Failed("a", Failure{Err: failure{}, Lasting: true})
		heldFor(t, 16*time.Second, left(t, h.Check("a")))
		h.Retry("unknown")
		require.NoError(t, h.Check("unknown"))
	})
}

func TestALossRestartsAHoldOffOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHoldOffs()
		fail := func(name string, gone bool) {
			time.Sleep(time.Second)
			h.Failed(name, Failure{Err: failure{}, Lasting: true, Gone: gone})
		}
		h.Lost("user", "account")
		for range 8 {
			fail("account", false)
			fail("user", false)
		}
		h.Lost("user", "account")
		require.Error(t, h.Check("user"), "the account is not gone")
		fail("account", true)
		h.Lost("user", "account")
		require.NoError(t, h.Check("user"))
		require.True(t, h.Doubtful("user"))
		fail("user", false)
		heldFor(t, time.Second, left(t, h.Check("user")))
		fail("account", true)
		h.Lost("user", "account")
		fail("user", false)
		heldFor(t, 2*time.Second, left(t, h.Check("user")))
		h.Lost("user", "account")
		require.Error(t, h.Check("user"), "it was gone before")
		h.Succeeded("account")
		fail("account", true)
		h.Lost("user", "account")
		require.NoError(t, h.Check("user"))
	})
}

func TestALastingFailureIsDoubtfulUntilSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHoldOffs()
		require.False(t, h.Doubtful("a"))
		require.Zero(t, h.FailedAt("a"))
		h.Failed("a", Failure{Err: failure{}, Lasting: true})
		time.Sleep(time.Hour)
		require.True(t, h.Doubtful("a"))
		h.Failed("a", Failure{Err: failure{}})
		require.False(t, h.Doubtful("a"), "the last failure counts")
		h.Failed("a", Failure{Err: failure{}, Lasting: true})
		h.Succeeded("a")
		require.False(t, h.Doubtful("a"))
	})
}

func TestManyMissesInAMinuteLookLikeGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHoldOffs()
		miss := func(n int) {
			for i := range n {
				h.Failed(fmt.Sprint(time.Now().UnixNano(), i), Failure{Err: failure{}, Lasting: true})
			}
		}
		miss(guessesFrom)
		require.False(t, h.Guessing())
		for range 100 {
			h.Failed("outage", Failure{Err: failure{}})
		}
		require.False(t, h.Guessing(), "a failure that may pass is no miss")
		miss(1)
		require.True(t, h.Guessing())
		time.Sleep(time.Minute)
		require.True(t, h.Guessing())
		time.Sleep(time.Nanosecond)
		require.False(t, h.Guessing())
		miss(1000)
		require.True(t, h.Guessing())
		time.Sleep(time.Minute + 1)
		require.False(t, h.Guessing(), "however many there were")
	})
}

func TestFailedAllHoldsEverythingOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHoldOffs()
		h.FailedAll(Failure{Err: failure{}})
		wait := left(t, h.CheckAll())
		heldFor(t, time.Second, wait)
		require.Equal(t, wait, left(t, h.Check("a")))
		require.Equal(t, wait, time.Until(h.AllUntil()))
		require.Zero(t, h.Count(), "no name is held off for itself")

		// Requests that were under way at the same time fail together.
		for range 50 {
			h.FailedAll(Failure{Err: failure{}})
		}
		require.Equal(t, wait, left(t, h.CheckAll()))
		h.FailedAll(Failure{Err: failure{}, Least: 20 * time.Second})
		require.Equal(t, 20*time.Second, left(t, h.CheckAll()), "one of them may ask for longer")
		h.FailedAll(Failure{Err: failure{}, Least: 10 * time.Second})
		require.Equal(t, 20*time.Second, left(t, h.CheckAll()))

		h.SucceededAll()
		require.Equal(t, 20*time.Second, left(t, h.CheckAll()), "an answer that was under way ends nothing")
		time.Sleep(20 * time.Second)
		require.NoError(t, h.CheckAll())

		h.FailedAll(Failure{Err: failure{}})
		heldFor(t, 2*time.Second, left(t, h.CheckAll()))
		time.Sleep(2 * time.Second)
		h.SucceededAll()
		h.FailedAll(Failure{Err: failure{}})
		heldFor(t, time.Second, left(t, h.CheckAll()))
		time.Sleep(time.Second)
		h.FailedAll(Failure{Err: failure{}, Least: time.Minute})
		require.Equal(t, time.Minute, left(t, h.CheckAll()))
	})
}

func TestHoldOffsAreCountedWhileTheyLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHoldOffs()
		h.Failed("a", Failure{Err: failure{}})
		h.Failed("b", Failure{Err: failure{}, Least: time.Minute})
		require.Equal(t, 2, h.Count())
		time.Sleep(time.Second)
		require.Equal(t, 1, h.Count())
		h.Retry("b")
		require.Zero(t, h.Count())
	})
}

func TestMemoryForGuessedNamesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHoldOffs()
		for i := range 2 * maxHeldOff {
			h.Failed(strconv.Itoa(i), Failure{Err: failure{}, Lasting: true})
		}
		require.Equal(t, maxHeldOff, h.Count())
		require.LessOrEqual(t, len(h.misses), guessesFrom+1)
	})
}

func TestSleepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		require.NoError(t, Sleep(t.Context(), time.Minute))
		require.Equal(t, time.Minute, time.Since(began))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, Sleep(ctx, time.Minute), context.DeadlineExceeded)
		require.Equal(t, time.Minute+time.Second, time.Since(began))
	})
}
