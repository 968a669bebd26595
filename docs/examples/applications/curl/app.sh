#!/usr/bin/env bash
# Calls an API again and again with the token of a connected account. It has the token from Vault, by way of curl and jq,
# reads it again before the lease ends, and has it replaced when the API refuses it.
#
# It needs VAULT_ADDR and VAULT_TOKEN in its environment, and a policy with
#   path "pipedream/creds/apn_XehyZPr" { capabilities = ["read"] }
#   path "pipedream/refresh/apn_XehyZPr" { capabilities = ["update"] }
set -euo pipefail

account=apn_XehyZPr
api=https://api.github.com/user

token='' again=0 end=0 # the token that Vault handed out last, when to read again, and when its lease ends

# The headers go through a descriptor: what is on a command line, everybody on the machine can see.
vault() { # method, path
  curl --silent --show-error --fail-with-body --max-time 60 --request "$1" \
    --header @<(printf 'X-Vault-Token: %s' "$VAULT_TOKEN") "$VAULT_ADDR/v1/pipedream/$2"
}

# read_token leaves the token alone when Vault has none to give, and prints the error's text.
read_token() {
  local now=$SECONDS answer lease
  answer=$(vault GET "creds/$account") || { printf '%s\n' "$answer" >&2; return 1; }
  lease=$(jq -r .lease_duration <<<"$answer")
  token=$(jq -r .data.oauth_access_token <<<"$answer")
  again=$((now + lease * 8 / 10)) end=$((now + lease))
}

# use does the work with the token, and prints the API's status.
use() {
  curl --silent --show-error --max-time 30 --output /dev/null --write-out '%{http_code}' \
    --header @<(printf 'Authorization: Bearer %s' "$token") "$api"
}

# call does the work once. When the API refuses the token it tries once more, with another.
call() {
  if ((SECONDS >= again)) && ! read_token; then
    ((SECONDS < end)) || return 1
    again=$((SECONDS + 1)) # go on with the token there is
  fi
  local status
  status=$(use) || return 1
  if [[ $status == 401 ]]; then
    vault POST "refresh/$account" >/dev/null && read_token || return 1
    status=$(use) || return 1
  fi
  [[ $status == 200 ]] || { echo "the API answers $status" >&2; return 1; }
}

while :; do
  if call; then sleep 1; else sleep 10; fi
done
