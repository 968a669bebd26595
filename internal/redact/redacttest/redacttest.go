// Package redacttest checks that values with secrets in them do not show these.
package redacttest

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// Check fails t if a log line or an error about one of the values would show the
// secret in it.
func Check(t *testing.T, secret string, values ...any) {
	t.Helper()
	for _, value := range values {
		for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			if shown := fmt.Sprintf(format, value); strings.Contains(shown, secret) || strings.Contains(shown, fmt.Sprintf("%x", secret)) {
				t.Errorf("%T shows its secret with %s", value, format)
			}
		}
		var log strings.Builder
		slog.New(slog.NewTextHandler(&log, nil)).Info("a line", "value", value)
		if strings.Contains(log.String(), secret) {
			t.Errorf("%T shows its secret in a log line", value)
		}
	}
}
