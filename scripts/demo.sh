#!/usr/bin/env bash
#
# Shows the plugin at work in a real Vault server, on a simulated Pipedream: what a lease looks like, that reads are
# served from the cache, that policies and the audit log hold, that one role gives each user their own account, that a
# user who has none connects it through Vault, and that Vault Agent replaces a token in a file.
#
#   make demo            on the simulated Pipedream
#   KEEP=1 make demo     leaves everything running at the end
#
# DEMO_SERVER=path runs it on another server than bin/vault, OpenBao say, whose command line is the same.
#
# With PIPEDREAM_API_KEY and PIPEDREAM_ACCOUNT_ID set it runs on the real Pipedream, or on the API at PIPEDREAM_BASE_URL,
# and leaves out what only the simulated one can show.
#
# Each thing that is said is also checked: the first that does not hold ends the demo with an error. Everything that was
# started is stopped at the end, by its process id.
set -Eeuo pipefail
trap 'printf "%s: line %d: %s: ended with code %d\n" "$0" "$LINENO" "$BASH_COMMAND" "$?" >&2' ERR

# Times are compared as text.
export LC_ALL=C

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly BIN=$PWD/bin
readonly PLUGIN=vault-plugin-secrets-pipedream
readonly SIM_KEY=pdkey_of_the_demo
# Pipedream replaces a token a twelfth of its life before its end. With less than 2 s of that, Agent reads twice within a
# second, takes the second answer for the first, and the new token stays out of the file.
readonly SHORT_LIFE=25s

main() {
  look_for_programs
  choose_pipedream
  prepare
  [[ $simulated ]] && start_simulator
  start_vault
  enable_plugin
  configure
  read_credentials
  [[ $simulated ]] && read_static_credentials
  list_accounts
  check_policy
  [[ $simulated ]] && share_one_role
  [[ $simulated ]] && connect_an_account
  [[ $simulated ]] && run_agent
  check_logs
  finish
}

# --- what is shown ---------------------------------------------------------------------------------------------------

title() {
  chapter=$((${chapter:-0} + 1))
  printf '\n%s%d. %s%s\n' "$bold" "$chapter" "$*" "$plain"
}

say() {
  printf '%s\n' "$*"
}

# show prints a command as it would be typed.
show() {
  printf '%s$ %s%s\n' "$cyan" "$*" "$plain"
}

# run shows a command, runs it, and keeps all it printed in $out.
run() {
  show "$@"
  capture "$@"
  printf '%s\n' "$out"
}

# run_secret is run for a command that prints credentials: they are shortened on the screen, and whole in $out.
run_secret() {
  show "$@"
  capture "$@"
  shorten "$out"
}

capture() {
  out=$("$@" 2>&1) || fail "$1 ended with code $?:"$'\n'"$out"
}

# promise says what was just seen to hold.
promise() {
  printf '%s  ok  %s%s\n' "$green" "$*" "$plain"
}

fail() {
  printf '\n%sfailed: %s%s\n' "$red" "$*" "$plain" >&2
  local log=${work:-}/vault.log
  if [[ -s $log ]] && grep -q -E '\[(WARN|ERROR)\]' "$log"; then
    printf '\nwarnings and errors in the log of Vault:\n' >&2
    grep -E '\[(WARN|ERROR)\]' "$log" | tail -n 15 >&2
  fi
  exit 1
}

# shorten prints the table of a secret with each value of the app's own cut. A line that is no row of it is the rest of
# a value of many lines, and left out.
shorten() {
  local line
  while IFS= read -r line; do
    if [[ $line =~ ^([A-Za-z0-9_.-]+)(\ +)(.*)$ ]]; then
      case ${BASH_REMATCH[1]} in
        Key | ---* | lease_* | expires_at | pipedream_* | ttl | rotation_period | last_vault_rotation) ;;
        *) line=${BASH_REMATCH[1]}${BASH_REMATCH[2]}$(cut_short "${BASH_REMATCH[3]}") ;;
      esac
      printf '%s\n' "$line"
    fi
  done <<<"$1"
}

