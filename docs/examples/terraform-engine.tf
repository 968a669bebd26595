# Terraform or OpenTofu manages the engine itself: its mount, its config and its roles. The API key is in neither the plan
# nor the state. That needs hashicorp/vault 5.10.0, and Terraform 1.10 or OpenTofu 1.11, or later versions.
#
#   TF_VAR_pipedream_api_key=pd_… terraform apply
#
# The policy of the Vault token. A plan needs it too:
#   path "sys/mounts" { capabilities = ["read"] }
#   path "sys/mounts/pipedream" { capabilities = ["create", "read", "update", "delete"] }
#   path "sys/mounts/pipedream/tune" { capabilities = ["read", "update"] }
#   path "pipedream/config" { capabilities = ["create", "update"] }
#   path "pipedream/roles/*" { capabilities = ["create", "read", "update", "delete"] }
#   path "auth/token/create" { capabilities = ["update"] }

terraform {
  required_version = ">= 1.10"
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.10.0"
    }
  }
}

provider "vault" {
  address = "https://vault.example.com:8200"
}

variable "pipedream_api_key" {
  type      = string
  ephemeral = true
  sensitive = true
}

resource "vault_mount" "pipedream" {
  path = "pipedream"
  type = "vault-plugin-secrets-pipedream"
}

# An ephemeral resource is written at each plan and each apply, and never compared. So a change that somebody else makes to
# config does not show as drift, but is overwritten. mount_id makes the first write wait for the mount. The resource is then
# written when something that depends on it is created, such as the role below. If nothing depends on it, it is not written.
#
# The resource vault_generic_endpoint would keep the key in the state. If you removed it, it would stay in the backup.
ephemeral "vault_generic_endpoint" "config" {
  mount_id  = vault_mount.pipedream.id
  path      = "pipedream/config"
  data_json = jsonencode({ api_key = var.pipedream_api_key })
}

# Give durations as numbers of seconds. Vault returns seconds, so "15m" would show as a change in every plan. So would every
# field that the response has and data_json does not, without ignore_absent_fields.
resource "vault_generic_endpoint" "billing" {
  path                 = "${vault_mount.pipedream.path}/roles/billing"
  data_json            = jsonencode({ account_id = "apn_XehyZPr", ttl = 900 })
  ignore_absent_fields = true

  depends_on = [ephemeral.vault_generic_endpoint.config]
}
