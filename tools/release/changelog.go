package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// section is a heading of CHANGELOG.md, such as "## [1.2.3] - 2026-01-31".
var section = regexp.MustCompile(`(?m)^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?.*$`)

// releaseNotes returns the section of CHANGELOG.md for a version, and its date.
func releaseNotes(changelog, version string) (date time.Time, notes string, err error) {
	for _, heading := range section.FindAllStringSubmatchIndex(changelog, -1) {
		if changelog[heading[2]:heading[3]] != strings.TrimPrefix(version, "v") {
			continue
		}
		if heading[4] < 0 {
			return date, "", fmt.Errorf("CHANGELOG.md has no date for %s", version)
		}
		if date, err = time.Parse(time.DateOnly, changelog[heading[4]:heading[5]]); err != nil {
			return date, "", fmt.Errorf("CHANGELOG.md: %w", err)
		}
		rest := changelog[heading[1]:]
		if next := section.FindStringIndex(rest); next != nil {
			rest = rest[:next[0]]
		}
		return date, fmt.Sprintf("# %s\n\n%s\n", version, strings.TrimSpace(rest)), nil
	}
	return date, "", fmt.Errorf("CHANGELOG.md has no section for %s, such as ## [%s] - 2026-01-31",
		version, strings.TrimPrefix(version, "v"))
}
