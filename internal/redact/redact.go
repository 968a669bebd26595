// Package redact keeps secrets out of logs and errors.
package redact

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Opaque keeps a type that holds a secret out of logs and errors. A type that embeds
// it formats as "[redacted]" with every verb. It has no effect on encoding/json, which
// storage needs.
type Opaque struct{}

// String returns "[redacted]".
func (Opaque) String() string { return redacted }

// GoString returns "[redacted]".
func (Opaque) GoString() string { return redacted }

// LogValue returns "[redacted]".
func (Opaque) LogValue() slog.Value { return slog.StringValue(redacted) }

// Format writes "[redacted]" for every verb.
func (Opaque) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// Secret is a string that formats as [Opaque] does.
type Secret string

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// LogValue returns "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Format writes "[redacted]" for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }
