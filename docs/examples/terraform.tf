# Terraform or OpenTofu reads the token of a connected account for another provider. An ephemeral resource is read for each
# plan and each apply, and is in neither the plan nor the state. It needs hashicorp/vault 5.8.0, and Terraform 1.10 or
# OpenTofu 1.11, or later versions.
#
# The provider creates a child of the Vault token that it is given, so the policy needs
#   path "pipedream/static-creds/apn_XehyZPr" { capabilities = ["read"] }
#   path "auth/token/create" { capabilities = ["update"] }

terraform {
  required_version = ">= 1.10"
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.8.0"
    }
    github = {
      source  = "integrations/github"
      version = ">= 6.0"
    }
  }
}

provider "vault" {
  address = "https://vault.example.com:8200"
}

ephemeral "vault_generic_secret" "github" {
  path = "pipedream/static-creds/apn_XehyZPr"
}

provider "github" {
  token = ephemeral.vault_generic_secret.github.data["oauth_access_token"]
}

# The older way leaves the token in the state, in plain text, for everybody who can read the state:
#
#   data "vault_generic_secret" "github" {
#     path                  = "pipedream/static-creds/apn_XehyZPr"
#     with_lease_start_time = false
#   }
#
# The token is then at data.vault_generic_secret.github.data["oauth_access_token"].
