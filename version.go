// Package pipedream is a HashiCorp Vault secrets engine that hands out the
// credentials of Pipedream's connected accounts as leases.
package pipedream

// version is set by the linker. Vault accepts a canonical one alone.
var version = "v0.0.0-dev"

// Version is the plugin's version, such as v1.2.3.
func Version() string { return version }
