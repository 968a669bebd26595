package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// writeTables writes the figures as the tables of docs/performance.md.
func writeTables(w io.Writer, r results) {
	row := func(cells ...string) { _, _ = fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	head := func(cells ...string) {
		_, _ = fmt.Fprintln(w)
		row(cells...)
		row(strings.Split(strings.Repeat("---,", len(cells)-1)+"---", ",")...)
	}

	head("read", "engine /s", "do-nothing /s", "ratio", "engine p99", "do-nothing p99", "ratio")
	for _, read := range r.reads {
		path, rest, _ := strings.Cut(read.Name, ", ")
		row(fmt.Sprintf("`%s`, %s", path, rest),
			fmt.Sprintf("%.0f", read.Engine.Rate), fmt.Sprintf("%.0f", read.Nothing.Rate), fmt.Sprintf("%.2f", read.rateRatio()),
			fmt.Sprintf("%.1f ms", read.Engine.P99ms), fmt.Sprintf("%.1f ms", read.Nothing.P99ms), fmt.Sprintf("%.2f", read.p99Ratio()))
	}
	head("accounts", "connections", "requests", "time", "")
	for _, c := range r.coldFleets {
		note := ""
		if !c.List {
			note = "the list is refused"
		}
		row(thousands(c.Accounts), thousands(c.Connections), thousands(c.Requests), fmt.Sprintf("%.1f s", c.Seconds), note)
	}
	head("in one life of the tokens", "requests", "most in a minute")
	for _, s := range r.steadyState {
		row(s.name(), strconv.Itoa(s.PerLife), strconv.Itoa(s.Most))
	}
	head("accounts that were read", "heap", "resident memory of the plugin process")
	for _, accounts := range sizes(r.heap, r.memory) {
		row(thousands(accounts), size(r.heap, accounts), size(r.memory, accounts))
	}
}

func (r read) rateRatio() float64 { return r.Engine.Rate / r.Nothing.Rate }
func (r read) p99Ratio() float64  { return r.Engine.P99ms / r.Nothing.P99ms }

func size(all []footprint, accounts int) string {
	for _, f := range all {
		if f.Accounts == accounts {
			return fmt.Sprintf("%.0f MiB", f.mib())
		}
	}
	return ""
}

// sizes are the numbers of accounts that any of the footprints is of.
func sizes(of ...[]footprint) []int {
	all := map[int]bool{}
	for _, f := range slices.Concat(of...) {
		all[f.Accounts] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// thousands writes a number as the page does: 10,000.
func thousands(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
