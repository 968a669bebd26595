// Command plots draws what make bench measured, as the pictures of
// docs/performance.md, and prints the tables of that page from the same run.
//
//	plots <directory of the results> <directory of the pictures>
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
	if len(args) != 2 {
		return errors.New("usage: plots <directory of the results> <directory of the pictures>")
	}
	r, err := load(args[0])
	if err != nil {
		return err
	}
	if err := os.MkdirAll(args[1], 0o755); err != nil { //nolint:gosec // pictures for all to see
		return err
	}
	for name, draw := range map[string]func(results) (picture, error){
		"warm-reads.svg": drawReads, "cold-fleet.svg": drawColdFleets, "steady-state.svg": drawSteadyState, "memory.svg": drawMemory,
	} {
		p, err := draw(r)
		if err == nil {
			err = p.save(filepath.Join(args[1], name))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	writeTables(os.Stdout, r)
	return nil
}
