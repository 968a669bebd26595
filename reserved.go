package pipedream

import (
	"slices"
	"strings"
)

// reservedPrefix goes before the name of a credential field that would
// otherwise mean something else to a program that reads the secret.
const reservedPrefix = "credential_"

// reservedFields are the data keys that Vault, its clients or this engine
// give a meaning of their own, each with the reason. A credential field with
// such a name is returned as credential_<name>.
var reservedFields = map[string]string{
	"expires_at":          "this engine's own: when the credential ends",
	"certificate":         "consul-template takes the secret for a PKI certificate and parses the value as PEM",
	"expiration":          "consul-template asserts that it is a number beside a certificate, and panics if not",
	"secret_id":           "consul-template takes the secret for an AppRole secret id and looks for its TTL",
	"secret_id_ttl":       "consul-template asserts that it is a number beside secret_id, and panics if not",
	"rotation_period":     "consul-template and the Vault Secrets Operator time the next read of a lease-less secret by it",
	"rotation_schedule":   "consul-template and the Vault Secrets Operator take the secret for one rotated by a schedule",
	"last_vault_rotation": "the Vault Secrets Operator reads it to see whether a lease-less secret was rotated",
	"ttl":                 "consul-template asserts that it is a number beside rotation_period, and panics if not",
	"metadata":            "KV version 2: clients take a secret with data and metadata for a versioned one",
	"data":                "KV version 2: clients unwrap it",
	"error":               "Vault takes a response whose only key is error for a failure",
	"renewable":           "part of Vault's response envelope, which clients flatten into the data",
	"lease_id":            "part of Vault's response envelope, which clients flatten into the data",
	"lease_duration":      "part of Vault's response envelope, which clients flatten into the data",
	"request_id":          "part of Vault's response envelope, which clients flatten into the data",
	"refresh_interval":    "Vault's KV version 1 sets the lease duration by it, and clients follow",
	"_raw":                "the Vault Secrets Operator writes the whole secret into the key _raw",
}

// reservedPrefixes are reserved whatever follows them.
var reservedPrefixes = map[string]string{
	"http_":      "Vault's HTTP layer takes http_status_code and its like for a raw response, and drops the lease",
	"pipedream_": "this engine's own: the account's id, name and app",
}

func isReserved(name string) bool {
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

// renameReserved returns fields with every reserved name replaced. A new name
// that another field already has gets the prefix once more, so that no value
// is lost and the outcome never depends on the order of a map.
func renameReserved(fields map[string]string) map[string]string {
	out := make(map[string]string, len(fields))
	var reserved []string
	for name, value := range fields {
		if isReserved(name) {
			reserved = append(reserved, name)
		} else {
			out[name] = value
		}
	}
	slices.Sort(reserved)
	for _, name := range reserved {
		renamed := reservedPrefix + name
		for _, taken := out[renamed]; taken; _, taken = out[renamed] {
			renamed = reservedPrefix + renamed
		}
		out[renamed] = fields[name]
	}
	return out
}
