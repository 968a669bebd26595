package credential

import (
	"slices"
	"strings"
)

// ReservedPrefix is put before the name of a credential field that would mean
// something else to a program that reads the secret.
const ReservedPrefix = "credential_"

// reservedFields are the data keys that have a meaning of their own to Vault, its
// clients or this engine, each with the reason. A credential field of that name is
// returned as credential_<name>.
var reservedFields = map[string]string{
	"expires_at":          "this engine's own: when the credential ends",
	"certificate":         "consul-template takes a lease-less secret with it and expiration for a certificate, and times its next read by that",
	"expiration":          "consul-template asserts that it is a number beside a certificate, and panics if not",
	"secret_id":           "consul-template takes the secret for an AppRole secret id and looks for its TTL",
	"secret_id_ttl":       "consul-template asserts that it is a number beside secret_id, and panics if not",
	"rotation_period":     "consul-template and the Vault Secrets Operator time the next read of a lease-less secret by it",
	"rotation_schedule":   "the Vault Secrets Operator takes the secret for one rotated by a schedule",
	"last_vault_rotation": "the Vault Secrets Operator panics if it is no string, and fails if it is no RFC 3339 time",
	"ttl":                 "consul-template asserts that it is a number beside rotation_period, and panics if not",
	"metadata":            "KV version 2: clients take a secret with data and metadata for a versioned one",
	"data":                "KV version 2: clients unwrap it",
	"error":               "Vault takes a response with error alone, or with error and data, for a failure",
	"renewable":           "the cache of Vault Agent and Proxy parses it as a bool, and fails the request if it is none",
	"lease_id":            "vault read -field=lease_id prints the lease's, not the field",
	"lease_duration":      "vault read -field=lease_duration prints the lease's, not the field",
	"lease_renewable":     "the vault command's table shows the lease's under this name",
	"request_id":          "vault read -field=request_id prints the request's, not the field",
	"refresh_interval":    "vault read -field=refresh_interval prints the lease's duration, not the field",
	"_raw":                "the Vault Secrets Operator writes the whole secret into the key _raw, and refuses one that has it",
}

// reservedPrefixes makes every name reserved that begins with one of these.
var reservedPrefixes = map[string]string{
	"http_":      "Vault's HTTP layer takes http_status_code and its like for a raw response, and drops the lease",
	"pipedream_": "this engine's own: the account's id, name and app",
}

// IsReserved reports whether a credential field of that name is returned under
// another one.
func IsReserved(name string) bool {
	if _, ok := reservedFields[name]; ok {
		return true
	}
	for prefix := range reservedPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// renameReserved returns fields with all reserved names replaced. If another field
// already has the new name, the prefix is added once more. So no value is lost, and
// the result never depends on the order of a map.
func renameReserved(fields map[string]string) map[string]string {
	out := make(map[string]string, len(fields))
	var reserved []string
	for name, value := range fields {
		if IsReserved(name) {
			reserved = append(reserved, name)
		} else {
			out[name] = value
		}
	}
	slices.Sort(reserved)
	for _, name := range reserved {
		renamed := ReservedPrefix + name
		for _, taken := out[renamed]; taken; _, taken = out[renamed] {
			renamed = ReservedPrefix + renamed
		}
		out[renamed] = fields[name]
	}
	return out
}
