# One server of a cluster with raft storage. Replace the addresses, the node's id and the certificates.

ui           = true
cluster_name = "vault"

# The plugin talks to the server at api_addr, so it must be set.
api_addr     = "https://vault-1.example.com:8200"
cluster_addr = "https://vault-1.example.com:8201"

# The file of each registered plugin must be in this directory on every server.
plugin_directory = "/etc/vault.d/plugins"

# Memory is not locked with raft storage, because its database is mapped into memory. Turn swap off, or encrypt it.
disable_mlock = true

storage "raft" {
  path    = "/opt/vault/data"
  node_id = "vault-1"
}

listener "tcp" {
  address         = "0.0.0.0:8200"
  cluster_address = "0.0.0.0:8201"
  tls_cert_file   = "/etc/vault.d/tls/server.pem"
  tls_key_file    = "/etc/vault.d/tls/server.key"
}

telemetry {
  disable_hostname          = true
  prometheus_retention_time = "24h"
}
