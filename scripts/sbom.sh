#!/usr/bin/env bash
# Writes the SBOM of a program, made from the list of modules in the program itself. It leaves out the checksums of
# cyclonedx-gomod, which depend on the machine.
# usage: scripts/sbom.sh VERSION PROGRAM OUTPUT
set -euo pipefail

cyclonedx-gomod bin -json -std -licenses -noserial -notimestamp -version "$1" "$2" |
  sed '/"tools": \[/,/"component": {/{/"hashes": \[/,/\],/d;}' > "$3"
