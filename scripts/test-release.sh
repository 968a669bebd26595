#!/usr/bin/env bash
# Checks a release as a user could. It must have the same bits when made from two clones in different places with different
# settings, from a tarball without git, and by "make build". It must be complete, and its signature must be valid.
# usage: scripts/test-release.sh PLATFORM..., such as linux/amd64
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

platforms=$*
plugin=vault-plugin-secrets-pipedream
version=$(make -s print-version)
work=$(mktemp -d)
cleanup() {
  gpgconf --homedir "$work/gnupg" --kill all 2>/dev/null || true
  chmod -R u+w "$work"
  rm -rf "$work"
}
trap cleanup EXIT

say() { printf '\n=== %s\n' "$*"; }
fail() { printf 'test-release: %s\n' "$*" >&2; exit 1; }

say "copying the current tree to two clones and to a directory without git"
plain=$work/tarball first=$work/first second=$work/some/where/else/altogether
mkdir -p "$plain" "$first" "$second"
git ls-files -z --cached --others --exclude-standard |
  while IFS= read -r -d '' name; do [[ ! -e $name ]] || printf '%s\0' "$name"; done |
  tar --null --files-from=- -cf "$work/source.tar"
git init -q "$work/origin"
tar -xf "$work/source.tar" -C "$work/origin"
in_origin() { git -C "$work/origin" -c user.name=test -c user.email=test@example.com -c commit.gpgsign=false "$@"; }
in_origin add -A
in_origin commit -qm one
git clone -q "$work/origin" "$first"
in_origin commit -qm two --allow-empty
in_origin tag -m tag v9.9.9
git clone -q "$work/origin" "$second"
tar -xf "$work/source.tar" -C "$plain"

# Each copy would build the same tools again.
for copy in "$plain" "$first" "$second"; do
  mkdir -p "$copy/bin"
  cp bin/goreleaser bin/cyclonedx-gomod "$copy/bin/"
done

say "making a release from each copy"
make -C "$first" release PLATFORMS="$platforms"
# The settings of a user must not change the release.
(umask 077 && TZ=Asia/Tokyo LC_ALL=C GOFLAGS='-buildvcs=true -tags=mine' GOAMD64=v3 GOARM=7 GOOS=plan9 \
  make -C "$second" release PLATFORMS="$platforms")
# A release of one platform has the same files for it.
make -C "$plain" release PLATFORMS="${platforms%% *}"

say "comparing the releases"
cat "$first/dist/SHA256SUMS"
diff -r "$first/dist" "$second/dist" || fail "the releases of the two clones differ"
for file in "$plain"/dist/*; do
  [[ $file == */SHA256SUMS ]] || cmp "$file" "$first/dist/${file##*/}" || fail "the release without git differs"
done
(cd "$first/dist" && sha256sum --check --strict --quiet SHA256SUMS)
listed=$(wc -l < "$first/dist/SHA256SUMS") files=$(find "$first/dist" -type f ! -name SHA256SUMS | wc -l)
[[ $listed == "$files" ]] || fail "SHA256SUMS lists $listed files of $files"

say "checking the contents, and comparing with make build"
for platform in $platforms; do
  os=${platform%/*} arch=${platform#*/} extension=
  [[ $os != windows ]] || extension=.exe
  unpacked=$work/unpacked/${os}_$arch archive=$first/dist/${plugin}_${version}_${os}_$arch
  mkdir -p "$unpacked"
  if [[ $os == windows ]]; then
    unzip -q "$archive.zip" -d "$unpacked"
  else
    tar -xzf "$archive.tar.gz" -C "$unpacked"
  fi
  [[ -x $unpacked/$plugin$extension ]] || fail "$platform: the program is not executable"

  built=$(GOOS=$os GOARCH=$arch make -s -C "$second" print-out)
  (cd "$second" && GOOS=$os GOARCH=$arch make -s build)
  cmp "$unpacked/$plugin$extension" "$second/$built" || fail "$platform: make build makes a different program"

  # Every module that a program lists as linked must have its licence in the notices, and must be in the SBOM.
  for program in "$plugin" pipedream-check; do
    sbom=$first/dist/${program}_${version}_${os}_$arch.cdx.json
    go version -m "$unpacked/$program$extension" | awk '$1 == "dep" { print $2 " " $3 }' > "$work/modules"
    [[ -s $work/modules || $program != "$plugin" ]] || fail "$platform: the program does not list its modules"
    while read -r module module_version; do
      grep -q "^$module  *$module_version" "$unpacked/THIRD_PARTY_NOTICES.txt" || fail "$platform: the notices lack $module"
      grep -q "^$module/" "$unpacked/THIRD_PARTY_NOTICES.txt" || fail "$platform: the notices lack the terms of $module"
      grep -qF "\"purl\": \"pkg:golang/$module@$module_version" "$sbom" || fail "$platform: the SBOM of $program lacks $module"
    done < "$work/modules"
    sum=$(sha256sum "$unpacked/$program$extension" | cut -d' ' -f1)
    grep -q "$sum" "$sbom" || fail "$platform: the SBOM is for a different $program"
  done
  grep -q "^std/LICENSE" "$unpacked/THIRD_PARTY_NOTICES.txt" || fail "$platform: the notices lack Go's own terms"
  cmp "$first/README.md" "$unpacked/README.md"
done

say "checking the links of the pages in an archive"
git init -q "$unpacked"
(cd tools/links && go run . "$unpacked")

say "building again with empty caches, from a directory of modules without network access"
modules=$(go env GOMODCACHE)
(cd "$plain" && env GOCACHE="$work/cache" GOMODCACHE="$work/modcache" GOPROXY="file://$modules/cache/download" GOSUMDB=off \
  make -s build GOTOOLCHAIN=local)
native=$(make -s -C "$plain" print-out)
(cd "$second" && make -s build)
cmp "$plain/$native" "$second/$native" || fail "the program differs with an empty build cache"
[[ $("$plain/$native" -version) == "$version" ]] || fail "the program has the wrong version"

say "signing with a temporary key"
one=${platforms%% *}
export GNUPGHOME=$work/gnupg
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key 'Release test <test@example.com>' ed25519 sign never
make -s -C "$first" release PLATFORMS="$one" GPG_KEY=test@example.com
gpg --verify "$first/dist/SHA256SUMS.asc" "$first/dist/SHA256SUMS"
echo >> "$first/dist/SHA256SUMS"
if gpg --verify "$first/dist/SHA256SUMS.asc" "$first/dist/SHA256SUMS" 2>/dev/null; then
  fail "the signature is valid for changed checksums"
fi

say "trying a version that CHANGELOG.md does not list"
if make -s -C "$first" release PLATFORMS="$one" VERSION=v99.0.0 > "$work/refused" 2>&1; then
  fail "a release was made without release notes"
fi
grep "CHANGELOG.md has no section for v99.0.0" "$work/refused" || { cat "$work/refused"; fail "the release failed for another reason"; }

printf '\ntest-release: ok, %s\n' "$platforms"
