// Package guard keeps a panic from ending the plugin's process, which all mounts of
// the engine share.
package guard

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/hashicorp/go-hclog"
)

// ErrPanic is the error of [Run] if its function panicked.
var ErrPanic = errors.New("internal error; the plugin's log has more")

// Run calls f and turns a panic into [ErrPanic]. Every goroutine that the engine starts
// runs under it, except timers that only do bookkeeping.
func Run(logger hclog.Logger, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			// The value is left out, because it may contain what the code was working on.
			logger.Error("recovered from a panic", "type", fmt.Sprintf("%T", r), "stack", string(debug.Stack()))
			err = ErrPanic
		}
	}()
	return f()
}

// Go runs f on a goroutine of its own.
func Go(logger hclog.Logger, f func()) {
	go func() {
		_ = Run(logger, func() error { // a panic is in the log
			f()
			return nil
		})
	}()
}
