# Vault Agent runs a program with the token of a connected account in its environment, and restarts it when the token
# changes:
#
#   vault agent -config=agent-env.hcl
#
# Put only what the program needs into templates: a change in any of them restarts it, 2 seconds later.

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

env_template "GITHUB_TOKEN" {
  contents             = "{{ with secret \"pipedream/creds/apn_XehyZPr\" }}{{ .Data.oauth_access_token }}{{ end }}"
  error_on_missing_key = true
}

exec {
  command                   = ["/usr/local/bin/app"]
  restart_on_secret_changes = "always"
  restart_stop_signal       = "SIGTERM"
}
