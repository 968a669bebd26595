// Command plots draws what make bench measured, as the pictures of
// docs/performance.md, and prints the tables of that page from the same run. It
// also draws a Grafana dashboard, with the figures that make dashboard recorded.
//
//	plots <directory of the results> <directory of the pictures>
//	plots <dashboard> <figures> <picture>
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch len(args) {
	case 2:
		return runResults(args[0], args[1])
	case 3:
		return runDashboard(args[0], args[1], args[2])
	}
	return errors.New("usage: plots <directory of the results> <directory of the pictures>, or plots <dashboard> <figures> <picture>")
}

func runResults(measured, pictures string) error {
	r, err := load(measured)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(pictures, 0o755); err != nil { //nolint:gosec // pictures for all to see
		return err
	}
	for name, draw := range map[string]func(results) (picture, error){
		"warm-reads.svg": drawReads, "cold-fleet.svg": drawColdFleets, "steady-state.svg": drawSteadyState, "memory.svg": drawMemory,
	} {
		p, err := draw(r)
		if err == nil {
			err = p.save(filepath.Join(pictures, name))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	writeTables(os.Stdout, r)
	return nil
}
