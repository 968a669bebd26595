// Command pipedream-check looks at the real Pipedream with your own key, and says fact by fact whether it answers as the
// secrets engine expects. Its report contains no secret and no personal datum.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"vault-plugin-secrets-pipedream/internal/livecheck"
)

// version is set by the linker.
var version = "v0.1.0"

// The exit codes.
const (
	exitHandled     = 0   // the engine handles everything that was seen
	exitNotHandled  = 1   // it does not
	exitUsage       = 2   // wrong options, or no credentials
	exitNothing     = 3   // no account could be looked at
	exitInterrupted = 130 // no report was saved
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run does everything, and returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, getenv, stdin, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitHandled
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "pipedream-check:", err)
		return exitUsage
	}
	_, _ = fmt.Fprintf(stderr, "pipedream-check: at most %d requests a minute, so this takes some minutes. Ctrl-C ends it.\n", o.config.PerMinute)
	o.config.Show = func(link string) {
		_, _ = fmt.Fprintf(stderr, "pipedream-check: open this link and connect an account, within %s:\n%s\n", o.config.LinkWait, link)
	}
	ctx, cancel := context.WithTimeout(ctx, o.most())
	defer cancel()
	report := livecheck.Run(ctx, o.config)
	if err := report.Write(stdout); err != nil {
		_, _ = fmt.Fprintln(stderr, "pipedream-check:", err)
		return exitUsage
	}
	if report.Interrupted {
		_, _ = fmt.Fprintln(stderr, "pipedream-check: it was interrupted, so no report was saved")
		return exitInterrupted
	}
	if err := save(o.report, report); err != nil {
		_, _ = fmt.Fprintln(stderr, "pipedream-check:", err)
		return exitUsage
	}
	switch {
	case !report.SawAccounts():
		return exitNothing
	case len(report.NotHandled) > 0:
		return exitNotHandled
	}
	return exitHandled
}

// most bounds how long all of it takes.
func (o *options) most() time.Duration {
	return 30*time.Minute + o.config.Watch + o.config.LinkWait
}

// save writes the report to <name>.json, and for people to <name>.txt. Each file appears with all of its content.
func save(name string, report *livecheck.Report) error {
	if name == "" {
		return nil
	}
	if err := writeFile(name+".json", func(w io.Writer) error { _, err := w.Write(report.JSON()); return err }); err != nil {
		return err
	}
	return writeFile(name+".txt", report.Write)
}

func writeFile(name string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".pipedream-check-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err = errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
