// Package acceptance tests the built plugin inside a real Vault server, against a simulated Pipedream: what a client
// sees over HTTP, what the audit log and the server's log hold, and what survives a restart.
//
// The tests need two programs, which the Makefile builds: Vault (VAULT_BIN, by default bin/vault) and the plugin
// (PLUGIN_BIN, by default bin/race/vault-plugin-secrets-pipedream). "make test-acceptance" builds both and runs the tests.
//
// Most tests share one server and have their own mount and their own simulated Pipedream. Tests that restart, seal or
// break a server have a server of their own.
package acceptance
