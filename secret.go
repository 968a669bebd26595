package pipedream

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// opaque keeps a type that holds a secret out of logs and errors: whatever
// embeds it formats as "[redacted]", with every verb. encoding/json sees
// through it, because storage must.
type opaque struct{}

func (opaque) String() string             { return redacted }
func (opaque) GoString() string           { return redacted }
func (opaque) LogValue() slog.Value       { return slog.StringValue(redacted) }
func (opaque) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// secret is a string that formats as opaque does.
type secret string

func (secret) String() string             { return redacted }
func (secret) GoString() string           { return redacted }
func (secret) LogValue() slog.Value       { return slog.StringValue(redacted) }
func (secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }
