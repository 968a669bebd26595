// Package pipedream is a HashiCorp Vault secrets engine that hands out the
// credentials of Pipedream's connected accounts as leases.
package pipedream

import (
	"regexp"
	"runtime/debug"
)

// unreleased is the version of a build without another one.
const unreleased = "v0.0.0-dev"

// version is set by the linker or by go install. Vault accepts only a canonical
// version.
var version = unreleased

var canonical = regexp.MustCompile(`^v\d+\.\d+\.\d+([-+].+)?$`)

func init() {
	info, ok := debug.ReadBuildInfo()
	if ok && version == unreleased && canonical.MatchString(info.Main.Version) {
		version = info.Main.Version
	}
}

// Version returns the plugin's version, such as v1.2.3.
func Version() string { return version }
