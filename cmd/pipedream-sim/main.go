// Command pipedream-sim serves a simulated Pipedream API on a loopback address, for tests and the demo only. It keeps
// everything in memory, and its tokens open nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

// stopTime is how long running requests may take to finish at shutdown.
const stopTime = 2 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "pipedream-sim:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, which is not an error.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	accounts := demoAccounts(o.shortLife)
	if o.accounts != "" {
		if accounts, err = readAccounts(o.accounts); err != nil {
			return err
		}
	}

	forms, err := readReport(o.replay, stderr)
	if err != nil {
		return err
	}

	sim := pipedreamtest.New(append(forms, o.simulated()...)...)
	defer sim.Close()
	sim.SetOAuthClient(o.clientID, o.clientSecret, time.Hour)
	sim.SetLinkPage(o.linkPage())
	for _, a := range accounts {
		sim.SetAccount(a)
	}

	// A file from an earlier run would send readers to a server that is gone.
	if err := removeReady(o.readyFile); err != nil {
		return err
	}
	l, err := pipedreamtest.ListenLoopback(o.listen)
	if err != nil {
		return err
	}
	var logTo io.Writer
	if o.log {
		logTo = stderr
	}
	srv := &http.Server{Handler: newHandler(sim, logTo), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() { _ = srv.Close() }()

	base := "http://" + l.Addr().String() + "/v1"
	if err := writeReady(o.readyFile, base); err != nil {
		return err
	}
	defer func() { _ = removeReady(o.readyFile) }()
	if err := announce(stdout, base, o); err != nil {
		return err
	}

	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		return shutDown(ctx, srv)
	}
}

// readReport returns the options for the forms in the report of -replay, and says which of them there are no options for.
func readReport(name string, stderr io.Writer) ([]pipedreamtest.Option, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Open(name) //nolint:gosec // the file is for the caller to choose
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	opts, left, err := pipedreamtest.Replay(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, form := range left {
		_, _ = fmt.Fprintln(stderr, "pipedream-sim: not replayed:", form)
	}
	return opts, nil
}

// announce prints the base URL and the secrets that were generated for this run. Those that were given are already
// known.
func announce(w io.Writer, base string, o options) error {
	text := "# Simulated Pipedream API, for tests and demos only\nbase_url=" + base + "\n"
	if o.madeKey {
		text += "api_key=" + o.apiKey + "\n"
	}
	if o.madeClient {
		text += "client_id=" + o.clientID + "\nclient_secret=" + o.clientSecret + "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

// shutDown gives running requests some time to finish. ctx has already ended, so its end does not cut this short.
func shutDown(ctx context.Context, srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// writeReady writes the base URL to a file, which appears with its complete content. It does nothing if there is no
// name.
func writeReady(name, base string) (err error) {
	if name == "" {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.WriteString(base + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// removeReady removes that file if it exists.
func removeReady(name string) error {
	if name == "" {
		return nil
	}
	err := os.Remove(name) //nolint:gosec // the file is for the caller to choose
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
