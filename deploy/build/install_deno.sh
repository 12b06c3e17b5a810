#!/usr/bin/env bash
# Puts the pinned Deno into .tools/deno/deno, from the npm package of its Linux binary.
# Does nothing when it is there already. A matching deno on the PATH is linked, not copied.
set -euo pipefail

version=2.9.6
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
target="$root/.tools/deno/deno"

case "$(uname -m)" in
  x86_64)
    package=@deno/linux-x64-glibc
    integrity="sha512-3md4TKLCuzsLDmfOoC5KN7NAZaxSVkMgm64vg6foD00JBADCpYS2/5QqXfzgnP5ZQz3iLP9vBQJtEgc116OAoQ=="
    ;;
  *)
    echo "deno: no pinned build for $(uname -m); put Deno $version on the PATH" >&2
    exit 1
    ;;
esac

is_right() { [[ -x "$1" && "$("$1" --version 2>/dev/null | head -n 1)" == "deno $version "* ]]; }

if is_right "$target"; then exit 0; fi
mkdir -p "$root/.tools/deno"
found="$(command -v deno || true)"
if [[ -n "$found" ]]; then
  found="$(readlink -f "$found")"
  # npm's wrapper is a script; the build needs the binary itself.
  if [[ "$(head -c 4 "$found" | od -An -tx1 | tr -d ' \n')" == 7f454c46 ]] && is_right "$found"; then
    ln -sfn "$found" "$target"
    echo "deno: $version from $found"
    exit 0
  fi
fi
if ! command -v npm >/dev/null 2>&1; then
  echo "deno: neither Deno $version nor npm is here: install npm (apt-get install npm) or Deno $version" >&2
  exit 1
fi
work="$(mktemp -d "$root/.tools/deno/download.XXXXXX")"
trap 'rm -rf "$work"' EXIT
echo "deno: fetching $package $version"
(cd "$work" && npm pack --silent "$package@$version" >/dev/null)
archive="$(find "$work" -name '*.tgz' -print -quit)"
actual="sha512-$(openssl dgst -sha512 -binary "$archive" 2>/dev/null | base64 -w 0)"
if [[ "$actual" == sha512- ]]; then
  actual="sha512-$(sha512sum "$archive" | cut -d ' ' -f 1 | tr a-f A-F | basenc --base16 -d | base64 -w 0)"
fi
if [[ "$actual" != "$integrity" ]]; then
  echo "deno: the fetched package has checksum $actual, not the pinned $integrity: refused" >&2
  exit 1
fi
tar -xzf "$archive" -C "$work" package/deno
chmod 755 "$work/package/deno"
is_right "$work/package/deno" || {
  echo "deno: the fetched binary does not run here or is not $version (glibc 2.27 is needed)" >&2
  exit 1
}
mv -f "$work/package/deno" "$target"
echo "deno: $version in $target"
