#!/usr/bin/env bash
# Sets the path under which the module is published, so that "go install" and "go get" find it.
# usage: scripts/set-module-path.sh github.com/OWNER/vault-plugin-secrets-pipedream
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

new=${1-}
if [[ ! $new =~ ^[a-z0-9-]+(\.[a-z0-9-]+)+(/[A-Za-z0-9._~-]+)+$ ]]; then
  echo "usage: $0 HOST/PATH, such as github.com/OWNER/vault-plugin-secrets-pipedream" >&2
  exit 1
fi
old=$(go list -m)
# In a regular expression a dot matches any character.
pattern=${old//./\\.}

# Change the main module and the modules of the tools.
for file in go.mod tools/*/go.mod; do
  path=$(cd "$(dirname "$file")" && go list -m)
  go mod edit -module="$new${path#"$old"}" "$file"
done

# One of the tools uses the main module, from this tree.
for file in tools/*/go.mod; do
  if grep -q "$pattern => \.\./\.\.\$" "$file"; then
    go mod edit -droprequire="$old" -dropreplace="$old" -require="$new@v0.0.0" -replace="$new=../.." "$file"
  fi
done

# Change imports only, which are on a line of their own, alone or after a name. Other strings with the same text mean
# something else: the plugin has the name of the module.
import="^([[:space:]]*|import[[:space:]]+)([A-Za-z_.][A-Za-z0-9_]*[[:space:]]+)?\"$pattern(/[^\"]*)?\"([[:space:]]*//.*)?\$"
find . -path ./bin -prune -o -path ./dist -prune -o -name '*.go' -print0 |
  while IFS= read -r -d '' file; do
    if grep -qE "$import" "$file"; then
      sed -E -i.before "s#$import#\\1\\2\"$new\\3\"\\4#" "$file"
      rm "$file.before"
    fi
  done

# Change the linter's import rules, and the module path that the formatter is told.
sed -E -i.before "s#^([[:space:]]*(- |- pkg: |module-path: ))$pattern(/[^[:space:]]*)?\$#\\1$new\\3#" .golangci.yml
rm .golangci.yml.before
echo "$old is now $new"
