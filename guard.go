package pipedream

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/hashicorp/go-hclog"
)

var errInternal = errors.New("internal error; the plugin's log has more")

// guard makes a panic in f an error: it would end the process for every mount
// that shares it. Every goroutine of the engine's own runs under it.
func guard(logger hclog.Logger, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			// Not the value: it may hold what the code was working on.
			logger.Error("recovered from a panic", "type", fmt.Sprintf("%T", r), "stack", string(debug.Stack()))
			err = errInternal
		}
	}()
	return f()
}