# cut_short leaves enough of a simulated token to tell it from another, and hardly anything of a real one.
cut_short() {
  if [[ -z $simulated ]]; then
    printf '%s…' "${1:0:${#1} > 16 ? 4 : 0}"
  elif ((${#1} > 22)); then
    printf '%s…' "${1:0:22}"
  else
    printf '%s' "$1"
  fi
}

# field prints a value of the table in $out.
field() {
  local key value
  while read -r key value; do
    if [[ $key == "$1" ]]; then
      printf '%s' "$value"
      return
    fi
  done <<<"$out"
}

# --- what is started and stopped -------------------------------------------------------------------------------------

look_for_programs() {
  bold='' cyan='' green='' red='' plain=''
  if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    bold=$'\e[1m' cyan=$'\e[36m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
  fi
  server=${DEMO_SERVER:-$BIN/vault}
  local program
  for program in "$server" "$BIN/$PLUGIN" "$BIN/pipedream-sim"; do
    [[ -x $program ]] || fail "$program is not there; build everything and run the demo with: make demo"
  done
  PATH=$BIN:$PATH
}

choose_pipedream() {
  simulated=yes api_key=$SIM_KEY account=apn_github base_url=''
  if [[ -n ${PIPEDREAM_API_KEY:-} || -n ${PIPEDREAM_ACCOUNT_ID:-} ]]; then
    [[ -n ${PIPEDREAM_API_KEY:-} && -n ${PIPEDREAM_ACCOUNT_ID:-} ]] ||
      fail "set both PIPEDREAM_API_KEY and PIPEDREAM_ACCOUNT_ID, or neither"
    simulated='' api_key=$PIPEDREAM_API_KEY account=$PIPEDREAM_ACCOUNT_ID base_url=${PIPEDREAM_BASE_URL:-}
  fi
  # Programs that are started here have no business with the key, save the one that is given it by standard input.
  unset PIPEDREAM_API_KEY PIPEDREAM_ACCOUNT_ID
}

# prepare makes the directory of the demo, and forgets the Vault that the user may be logged in to.
prepare() {
  local name
  for name in "${!VAULT_@}"; do
    unset "$name"
  done
  pids=() started=$SECONDS
  work=$(cd "$(mktemp -d "${TMPDIR:-/tmp}/pipedream-demo.XXXXXX")" && pwd -P)
  trap stop_all EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  mkdir "$work/bin" "$work/home" "$work/plugins" "$work/raft"
  ln -s "$server" "$work/bin/vault"
  PATH=$work/bin:$PATH
  export HOME=$work/home
}

# start runs a program in the background, its output in a file, until the demo ends.
start() {
  local log=$1
  shift
  "$@" >>"$log" 2>&1 </dev/null &
  pids+=("$!")
}

stop_all() {
  local status=$? pid
  trap - EXIT
  trap '' HUP INT TERM
  # The last one started is the first one stopped.
  for pid in ${pids[@]+"${pids[@]}"}; do
    pids_reversed="$pid ${pids_reversed:-}"
  done
  for pid in ${pids_reversed:-}; do
    stop "$pid"
  done
  rm -rf "$work"
  exit "$status"
}

stop() {
  local _
  kill "$1" 2>/dev/null || return 0
  for _ in {1..100}; do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -9 "$1" 2>/dev/null || true
}

# wait_for asks until a command succeeds, for as many seconds as its first argument says.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}

start_simulator() {
  title "A simulated Pipedream, and a real Vault server"
  PIPEDREAM_SIM_API_KEY=$SIM_KEY start "$work/sim.log" pipedream-sim -listen 127.0.0.1:0 -ready-file "$work/sim.url" -short-life "$SHORT_LIFE"
  wait_for 10 test -s "$work/sim.url" || fail "the simulator did not start: $(tail -n 5 "$work/sim.log")"
  base_url=$(<"$work/sim.url")
  say "The simulated Pipedream listens on $base_url."
}

start_vault() {
  [[ $simulated ]] || title "A real Vault server"
  local attempt
  for attempt in 1 2 3 4 5; do
    launch_vault "$(free_port)" "$(free_port)" && break
    ((attempt < 5)) || fail "Vault did not start"
  done
  capture vault operator init -key-shares=1 -key-threshold=1
  [[ $out =~ Unseal\ Key\ 1:\ ([^[:space:]]+) ]] || fail "no unseal key"
  printf '%s' "${BASH_REMATCH[1]}" >"$work/unseal.key"
  [[ $out =~ Initial\ Root\ Token:\ ([^[:space:]]+) ]] || fail "no root token"
  printf '%s' "${BASH_REMATCH[1]}" >"$work/root.token"
  capture vault write sys/unseal key="$(<"$work/unseal.key")"
  VAULT_TOKEN=$(<"$work/root.token")
  export VAULT_TOKEN
  wait_for 30 is_active || fail "Vault did not become active"
  capture vault audit enable file file_path="$work/audit.log"
  say "Vault listens on $VAULT_ADDR, with raft storage and an audit log below $work."
}

# launch_vault starts Vault on two ports; it returns 1 where one of them turns out to be taken.
launch_vault() {
  export VAULT_ADDR=http://127.0.0.1:$1
  vault_config "$1" "$2" >"$work/vault.hcl"
  start "$work/vault.log" vault server -config="$work/vault.hcl"
  local pid=${pids[${#pids[@]} - 1]}
  wait_for 30 answers_or_ended "$pid" || fail "Vault does not answer"
  kill -0 "$pid" 2>/dev/null
}

vault_config() {
  cat <<END
storage "raft" {
  path                   = "$work/raft"
  node_id                = "demo"
  performance_multiplier = 1
}
listener "tcp" {
  address         = "127.0.0.1:$1"
  cluster_address = "127.0.0.1:$2"
  tls_disable     = true
}
api_addr         = "http://127.0.0.1:$1"
cluster_addr     = "https://127.0.0.1:$2"
plugin_directory = "$work/plugins"
disable_mlock    = true
log_level        = "trace"
END
  # OpenBao enables audit devices by its configuration, and by its API only where that says so.
  [[ $(vault version) != OpenBao* ]] || printf 'unsafe_allow_api_audit_creation = true\n'
}

# free_port prints a port that nothing listens on just now.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 40000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  printf '%d' "$port"
}

# answers_or_ended: vault status ends with 2 for a server that is sealed, and with 1 for none.
answers_or_ended() {
  local status=0
  kill -0 "$1" 2>/dev/null || return 0
  vault status >/dev/null 2>&1 || status=$?
  ((status != 1))
}

# is_active asks for something that only an active server answers.
is_active() {
  vault secrets list >/dev/null 2>&1
}

# --- the demo --------------------------------------------------------------------------------------------------------

enable_plugin() {
  title "The plugin is registered by its SHA-256, and enabled"
  local sum version
  cp "$BIN/$PLUGIN" "$work/plugins/"
  sum=$(sha256 "$work/plugins/$PLUGIN")
  version=$("$BIN/$PLUGIN" -version)
  run vault plugin register -sha256="$sum" -version="$version" secret "$PLUGIN"
  run vault secrets enable -path=pipedream "$PLUGIN"
}

sha256() {
  local sum
  if command -v sha256sum >/dev/null; then
    sum=$(sha256sum "$1")
  else
    sum=$(shasum -a 256 "$1")
  fi
  printf '%s' "${sum%% *}"
}

configure() {
  title "An operator stores the Pipedream API key once"
  say "It comes by standard input, so that no list of processes and no shell history holds it."
  local command=(vault write pipedream/config api_key=-)
  [[ -z $base_url ]] || command+=(base_url="$base_url")
  run "${command[@]}" < <(printf '%s' "$api_key")
  run vault read pipedream/config
  [[ $out != *"$api_key"* ]] || fail "the config shows the key"
  promise "the key was checked with Pipedream, is stored encrypted, and is never shown again"
}

read_credentials() {
  title "An application reads the credentials of a connected account, twice"
  local first before after
  before=$(requests)
  run_secret vault read "pipedream/creds/$account"
  first=$out
  check_lease
  run_secret vault read "pipedream/creds/$account"
  after=$(requests)
  [[ $(without_lease "$out") == $(without_lease "$first") ]] || fail "the two reads differ"
  [[ $((after - before)) == 1 ]] || fail "$((after - before)) requests went to Pipedream"
  promise "one request went to Pipedream for both reads${simulated:+, by the log of the simulator}"
  remember_secrets
}

# check_lease holds for the read in $out.
check_lease() {
  [[ $(field lease_id) == "pipedream/creds/"* ]] || fail "there is no lease"
  [[ $(field lease_renewable) == false ]] || fail "the lease can be renewed past the end of the token"
  if [[ -z $(field expires_at) ]]; then
    promise "the credentials never expire, so the lease is static_ttl: $(field lease_duration)"
    return
  fi
  local left
  left=$(($(second_of_day "$(field expires_at)") - $(second_of_day "$(now)")))
  # Where the token outlives the day, or the longest lease of the mount, there is nothing as simple to compare.
  if [[ $simulated ]] && (((left + 86400) % 86400 < $(seconds "$(field lease_duration)") - 2)); then
    fail "the lease of $(field lease_duration) is longer than the token's life, which ends at $(field expires_at)"
  fi
  [[ $(field expires_at) > $(now) ]] || fail "the token has ended"
  promise "the lease of $(field lease_duration) ends when the token does: it is $(now), and expires_at is $(field expires_at)"
}

# second_of_day is that of a time like 2026-01-31T09:08:07Z. A number with a leading 0 would be octal without the 10#.
second_of_day() {
  [[ $1 =~ T(..):(..):(..) ]]
  printf '%d' $((10#${BASH_REMATCH[1]} * 3600 + 10#${BASH_REMATCH[2]} * 60 + 10#${BASH_REMATCH[3]}))
}

# seconds is a duration like 1h, 59m56s or 20s as a number.
seconds() {
  [[ $1 =~ ^(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?$ ]]
  printf '%d' $((10#0${BASH_REMATCH[2]} * 3600 + 10#0${BASH_REMATCH[4]} * 60 + 10#0${BASH_REMATCH[6]}))
}

now() {
  date -u +%Y-%m-%dT%H:%M:%SZ
}

# without_lease prints a secret's table without what differs from read to read.
without_lease() {
  grep -v '^lease_' <<<"$1"
}

# requests counts what went to Pipedream for the account: by the simulator's own log, or else by the plugin's counter.
requests() {
  if [[ $simulated ]]; then
    # grep ends with 1 where there are none.
    { simulator_log | grep -o "\"account_id\": *\"$account\"" || true; } | wc -l
  else
    vault read -field=requests pipedream/status
  fi
}

simulator_log() {
  visit "${base_url%/v1}/requests"
}

# visit asks for a page, or sends it the form that is its second argument, and prints the answer.
visit() {
  local address=${1#http://} form=${2:-} method=GET
  local path=/${address#*/}
  address=${address%%/*}
  [[ -z $form ]] || method=POST
  exec 3<>"/dev/tcp/${address%:*}/${address##*:}"
  printf '%s %s HTTP/1.0\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s' \
    "$method" "$path" "$address" "${#form}" "$form" >&3
  cat <&3
  exec 3>&-
}

# remember_secrets keeps the values of the app's own in $out, to look for them in the logs.
remember_secrets() {
  local key value
  while read -r key value; do
    case $key in
      '' | Key | ---* | lease_* | expires_at | pipedream_*) ;;
      *) ((${#value} < 8)) || printf '%s\n' "$value" >>"$work/secrets" ;;
    esac
  done <<<"$out"
}

read_static_credentials() {
  title "An account with an API key, which never expires"
  run_secret vault read pipedream/creds/apn_stripe
  check_lease
  remember_secrets
}

list_accounts() {
  title "Every account that the key sees, without any credentials"
  run vault list -detailed pipedream/accounts
  [[ $out == *"$account"* ]] || fail "$account is not in the list"
}

check_policy() {
  title "A policy for one account refuses every other"
  local other=apn_stripe token
  show "vault policy write one-account -"
  say "path \"pipedream/creds/$account\" { capabilities = [\"read\"] }"
  vault policy write one-account - <<<"path \"pipedream/creds/$account\" { capabilities = [\"read\"] }"
  token=$(vault token create -policy=one-account -field=token)
  printf '%s' "$token" >"$work/one-account.token"

  show "VAULT_TOKEN=\$(<one-account.token) vault read pipedream/creds/$account"
  out=$(VAULT_TOKEN=$token vault read "pipedream/creds/$account" 2>&1) || fail "refused: $out"
  shorten "$out"
  show "VAULT_TOKEN=\$(<one-account.token) vault read pipedream/creds/$other"
  if out=$(VAULT_TOKEN=$token vault read "pipedream/creds/$other" 2>&1); then
    fail "the policy lets another account be read"
  fi
  printf '%s\n' "$out"
  [[ $out == *"Code: 403"* ]] || fail "not a 403"
  promise "one account was read, the other refused"
}

check_logs() {
  title "The audit log knows each read, and no credential"
  say "Each read is there twice, as a request and as its answer. The file secrets holds all that was handed out above."
  show "grep -c 'pipedream/creds/$account' audit.log"
  grep -c "\"path\":\"pipedream/creds/$account\"" "$work/audit.log" || fail "no read in the audit log"
  show "grep -c -F -f secrets audit.log vault.log    # at log level trace"
  printf '%s\n' "$api_key" >>"$work/secrets"
  ! (cd "$work" && grep -c -F -f secrets audit.log vault.log) || fail "a log holds a secret"
  promise "neither log holds the API key${simulated:+, the client secret, a password, a link} or any credential that was read"
}

share_one_role() {
  title "One role and one policy, and each user reads their own account"
  say "A second mount serves a Connect project, whose accounts belong to its users, as the OAuth client of a workspace."
  local accessor own client_id client_secret alice bob
  client_id=$(sed -n 's/^client_id=//p' "$work/sim.log")
  client_secret=$(sed -n 's/^client_secret=//p' "$work/sim.log")
  [[ $client_id && $client_secret ]] || fail "the simulator told of no OAuth client"
  printf '%s\n' "$client_secret" >>"$work/secrets"
  run vault secrets enable -path=pipedream-connect "$PLUGIN"
  run vault write pipedream-connect/config client_id="$client_id" client_secret=- \
    project_id=proj_demo base_url="$base_url" < <(printf '%s' "$client_secret")
  run vault auth enable userpass
  accessor=$(vault read -field=accessor sys/auth/userpass)
  own="{{identity.entity.aliases.$accessor.name}}"
  show "vault write pipedream-connect/roles/github app=github oauth_app_id=oa_demo external_user_id='$own'"
  capture vault write pipedream-connect/roles/github app=github oauth_app_id=oa_demo external_user_id="$own"
  say "$out"
  show "vault policy write own-github -"
  own_github
  own_github | vault policy write own-github - >/dev/null
  say "Three users, who all hold this policy, log in:"
  log_in alice
  log_in bob
  log_in carol
  read_as alice
  alice=$(field oauth_access_token)
  [[ $(field pipedream_account_id) == apn_alice1 ]] || fail "alice reads another account"
  read_as bob
  bob=$(field oauth_access_token)
  [[ $(field pipedream_account_id) == apn_bob1 ]] || fail "bob reads another account"
  [[ $alice && $bob && $alice != "$bob" ]] || fail "the two were given the same token"
  show "VAULT_TOKEN=\$(<carol.token) vault read pipedream-connect/creds/github"
  if out=$(VAULT_TOKEN=$(<"$work/carol.token") vault read pipedream-connect/creds/github 2>&1); then
    fail "carol has connected nothing, and reads an account"
  fi
  printf '%s\n' "$out"
  [[ $out == *"Code: 400"* && $out == *carol* && $out == *github* ]] || fail "not what carol has to connect"
  [[ $out == *"vault write -force pipedream-connect/connect/github"* ]] || fail "not how carol connects it"
  promise "alice and bob were each given the token of their own account, and carol was told what to connect, and how"
}

own_github() {
  cat <<'END'
path "pipedream-connect/creds/github"   { capabilities = ["read"] }
path "pipedream-connect/connect/github" { capabilities = ["update"] }
END
}

connect_an_account() {
  title "Carol connects an account of her own, and reads its token"
  local link page id clicked
  show "VAULT_TOKEN=\$(<carol.token) vault write -force pipedream-connect/connect/github"
  out=$(VAULT_TOKEN=$(<"$work/carol.token") vault write -force pipedream-connect/connect/github 2>&1) || fail "refused: $out"
  shorten "$out"
  link=$(field connect_link_url)
  [[ $link =~ [?\&]token=(ctok_[0-9a-f]+) ]] || fail "that is no link"
  printf '%s\n' "${BASH_REMATCH[1]}" >>"$work/secrets"
  [[ $(field external_user_id) == carol && $link == *app=github* && $link == *oauthAppId=oa_demo* ]] || fail "the link is not for what carol asked"
  say "She opens the link in a browser. At the real Pipedream she signs in to GitHub there; the simulated one has one button:"
  show "curl \"\$LINK\""
  page=$(visit "$link")
  [[ $page == *'id="connect"'* ]] || fail "the page has no button: $page"
  grep -A 1 '<h1>' <<<"$page"
  show "curl --data result=connect \"\$LINK\"     # what the browser sends when she clicks it"
  page=$(visit "$link" result=connect)
  clicked=$SECONDS
  [[ $page =~ \<span\ id=\"account\"\>(apn_[0-9a-z]+)\< ]] || fail "nothing was connected: $page"
  id=${BASH_REMATCH[1]}
  say "Connected: $id"
  wait_for 5 reads_an_account carol || fail "carol still reads nothing after 5 s"
  read_as carol
  [[ $(field pipedream_account_id) == "$id" ]] || fail "carol reads another account"
  ((SECONDS - clicked <= 5)) || fail "that took $((SECONDS - clicked)) s"
  promise "carol read her own token within 5 s of the click, and nobody but Vault and Pipedream took part"
}

reads_an_account() {
  VAULT_TOKEN=$(<"$work/$1.token") vault read pipedream-connect/creds/github >/dev/null 2>&1
}

# log_in adds a user and has them log in with their password; the token is in a file from then on.
log_in() {
  local password=$RANDOM$RANDOM$RANDOM$RANDOM$RANDOM
  printf '%s' "$password" |
    vault write "auth/userpass/users/$1" password=- token_policies=own-github >/dev/null
  show "vault write -field=token auth/userpass/login/$1 password=- >$1.token"
  (umask 077 && printf '%s' "$password" | vault write -field=token "auth/userpass/login/$1" password=- >"$work/$1.token")
  printf '%s\n' "$password" >>"$work/secrets"
}

# read_as shows what the role gives a user.
read_as() {
  show "VAULT_TOKEN=\$(<$1.token) vault read pipedream-connect/creds/github"
  out=$(VAULT_TOKEN=$(<"$work/$1.token") vault read pipedream-connect/creds/github 2>&1) || fail "refused: $out"
  shorten "$out"
  remember_secrets
}

run_agent() {
  title "Vault Agent keeps a token in a file, and replaces it before it ends"
  local file=$work/slack first until second
  vault policy write agent - >/dev/null <<<'path "pipedream/creds/apn_slack" { capabilities = ["read"] }'
  (umask 077 && vault token create -policy=agent -field=token >"$work/agent.token")
  agent_config >"$work/agent.hcl"
  say "The account's token lives $SHORT_LIFE. The template:"
  agent_template
  show "vault agent -config=agent.hcl &"
  start "$work/agent.log" vault agent -config="$work/agent.hcl"

  wait_for 30 test -s "$file" || fail "Agent wrote no file: $(tail -n 5 "$work/agent.log")"
  first=$(<"$file") until=${first##* }
  say "  $(now)  $(cut_short "$first")  which ends at $until"
  printf '%s\n' "${first%% *}" >>"$work/secrets"
  wait_for 60 differs "$file" "$first" || fail "Agent did not replace the token: $(tail -n 5 "$work/agent.log")"
  second=$(<"$file")
  say "  $(now)  $(cut_short "$second")  which ends at ${second##* }"
  # expires_at is rounded down, so the token is good for a part of a second more.
  touch -d "${until%Z}.999Z" "$work/until"
  [[ ! $file -nt $work/until ]] || fail "the token was replaced after it had ended"
  [[ ${second##* } > $until ]] || fail "the new token does not live longer"
  promise "the token in the file was replaced before it ended"
}

differs() {
  [[ $(<"$1") != "$2" ]]
}

agent_template() {
  printf '%s\n' '{{ with secret "pipedream/creds/apn_slack" }}{{ .Data.oauth_access_token }} {{ .Data.expires_at }}{{ end }}'
}

agent_config() {
  cat <<END
vault {
  address = "$VAULT_ADDR"
}
auto_auth {
  method "token_file" {
    config = { token_file_path = "$work/agent.token" }
  }
}
template_config {
  exit_on_retry_failure = true
}
template {
  contents    = <<TEMPLATE
$(agent_template)
TEMPLATE
  destination = "$work/slack"
  perms       = "0600"
}
END
}

finish() {
  printf '\n%sAll of it held, in %d s.%s\n' "$bold" "$((SECONDS - started))" "$plain"
  if [[ -z ${KEEP:-} ]]; then
    return
  fi
  trap - EXIT HUP INT TERM
  say "Everything is left running. To use it:"
  say "  export VAULT_ADDR=$VAULT_ADDR VAULT_TOKEN=\$(cat $work/root.token)"
  say "  $server read pipedream/creds/$account"
  say "To stop it:"
  say "  kill ${pids[*]} && rm -rf $work"
}

main
