# Vault Agent keeps the token of a connected account in a file:
#
#   vault agent -config=agent-template.hcl
#
# It reads again after 85 to 95 % of the lease, and writes the file when the token has changed.

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

template {
  contents             = "{{ with secret \"pipedream/creds/apn_XehyZPr\" }}{{ .Data.oauth_access_token }}{{ end }}"
  destination          = "/run/app/github-token"
  perms                = "0600"
  error_on_missing_key = true
}
