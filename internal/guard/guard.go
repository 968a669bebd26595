// Package guard keeps a panic from ending the plugin's process, which every
// mount of the engine shares.
package guard

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/hashicorp/go-hclog"
)

// ErrPanic is what [Run] returns when its function panicked.
var ErrPanic = errors.New("internal error; the plugin's log has more")

// Run calls f and turns a panic into [ErrPanic]. Every goroutine that the
// engine starts runs under it; timers that only keep the books do not.
func Run(logger hclog.Logger, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			// The value is left out: it may hold what the code was working on.
			logger.Error("recovered from a panic", "type", fmt.Sprintf("%T", r), "stack", string(debug.Stack()))
			err = ErrPanic
		}
	}()
	return f()
}

// Go runs f on a goroutine of its own.
func Go(logger hclog.Logger, f func()) {
	go func() {
		_ = Run(logger, func() error { // the log has it
			f()
			return nil
		})
	}()
}
