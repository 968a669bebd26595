package main

import (
	"strings"
	"testing"
	"time"
)

const changelog = `# Changelog

## [Unreleased]

- not out yet

## [1.10.0] - 2026-03-01

### Added

- ten

## [1.1.0] - 2026-02-01

- one

[1.1.0]: https://example.com
`

func TestReleaseNotesAreTheSectionOfTheVersion(t *testing.T) {
	date, notes, err := releaseNotes(changelog, "v1.10.0")
	if err != nil {
		t.Fatal(err)
	}
	if want := "# v1.10.0\n\n### Added\n\n- ten\n"; notes != want {
		t.Errorf("the notes are %q, not %q", notes, want)
	}
	if want := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC); !date.Equal(want) {
		t.Errorf("the date is %s, not %s", date, want)
	}
}

func TestReleaseNeedsNotesAndADate(t *testing.T) {
	for version, want := range map[string]string{
		"v1.0.0":     "no section for v1.0.0",
		"v1.1":       "no section for v1.1",
		"Unreleased": "no date for Unreleased",
	} {
		if _, _, err := releaseNotes(changelog, version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, not one with %q", version, err, want)
		}
	}
}
