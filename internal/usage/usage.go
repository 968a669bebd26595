// Package usage reads the command lines of the project's programs.
package usage

import (
	"errors"
	"flag"
	"io"
)

// Parse reads flags from args. It prints no errors: its caller does. If help is asked for,
// Parse prints it to stdout, so that it can be paged, and returns [flag.ErrHelp]. The help
// is head, all flags, and tail.
func Parse(flags *flag.FlagSet, args []string, stdout io.Writer, head, tail string) error {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(stdout, head)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		_, _ = io.WriteString(stdout, tail)
	}
	return err
}
