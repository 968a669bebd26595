# Vault Agent answers programs on this machine that have no Vault token of their own:
#
#   vault agent -config=agent-proxy.hcl
#   curl http://127.0.0.1:8100/v1/pipedream/static-creds/apn_XehyZPr
#
# Agent's cache makes no difference: it keeps renewable leases only, and leases of this engine are not renewable. So Agent
# forwards every read, and programs that read often should read static-creds, which creates no lease.

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
}

api_proxy {
  use_auto_auth_token = true
}

cache {}

listener "tcp" {
  address     = "127.0.0.1:8100"
  tls_disable = true
}
