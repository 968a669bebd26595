package guard

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
)

// logged returns a logger and what it writes.
func logged() (hclog.Logger, *bytes.Buffer) {
	var log bytes.Buffer
	return hclog.New(&hclog.LoggerOptions{Output: &log, JSONFormat: true}), &log
}

func TestAPanicBecomesAnError(t *testing.T) {
	for name, value := range map[string]any{
		"with a string": "pd_secret", "with an error": errors.New("pd_secret"), "with a pointer": &struct{ key string }{"pd_secret"}, "with a number": 17,
	} {
		t.Run(name, func(t *testing.T) {
			logger, log := logged()
			require.ErrorIs(t, Run(logger, func() error { panic(value) }), ErrPanic)
			require.Contains(t, log.String(), "recovered from a panic")
			require.Contains(t, log.String(), "TestAPanicBecomesAnError", "where it was")
			require.NotContains(t, log.String(), "pd_secret", "it may contain what the code was working on")
		})
	}
	t.Run("in the runtime", func(t *testing.T) {
		logger, log := logged()
		var none map[string]int
		require.ErrorIs(t, Run(logger, func() error { none["a"] = 1; return nil }), ErrPanic)
		require.Contains(t, log.String(), "runtime.plainError")
	})
}

func TestRunReturnsTheError(t *testing.T) {
	logger, log := logged()
	failed := errors.New("it failed")
	require.Equal(t, failed, Run(logger, func() error { return failed }))
	require.NoError(t, Run(logger, func() error { return nil }))
	require.Empty(t, log.String())
}

func TestAPanicInAGoroutineEndsNoProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, log := logged()
		Go(logger, func() { panic("pd_secret") })
		synctest.Wait()
		require.Contains(t, log.String(), "recovered from a panic")
		require.NotContains(t, log.String(), "pd_secret")

		ran := false
		Go(logger, func() { ran = true })
		synctest.Wait()
		require.True(t, ran)
	})
}
