#!/usr/bin/env bash
# Changes the module path of a copy of the tree, builds everything there, and installs the plugin as a user would.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

plugin=vault-plugin-secrets-pipedream
version=$(make -s print-version)
lint=$PWD/bin/golangci-lint
work=$(mktemp -d)
modules=$(go env GOMODCACHE)
cleanup() {
  chmod -R u+w "$work"
  rm -rf "$work" "$modules/example.com" "$modules/cache/download/example.com"
}
trap cleanup EXIT
fail() { printf 'test-module-path: %s\n' "$*" >&2; exit 1; }

tree=$work/tree
mkdir "$tree"
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' name; do [[ ! -e $name ]] || printf '%s\0' "$name"; done |
  tar --null --files-from=- -cf - | tar -xf - -C "$tree"
old=$(cd "$tree" && go list -m)

for path in '' plugin localhost/plugin https://example.com/plugin 'example.com/a b'; do
  if "$tree/scripts/set-module-path.sh" "$path" 2>/dev/null; then fail "it accepts the path \"$path\""; fi
done
[[ $(cd "$tree" && go list -m) == "$old" ]] || fail "a rejected path was set anyway"

# It runs twice, because a project can move again. The second path is new in each run: Go caches what it finds in a module.
owner=some-one-$$-$RANDOM
for path in example.com/first/name "example.com/$owner/$plugin"; do
  "$tree/scripts/set-module-path.sh" "$path"
  [[ $(cd "$tree" && go list -m) == "$path" ]] || fail "the module is not $path"
done
for file in "$tree"/tools/*/go.mod; do
  grep -q "^module $path/tools/" "$file" || fail "$file has the wrong module path"
done
(
  cd "$tree"
  [[ -z $(gofmt -l .) ]] || fail "not formatted: $(gofmt -l .)"
  if go list -deps -test ./... | grep -E "^($old|example.com/first)(/|\$)"; then fail "there are imports of the old path"; fi
  go vet ./...
  (cd tools/contract && go vet ./...)
  if grep -E "(- |: )($old|example.com/first)" .golangci.yml; then fail "the linter has rules for the old path"; fi
  "$lint" run --allow-parallel-runners --enable-only depguard ./internal/... || fail "the linter refuses imports that are allowed"
  printf 'package pace\n\nimport _ "%s/internal/durable"\n' "$path" > internal/pace/forbidden_test.go
  if "$lint" run --allow-parallel-runners --enable-only depguard ./internal/pace > "$work/lint"; then fail "the linter allows a forbidden import"; fi
  grep -q 'forbidden_test.go.*a leaf may import only' "$work/lint" || { cat "$work/lint"; fail "the linter fails for another reason"; }
  rm internal/pace/forbidden_test.go
  make -s build
  [[ $("bin/$plugin" -version) == "$version" ]] || fail "the plugin has the wrong version"
)

# This is what a module proxy would serve: the tree without the nested modules.
proxy=$work/proxy/$path/@v
mkdir -p "$proxy" "$work/zip/$path@$version"
cp -R "$tree/." "$work/zip/$path@$version"
rm -rf "$work/zip/$path@$version"/{bin,tools}
(cd "$work/zip" && zip -qrD "$proxy/$version.zip" .)
cp "$tree/go.mod" "$proxy/$version.mod"
printf '{"Version": "%s", "Time": "2026-01-01T00:00:00Z"}\n' "$version" > "$proxy/$version.info"
echo "$version" > "$proxy/list"
proxies=$(go env GOPROXY)
export GOPROXY="file://$work/proxy,$proxies" GONOSUMDB=example.com GONOPROXY=none GOFLAGS=-modcacherw
(cd "$work" && GOBIN=$work/installed CGO_ENABLED=0 go install "$path/cmd/$plugin@$version")
"$work/installed/$plugin" -h | grep -q 'secrets engine' || fail "the installed plugin does not work"
printf 'test-module-path: ok, %s\n' "$path"
