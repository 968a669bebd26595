package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// results is what a run of make bench measured.
type results struct {
	reads       []read
	memory      []footprint // resident, of the plugin's process
	heap        []footprint
	coldFleets  []coldFleet
	steadyState []steadyState
}

type read struct {
	Name    string  `json:"name"`
	Engine  figures `json:"engine"`
	Nothing figures `json:"nothing"`
}

type figures struct {
	Rounds []float64 `json:"rounds"` // reads per second of each
	Rate   float64   `json:"rate"`   // their median
	P99ms  float64   `json:"p99_ms"`
}

type footprint struct {
	Accounts int     `json:"accounts"`
	Bytes    float64 `json:"bytes"`
}

func (f footprint) mib() float64 { return f.Bytes / (1 << 20) }

type coldFleet struct {
	List        bool    `json:"list"` // else the list was refused
	Accounts    int     `json:"accounts"`
	Connections int     `json:"connections"`
	Requests    int     `json:"requests"`
	Seconds     float64 `json:"seconds"`
}

type steadyState struct {
	Accounts      int     `json:"accounts"`
	Spread        float64 `json:"spread_minutes"`         // over which the accounts were connected
	RefreshBefore float64 `json:"refresh_before_minutes"` // the end of a token
	Shuffled      bool    `json:"shuffled"`               // in the list
	PerLife       int     `json:"per_life"`
	Most          int     `json:"most_per_minute"`
	ByMinute      []int   `json:"by_minute"`
}

func (s steadyState) name() string {
	connected := "connected at once"
	if s.Spread > 0 {
		connected = fmt.Sprintf("connected over %.0f minutes", s.Spread)
	}
	name := fmt.Sprintf("%s, refreshed %.0f minutes before they expire", connected, s.RefreshBefore)
	if s.Shuffled {
		name += ", no order in the list"
	}
	return name
}

// The files that make bench leaves in one directory.
const (
	readsFile    = "reads.json"   // bench
	engineFile   = "engine.txt"   // go test -bench
	requestsFile = "requests.txt" // go test -v
)

// load reads the results of a run. It fails where a part of them is missing.
func load(dir string) (r results, err error) {
	for name, read := range map[string]func(io.Reader) error{
		readsFile: r.readBench, engineFile: r.readBenchmarks, requestsFile: r.readTests,
	} {
		f, err := os.Open(filepath.Join(dir, name)) //nolint:gosec // what make bench left
		if err != nil {
			return r, err
		}
		err = read(f)
		_ = f.Close()
		if err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
	}
	for what, n := range map[string]int{
		"reads": len(r.reads), "resident memory": len(r.memory), "heap": len(r.heap),
		"cold fleets": len(r.coldFleets), "the steady state": len(r.steadyState),
	} {
		if n == 0 {
			return r, fmt.Errorf("no results of %s in %s", what, dir)
		}
	}
	return r, nil
}

func (r *results) readBench(in io.Reader) error {
	var all struct {
		Reads  []read      `json:"reads"`
		Memory []footprint `json:"memory"`
	}
	if err := json.NewDecoder(in).Decode(&all); err != nil {
		return err
	}
	for _, read := range all.Reads {
		if len(read.Engine.Rounds) == 0 || len(read.Engine.Rounds) != len(read.Nothing.Rounds) {
			return fmt.Errorf("%s: the rounds of the two plugins do not match", read.Name)
		}
	}
	r.reads, r.memory = all.Reads, all.Memory
	return nil
}

// readBenchmarks reads the heap of BenchmarkMemory. Where it ran several times,
// each counts.
func (r *results) readBenchmarks(in io.Reader) error {
	reader := benchfmt.NewReader(in, engineFile)
	for reader.Scan() {
		result, ok := reader.Result().(*benchfmt.Result)
		if !ok {
			continue // about units, or no benchmark's line
		}
		size, ok := strings.CutPrefix(string(result.Name.Full()), "Memory/")
		if !ok {
			continue
		}
		size, _, _ = strings.Cut(size, "-") // the number of processors
		accounts, err := strconv.Atoi(size)
		if err != nil {
			return err
		}
		mib, ok := result.Value("MiB")
		if !ok {
			return fmt.Errorf("no MiB in the result of %s", result.Name)
		}
		r.heap = append(r.heap, footprint{accounts, mib * (1 << 20)})
	}
	return reader.Err()
}

// readTests reads the attributes of tests from their log: a line each, as in
// "=== ATTR  TestName key value".
func (r *results) readTests(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "=== ATTR  ")
		if !ok {
			continue
		}
		parts := strings.SplitN(text, " ", 3)
		if len(parts) != 3 {
			return fmt.Errorf("not an attribute: %s", text)
		}
		var err error
		switch value := []byte(parts[2]); parts[1] {
		case "cold-fleet":
			r.coldFleets, err = appendDecoded(r.coldFleets, value)
		case "steady-state":
			r.steadyState, err = appendDecoded(r.steadyState, value)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", parts[0], err)
		}
	}
	r.coldFleets = worst(r.coldFleets)
	slices.SortFunc(r.steadyState, compareSteadyStates)
	return lines.Err()
}

func appendDecoded[T any](to []T, value []byte) ([]T, error) {
	var decoded T
	err := json.Unmarshal(value, &decoded)
	return append(to, decoded), err
}

func compareSteadyStates(a, b steadyState) int {
	shuffled := map[bool]int{true: 1}
	return cmp.Or(cmp.Compare(a.Spread, b.Spread), cmp.Compare(shuffled[a.Shuffled], shuffled[b.Shuffled]))
}

// worst keeps the one with the most requests of the fleets that differ in the
// order of their reads alone, sorted by size and the list before the rest.
func worst(fleets []coldFleet) []coldFleet {
	same := func(a, b coldFleet) int {
		list := map[bool]int{false: 1}
		return cmp.Or(cmp.Compare(list[a.List], list[b.List]), cmp.Compare(a.Accounts, b.Accounts), cmp.Compare(a.Connections, b.Connections))
	}
	slices.SortFunc(fleets, func(a, b coldFleet) int {
		return cmp.Or(same(a, b), cmp.Compare(b.Requests, a.Requests), cmp.Compare(b.Seconds, a.Seconds))
	})
	return slices.CompactFunc(fleets, func(a, b coldFleet) bool { return same(a, b) == 0 })
}
