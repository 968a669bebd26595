// Package pipedream is a HashiCorp Vault secrets engine that hands out the
// credentials of Pipedream's connected accounts as leases.
package pipedream

import (
	"regexp"
	"runtime/debug"
)

// unreleased is the version of a build that says nothing else.
const unreleased = "v0.0.0-dev"

// version is set by the linker, or else by go install. Vault accepts a canonical
// one alone.
var version = unreleased

var canonical = regexp.MustCompile(`^v\d+\.\d+\.\d+([-+].+)?$`)

func init() {
	info, ok := debug.ReadBuildInfo()
	if ok && version == unreleased && canonical.MatchString(info.Main.Version) {
		version = info.Main.Version
	}
}

// Version is the plugin's version, such as v1.2.3.
func Version() string { return version }
