#!/usr/bin/env bash
#
# Shows the plugin at work in a real Vault server with a simulated Pipedream: leases, cached reads, policies, one role for
# many users, users who connect, mend and disconnect their own accounts, an account without credentials, an outage of
# Pipedream, Vault Agent replacing a token in a file, and the audit log.
#
#   make demo            on the simulated Pipedream
#   KEEP=1 make demo     leaves everything running at the end
#
# DEMO_SERVER=path runs the demo on another server than bin/vault, such as OpenBao, which has the same command line.
#
# If PIPEDREAM_API_KEY and PIPEDREAM_ACCOUNT_ID are set, the demo uses the real Pipedream, or the API at
# PIPEDREAM_BASE_URL, and leaves out what only the simulator can show.
#
# The demo checks every claim that it prints, and stops with an error at the first that is false. At the end it stops
# everything that it started, by process id.
set -Eeuo pipefail
trap 'printf "%s: line %d: %s: ended with code %d\n" "$0" "$LINENO" "$BASH_COMMAND" "$?" >&2' ERR

# Times are compared as text.
export LC_ALL=C

cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly BIN=$PWD/bin
readonly PLUGIN=vault-plugin-secrets-pipedream
readonly SIM_KEY=pdkey_of_the_demo
# Pipedream replaces a token when a twelfth of its life is left. If that were less than 2 s, Agent would read twice within
# a second, mistake the second answer for the first, and not write the new token to the file.
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
  [[ $simulated ]] && mend_and_end_a_connection
  [[ $simulated ]] && use_the_proxy
  [[ $simulated ]] && read_through_an_outage
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

# run shows a command, runs it, and keeps its output in $out.
run() {
  show "$@"
  capture "$@"
  printf '%s\n' "$out"
}

# run_secret is run for a command that prints credentials. They are shortened on the screen and complete in $out. $asked
# is when the command started.
run_secret() {
  show "$@"
  asked=$(now)
  capture "$@"
  shorten "$out"
}

capture() {
  out=$("$@" 2>&1) || fail "$1 ended with code $?:"$'\n'"$out"
}

# promise prints a claim that was just checked.
promise() {
  printf '%s  ok: %s%s\n' "$green" "$*" "$plain"
}

fail() {
  printf '\n%sfailed: %s%s\n' "$red" "$*" "$plain" >&2
  local log=${work:-}/vault.log
  if [[ -s $log ]] && grep -q -E '\[(WARN|ERROR)\]' "$log"; then
    printf '\nwarnings and errors that Vault logged:\n' >&2
    grep -E '\[(WARN|ERROR)\]' "$log" | tail -n 15 >&2
  fi
  exit 1
}

# shorten prints the table of a secret with the app's own values cut short. A line that is not a row belongs to a
# multi-line value and is left out.
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

# cut_short leaves enough of a simulated token to tell it from others, and hardly anything of a real one.
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
    [[ -x $program ]] || fail "$program is missing; to build everything and run the demo: make demo"
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
  # The programs started here must not see the key in their environment. One gets it on standard input.
  unset PIPEDREAM_API_KEY PIPEDREAM_ACCOUNT_ID
}

# prepare creates a directory for the demo, and hides the Vault that the user may be logged in to.
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

# start runs a program in the background until the demo ends. Its output goes to a file.
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
  # The last program started is stopped first.
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

# wait_for repeats a command until it succeeds, for at most as many seconds as the first argument says.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}

start_simulator() {
  title "Start a simulated Pipedream and a real Vault server"
  launch_simulator 127.0.0.1:0
  base_url=$(<"$work/sim.url")
  say "The simulated Pipedream listens on $base_url."
}

# launch_simulator starts the simulator at an address, with more flags if there are any.
launch_simulator() {
  PIPEDREAM_SIM_API_KEY=$SIM_KEY start "$work/sim.log" pipedream-sim -ready-file "$work/sim.url" -short-life "$SHORT_LIFE" -listen "$@"
  wait_for 10 test -s "$work/sim.url" || fail "the simulator did not start: $(tail -n 5 "$work/sim.log")"
}

