# Vault Agent keeps a token for Prometheus, which reads the engine's metrics with it:
#
#   vault write auth/approle/role/prometheus token_policies=pipedream-metrics token_no_default_policy=true token_ttl=1h
#   vault agent -config=agent-prometheus.hcl
#
# The token can only read the metrics. It cannot even renew itself, so Agent logs in again before it expires.

vault {
  address = "https://vault.example.com:8200"
}

auto_auth {
  method "approle" {
    mount_path = "auth/approle"
    config = {
      role_id_file_path                   = "/etc/vault-agent/role-id"
      secret_id_file_path                 = "/etc/vault-agent/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }

  sink "file" {
    config = {
      path = "/etc/prometheus/vault-token"
      mode = 0640
    }
  }
}
