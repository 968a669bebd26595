# consul-template keeps the tokens of connected accounts in files:
#
#   consul-template -config=consul-template.hcl
#
# Arguments after the path make the read a PUT. The policy then needs "update" as well as "read".

vault {
  address                = "https://vault.example.com:8200"
  vault_agent_token_file = "/run/vault/token" # or VAULT_TOKEN in the environment
  renew_token            = false              # whatever writes the file renews it
}

# With a lease: reads again after 85 to 95 % of it.
template {
  contents             = "{{ with secret \"pipedream/creds/apn_XehyZPr\" }}{{ .Data.oauth_access_token }}{{ end }}"
  destination          = "/run/app/github-token"
  perms                = "0600"
  error_on_missing_key = true
}

# Without a lease: reads again a second after ttl. min_ttl asks for a token with at least ten minutes left.
template {
  contents             = "{{ with secret \"pipedream/static-creds/apn_XehyZPr\" \"min_ttl=10m\" }}{{ .Data.oauth_access_token }}{{ end }}"
  destination          = "/run/app/github-token-for-long-work"
  perms                = "0600"
  error_on_missing_key = true
}
