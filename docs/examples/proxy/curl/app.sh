#!/usr/bin/env bash
# Calls an app again and again as an external user, through Pipedream's proxy, with a Connect token from Vault.
#
# It needs curl 7.76 or later, jq, VAULT_ADDR and VAULT_TOKEN in its environment, and a policy with
#   path "pipedream/static-creds/slack" { capabilities = ["read"] }
#   path "pipedream/refresh/slack" { capabilities = ["update"] }
set -euo pipefail

role=slack
app=https://slack.com/api/auth.test

secret='' again=0 # what Vault handed out last, and when to read again

# The headers go through a descriptor: what is on a command line, everybody on the machine can see.
vault() { # method, path
  curl --silent --show-error --fail-with-body --max-time 60 --request "$1" \
    --header @<(printf 'X-Vault-Token: %s' "$VAULT_TOKEN") "$VAULT_ADDR/v1/pipedream/$2"
}

read_token() {
  local now=$SECONDS answer
  answer=$(vault GET "static-creds/$role") || { printf '%s\n' "$answer" >&2; return 1; }
  secret=$(jq -c .data <<<"$answer")
  again=$((now + $(jq .ttl <<<"$secret")))
}

field() { jq -r ".$1" <<<"$secret"; }

# use sends the request through the proxy, and prints the status of the answer.
use() {
  local url64
  url64=$(printf %s "$app" | base64 | tr -d '\n' | tr '+/' '-_')
  curl --silent --show-error --max-time 30 --output /dev/null --write-out '%{http_code}' --get \
    --data-urlencode "external_user_id=$(field pipedream_external_user_id)" --data-urlencode "account_id=$(field pipedream_account_id)" \
    --header @<(printf 'Authorization: Bearer %s' "$(field connect_token)") --header "x-pd-environment: $(field pipedream_environment)" \
    "$(field pipedream_api_url)/connect/$(field pipedream_project_id)/proxy/$url64"
}

# call does the work once. When the token or the account is gone, it tries once more, with what there is now.
call() {
  ((SECONDS < again)) || read_token || return 1
  local status
  status=$(use) || return 1
  if [[ $status == 401 || $status == 404 ]]; then
    vault POST "refresh/$role" >/dev/null && read_token || return 1
    status=$(use) || return 1
  fi
  [[ $status == 200 ]] || { echo "the proxy answers $status" >&2; return 1; }
}

while :; do
  if call; then sleep 1; else sleep 3; fi
done