start_vault() {
  [[ $simulated ]] || title "Start a Vault server"
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
  # For a moment, an active server of OpenBao can still refuse to write.
  wait_for 30 enables_audit || fail "Vault cannot enable the audit log: $(<"$work/audit.out")"
  say "Vault listens on $VAULT_ADDR. Its storage and its audit log are in $work."
}

enables_audit() {
  vault audit enable file file_path="$work/audit.log" >"$work/audit.out" 2>&1
}

# launch_vault starts Vault on two ports. It returns 1 if one of them is taken.
launch_vault() {
  export VAULT_ADDR=http://127.0.0.1:$1
  vault_config "$1" "$2" >"$work/vault.hcl"
  start "$work/vault.log" vault server -config="$work/vault.hcl"
  local pid=${pids[${#pids[@]} - 1]}
  wait_for 30 answers_or_ended "$pid" || fail "Vault does not respond"
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
  # OpenBao enables audit devices through its API only if the configuration allows that.
  [[ $(vault version) != OpenBao* ]] || printf 'unsafe_allow_api_audit_creation = true\n'
}

# free_port prints a port that nothing listens on at the moment.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 40000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  printf '%d' "$port"
}

# answers_or_ended succeeds once the server answers or has ended. "vault status" exits with 2 if the server is sealed, and
# with 1 if there is none.
answers_or_ended() {
  local status=0
  kill -0 "$1" 2>/dev/null || return 0
  vault status >/dev/null 2>&1 || status=$?
  ((status != 1))
}

# is_active makes a request that only an active server answers.
is_active() {
  vault secrets list >/dev/null 2>&1
}

# --- the demo --------------------------------------------------------------------------------------------------------

enable_plugin() {
  title "Register the plugin by its SHA-256, and enable it"
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
  title "Store the Pipedream API key"
  say "The key is passed on standard input, so it appears in no process list and no shell history."
  local command=(vault write pipedream/config api_key=-)
  [[ -z $base_url ]] || command+=(base_url="$base_url")
  run "${command[@]}" < <(printf '%s' "$api_key")
  run vault read pipedream/config
  [[ $out != *"$api_key"* ]] || fail "the config shows the key"
  promise "Pipedream accepted the key. Vault stores it encrypted and never shows it."
}

read_credentials() {
  title "Read the credentials of a connected account, twice"
  local first before after
  before=$(requests)
  run_secret vault read "pipedream/creds/$account"
  first=$out
  check_lease
  run_secret vault read "pipedream/creds/$account"
  after=$(requests)
  [[ $(without_lease "$out") == $(without_lease "$first") ]] || fail "the two reads differ"
  [[ $((after - before)) == 1 ]] || fail "$((after - before)) requests went to Pipedream"
  promise "Both reads together cost one request to Pipedream${simulated:+, according to its log}."
  remember_secrets
}

# check_lease checks the lease of the read in $out, which was asked for at $asked.
check_lease() {
  [[ $(field lease_id) == "pipedream/creds/"* ]] || fail "there is no lease"
  [[ $(field lease_renewable) == false ]] || fail "the lease can be renewed past the end of the token"
  if [[ -z $(field expires_at) ]]; then
    promise "This key never expires, so its lease is the configured static_ttl: $(field lease_duration)."
    return
  fi
  local left
  left=$(($(second_of_day "$(field expires_at)") - $(second_of_day "$asked")))
  # A real token may outlive the day or the mount's longest lease, so only a simulated one is compared.
  if [[ $simulated ]] && (((left + 86400) % 86400 < $(seconds "$(field lease_duration)"))); then
    fail "the lease of $(field lease_duration) is longer than the token's life, which ends at $(field expires_at)"
  fi
  [[ $(field expires_at) > $asked ]] || fail "the token had already expired"
  promise "The lease ends with the token: it was read at $asked and lasts $(field lease_duration)."
}

# second_of_day converts a time like 2026-01-31T09:08:07Z. Without the 10#, a number with a leading 0 would be octal.
second_of_day() {
  [[ $1 =~ T(..):(..):(..) ]]
  printf '%d' $((10#${BASH_REMATCH[1]} * 3600 + 10#${BASH_REMATCH[2]} * 60 + 10#${BASH_REMATCH[3]}))
}

# seconds converts a duration like 1h, 59m56s or 20s to a number.
seconds() {
  [[ $1 =~ ^(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?$ ]]
  printf '%d' $((10#0${BASH_REMATCH[2]} * 3600 + 10#0${BASH_REMATCH[4]} * 60 + 10#0${BASH_REMATCH[6]}))
}

now() {
  date -u +%Y-%m-%dT%H:%M:%SZ
}

# without_lease prints the table of a secret without the rows that differ from read to read.
without_lease() {
  grep -v '^lease_' <<<"$1"
}

# requests prints how many requests Pipedream got for the account, from the simulator's log or the plugin's counter.
requests() {
  if [[ $simulated ]]; then
    # grep exits with 1 if there are none.
    { simulator_log | grep -o "\"account_id\": *\"$account\"" || true; } | wc -l
  else
    vault read -field=requests pipedream/status
  fi
}

simulator_log() {
  visit "${base_url%/v1}/requests"
}

# visit requests a page, or sends it the form in the second argument, and prints the response.
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

# remember_secrets keeps the app's own values in $out, so that the logs can be searched for them.
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
  title "Read an account whose API key never expires"
  run_secret vault read pipedream/creds/apn_stripe
  check_lease
  remember_secrets
}

list_accounts() {
  title "List the accounts that the key can see, without their credentials"
  run vault list -detailed pipedream/accounts
  [[ $out == *"$account"* ]] || fail "$account is not in the list"
}

check_policy() {
  title "Allow an application one account and no other"
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
  promise "The policy allowed the one account and denied the other."
}

check_logs() {
  title "Search the logs for reads, and for secrets"
  say "The audit log records each read twice: the request and the response. The file named secrets lists every secret used above."
  show "grep -c 'pipedream/creds/$account' audit.log"
  grep -c "\"path\":\"pipedream/creds/$account\"" "$work/audit.log" || fail "the audit log has no reads"
  show "grep -c -F -f secrets audit.log vault.log    # at log level trace"
  printf '%s\n' "$api_key" >>"$work/secrets"
  ! (cd "$work" && grep -c -F -f secrets audit.log vault.log) || fail "a log holds a secret"
  promise "Neither log contains the API key${simulated:+, the client secret, a password, a link} or a credential that was read."
}

share_one_role() {
  title "Give each user their own account, with one role and one policy"
  say "A second mount serves a Pipedream Connect project, in which each account belongs to a user. It uses an OAuth client."
  local accessor own client_id client_secret alice bob
  client_id=$(sed -n 's/^client_id=//p' "$work/sim.log")
  client_secret=$(sed -n 's/^client_secret=//p' "$work/sim.log")
  [[ $client_id && $client_secret ]] || fail "the simulator did not print an OAuth client"
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
  say "Three users log in, all with this policy:"
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
    fail "carol has connected nothing, but can read an account"
  fi
  printf '%s\n' "$out"
  [[ $out == *"Code: 400"* && $out == *carol* && $out == *github* ]] || fail "the error does not say what carol has to connect"
  # On OpenBao, the engine names the program bao.
  [[ $out == *" write -force pipedream-connect/connect/github"* ]] || fail "the error does not say how carol can connect it"
  promise "Alice and Bob each got the token of their own account. Carol has none yet, and the error says how to connect one."
}

own_github() {
  cat <<'END'
path "pipedream-connect/creds/github"   { capabilities = ["read"] }
path "pipedream-connect/connect/github" { capabilities = ["update", "read", "delete"] }
path "pipedream-connect/static-creds/slack" { capabilities = ["read"] }
END
}

connect_an_account() {
  title "Let Carol connect her own account"
  local link page id clicked
  ask_for_link carol -force
  [[ $(field external_user_id) == carol && $link == *app=github* && $link == *oauthAppId=oa_demo* ]] || fail "the link is for something else"
  say "She opens the link in her browser. The real Pipedream would ask her to sign in to GitHub. The simulator shows a button:"
  show "curl \"\$LINK\""
  page=$(visit "$link")
  [[ $page == *'id="connect"'* ]] || fail "the page has no button: $page"
  grep -A 1 '<h1>' <<<"$page"
  show "curl --data result=connect \"\$LINK\"     # sent by the browser when she clicks the button"
  click
  clicked=$SECONDS
  wait_for 60 reads_an_account carol || fail "carol still cannot read her account"
  clicked=$((SECONDS - clicked))
  read_as carol
  [[ $(field pipedream_account_id) == "$id" ]] || fail "carol reads another account"
  promise "Carol could read her token within $((clicked + 1)) s of the click. No administrator had to do anything."
}

# ask_for_link has a user make a Connect link, which is in $link then. The other arguments are those of the command.
ask_for_link() {
  local user=$1
  shift
  local options=() parameters=() argument
  for argument in "$@"; do
    if [[ $argument == -* ]]; then options+=("$argument"); else parameters+=("$argument"); fi
  done
  local command=(vault write ${options[@]+"${options[@]}"} pipedream-connect/connect/github ${parameters[@]+"${parameters[@]}"})
  show "VAULT_TOKEN=\$(<$user.token) ${command[*]}"
  out=$(VAULT_TOKEN=$(<"$work/$user.token") "${command[@]}" 2>&1) || fail "refused: $out"
  shorten "$out"
  link=$(field connect_link_url)
  [[ $link =~ [?\&]token=(ctok_[0-9a-f]+) ]] || fail "that is not a link"
  printf '%s\n' "${BASH_REMATCH[1]}" >>"$work/secrets"
}

# click does what the browser does when somebody clicks the button on the page of $link. The account is in $id then.
click() {
  page=$(visit "$link" result=connect)
  [[ $page =~ \<span\ id=\"account\"\>(apn_[0-9a-z]+)\< ]] || fail "nothing was connected: $page"
  id=${BASH_REMATCH[1]}
  say "Connected: $id"
}

mend_and_end_a_connection() {
  title "Let Bob mend his connection, and end it"
  local link page id before
  read_as bob
  before=$(field oauth_access_token)
  say "GitHub refuses Bob's token, so he signs in again, and clicks the button of this link:"
  ask_for_link bob reconnect=true
  [[ $(field reconnects_account_id) == apn_bob1 ]] || fail "the link is for another account"
  click
  [[ $id == apn_bob1 ]] || fail "the account has another id now"
  wait_for 10 reads_other_than bob "$before" || fail "bob still reads the token that was refused"
  read_as bob
  [[ $(field pipedream_account_id) == apn_bob1 && $(field oauth_access_token) != "$before" ]] || fail "that is not the new token"
  promise "The same account has a new token. Nobody else's changed."
  say "He looks at what is connected, and disconnects it:"
  show "VAULT_TOKEN=\$(<bob.token) vault read pipedream-connect/connect/github"
  out=$(VAULT_TOKEN=$(<"$work/bob.token") vault read pipedream-connect/connect/github 2>&1) || fail "refused: $out"
  printf '%s\n' "$out"
  [[ $(field connected) == true && $(field account_id) == apn_bob1 ]] || fail "that is not his account"
  show "VAULT_TOKEN=\$(<bob.token) vault delete pipedream-connect/connect/github"
  out=$(VAULT_TOKEN=$(<"$work/bob.token") vault delete pipedream-connect/connect/github 2>&1) || fail "refused: $out"
  printf '%s\n' "$out"
  show "VAULT_TOKEN=\$(<bob.token) vault read pipedream-connect/creds/github"
  if out=$(VAULT_TOKEN=$(<"$work/bob.token") vault read pipedream-connect/creds/github 2>&1); then fail "bob still reads his account"; fi
  printf '%s\n' "$out"
  [[ $out == *"Code: 400"* && $out == *bob* ]] || fail "the error does not say that bob has no account"
  promise "The account is gone at Pipedream, and Vault serves it to nobody from that moment on."
}

# reads_other_than succeeds once a user's read returns another token than this one.
reads_other_than() {
  [[ $(VAULT_TOKEN=$(<"$work/$1.token") vault read -field=oauth_access_token pipedream-connect/creds/github 2>/dev/null) != "$2" ]]
}

reads_an_account() {
  VAULT_TOKEN=$(<"$work/$1.token") vault read pipedream-connect/creds/github >/dev/null 2>&1
}

use_the_proxy() {
  title "Use an account that has no credentials, through Pipedream's proxy"
  local own accessor token answer
  say "Alice's Slack account is on Pipedream's own OAuth client, so nobody gets its token. A role can hand out tokens for the proxy:"
  accessor=$(vault read -field=accessor sys/auth/userpass)
  own="{{identity.entity.aliases.$accessor.name}}"
  show "vault write pipedream-connect/roles/slack credential_type=connect_token scope=connect:proxy app=slack external_user_id='$own'"
  capture vault write pipedream-connect/roles/slack credential_type=connect_token scope=connect:proxy app=slack external_user_id="$own"
  say "$out"
  show "VAULT_TOKEN=\$(<alice.token) vault read pipedream-connect/static-creds/slack"
  out=$(VAULT_TOKEN=$(<"$work/alice.token") vault read pipedream-connect/static-creds/slack 2>&1) || fail "refused: $out"
  token=$(field connect_token)
  printf '%s\n' "$token" >>"$work/secrets"
  shorten "$out"
  [[ $(field pipedream_external_user_id) == alice && $(field pipedream_account_id) == apn_alice2 ]] || fail "the token is for somebody else"
  say "Her program sends a request for an app to the proxy, which puts the account's own token in:"
  show "curl --header \"Authorization: Bearer \$TOKEN\" \"\$PROXY/\$(base64 <<< \"\$APP\")?external_user_id=alice&account_id=apn_alice2\""
  answer=$(through_proxy alice apn_alice2) || fail "the proxy refused: $answer"
  printf '%s\n' "$answer"
  [[ $answer == *'"app":"Slack"'* ]] || fail "the app did not get the account's token"
  if answer=$(through_proxy bob apn_bob1); then fail "alice's token opens bob's account: $answer"; fi
  promise "The app took the request as Alice's. Her program never saw the app's token, and the token that it has opens nobody else's account."
}

# through_proxy calls the simulator's app as a user, with the token in $token.
through_proxy() {
  local address=${base_url#http://} url64 answered
  address=${address%%/*}
  url64=$(printf 'http://%s/app' "$address" | base64 | tr -d '\n' | tr '+/' '-_')
  exec 3<>"/dev/tcp/${address%:*}/${address##*:}"
  printf 'GET /v1/connect/proj_demo/proxy/%s?external_user_id=%s&account_id=%s HTTP/1.0\r\nHost: %s\r\nx-pd-environment: production\r\nAuthorization: Bearer %s\r\n\r\n' \
    "$url64" "$1" "$2" "$address" "$token" >&3
  answered=$(cat <&3)
  exec 3>&-
  printf '%s\n' "${answered##*$'\r\n\r\n'}"
  [[ $answered == HTTP/1.?\ 200* ]]
}

# log_in adds a user and logs them in with their password. Their token is in a file from then on.
log_in() {
  local password=$RANDOM$RANDOM$RANDOM$RANDOM$RANDOM
  printf '%s' "$password" |
    vault write "auth/userpass/users/$1" password=- token_policies=own-github >/dev/null
  show "vault write -field=token auth/userpass/login/$1 password=- >$1.token"
  (umask 077 && printf '%s' "$password" | vault write -field=token "auth/userpass/login/$1" password=- >"$work/$1.token")
  printf '%s\n' "$password" >>"$work/secrets"
}

# read_as shows what a user gets through the role.
read_as() {
  show "VAULT_TOKEN=\$(<$1.token) vault read pipedream-connect/creds/github"
  out=$(VAULT_TOKEN=$(<"$work/$1.token") vault read pipedream-connect/creds/github 2>&1) || fail "refused: $out"
  shorten "$out"
  remember_secrets
}

read_through_an_outage() {
  title "Stop Pipedream, and read on"
  local token _
  capture vault read -field=oauth_access_token "pipedream/static-creds/$account"
  token=$out
  stop "${pids[0]}"
  say "The simulated Pipedream is stopped. A program goes on reading its account:"
  show "for i in {1..20}; do vault read -field=oauth_access_token pipedream/static-creds/$account; done"
  for _ in {1..20}; do
    capture vault read -field=oauth_access_token "pipedream/static-creds/$account"
    [[ $out == "$token" ]] || fail "that is not the cached token"
  done
  promise "Vault served the cached token 20 times."
  say "Nobody has read this one yet:"
  show "vault read pipedream/creds/apn_sheets"
  if out=$(vault read pipedream/creds/apn_sheets 2>&1); then fail "apn_sheets was read without Pipedream"; fi
  printf '%s\n' "$out"
  [[ $out == *"Pipedream is not available"* ]] || fail "the error does not say that Pipedream is not available"
  promise "The error says whose fault it is. Pipedream is started again."
  restart_simulator
}

# restart_simulator starts the simulator again, at the same address and with the same OAuth client.
restart_simulator() {
  local address=${base_url#http://}
  unset 'pids[0]'
  launch_simulator "${address%/v1}" -client-id "$(sed -n 's/^client_id=//p' "$work/sim.log")" \
    -client-secret "$(sed -n 's/^client_secret=//p' "$work/sim.log")"
}

run_agent() {
  title "Keep a fresh token in a file with Vault Agent"
  local file=$work/slack content until attempt
  vault policy write agent - >/dev/null <<<'path "pipedream/creds/apn_slack" { capabilities = ["read"] }'
  (umask 077 && vault token create -policy=agent -field=token >"$work/agent.token")
  agent_config >"$work/agent.hcl"
  say "The token of this account lives only $SHORT_LIFE. Agent writes it to a file with this template:"
  agent_template
  show "vault agent -config=agent.hcl &"
  start "$work/agent.log" vault agent -config="$work/agent.hcl"

  wait_for 30 test -s "$file" || fail "Agent wrote no file: $(tail -n 5 "$work/agent.log")"
  content=$(<"$file")
  show_token "$content"
  for attempt in 1 2 3; do
    until=${content##* }
    wait_for 60 differs "$file" "$content" || fail "Agent did not replace the token: $(tail -n 5 "$work/agent.log")"
    # expires_at is rounded down, so the token is good for a part of a second more.
    touch -d "${until%Z}.999Z" "$work/until"
    content=$(<"$file")
    show_token "$content"
    [[ ${content##* } > $until ]] || fail "the new token does not live longer"
    [[ $file -nt $work/until ]] || break
    ((attempt < 3)) || fail "Agent replaced three tokens in a row after they had expired"
    say "This machine is busy, and Agent was late. Waiting for the next token:"
  done
  promise "Agent replaced the token in the file before it expired."
}

# show_token prints what Agent wrote to the file, and keeps the token for the search of the logs.
show_token() {
  say "  at $(now): $(cut_short "${1%% *}") expires at ${1##* }"
  printf '%s\n' "${1%% *}" >>"$work/secrets"
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
  printf '\n%sEvery check passed, in %d s.%s\n' "$bold" "$((SECONDS - started))" "$plain"
  if [[ -z ${KEEP:-} ]]; then
    return
  fi
  trap - EXIT HUP INT TERM
  say "Everything is still running. To use it:"
  say "  export VAULT_ADDR=$VAULT_ADDR VAULT_TOKEN=\$(cat $work/root.token)"
  say "  $server read pipedream/creds/$account"
  say "To stop it:"
  say "  kill ${pids[*]} && rm -rf $work"
}

main
