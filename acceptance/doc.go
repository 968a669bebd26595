// Package acceptance tests the built plugin inside a real Vault server, against a simulated Pipedream: what a client
// sees over HTTP, what the audit log and the server's log hold, and what survives a restart.
//
// The tests need two programs, which the Makefile builds: Vault (VAULT_BIN, by default bin/vault) and the plugin
// (PLUGIN_BIN, by default bin/race/vault-plugin-secrets-pipedream). "make test-acceptance" does all of it.
//
// Most tests share one server, each with a mount and a simulated Pipedream of its own. A test that restarts, seals or
// breaks its server has that to itself too.
package acceptance
