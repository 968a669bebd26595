#!/usr/bin/env bash
# Prints the section of CHANGELOG.md for a version, such as v1.2.3, or its date.
# usage: scripts/release-notes.sh [-date] VERSION
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

what=notes
if [[ $1 == -date ]]; then what=date; shift; fi
version=$1
heading=$(grep -F -m1 "## [${version#v}]" CHANGELOG.md) || {
  echo "CHANGELOG.md has no section for $version, such as ## [${version#v}] - 2026-01-31" >&2
  exit 1
}
date=${heading##* - }
if [[ ! $date =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]]; then
  echo "CHANGELOG.md has no date for $version" >&2
  exit 1
fi
if [[ $what == date ]]; then
  echo "$date"
  exit
fi
printf '# %s\n\n' "$version"
awk -v heading="$heading" '
  $0 == heading { found = 1; next }
  found && (/^## / || /^\[[^]]+\]: /) { exit }
  found && (NF || begun) { begun = 1; for (; blank > 0; blank--) print ""; if (NF) print; else blank = 1 }
' CHANGELOG.md
