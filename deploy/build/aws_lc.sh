#!/usr/bin/env bash
# Builds AWS-LC's libcrypto.so from the source that a crates.io package carries.
#
#   aws_lc.sh plain   -> .tools/aws-lc/libcrypto.so       (crate aws-lc-sys)
#   aws_lc.sh fips    -> .tools/aws-lc-fips/libcrypto.so  (crate aws-lc-fips-sys, FIPS 3.x branch)
#
# Invariants:
# - the crate is pinned by version and by the SHA-256 of its .crate file, checked before unpacking;
# - the result appears by one rename, next to a stamp that names what it was built from;
#   a build with the right stamp is not built again;
# - exit 3 means "a build tool is missing": the caller may go on without AWS-LC, and says so.
set -euo pipefail

kind="${1:-plain}"
# Bump when the flags change, so that old results are built again.
recipe=3
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

case "$kind" in
  plain)
    crate=aws-lc-sys
    version=0.47.0
    sha256=8bfbe32ac36b3c428696ce315464181bc4029d689fd58e3f2a4e58c252242f52
    folder="$root/.tools/aws-lc"
    needs=(cargo cmake gcc g++ sha256sum tar)
    flags=(-DDISABLE_GO=ON -DDISABLE_PERL=ON "-DCMAKE_C_FLAGS=-include $root/deploy/build/old_glibc.h")
    ;;
  fips)
    crate=aws-lc-fips-sys
    version=0.13.17
    sha256=00ccb9bd2963c4dbcded8052b5666f329a7ccc75d04dea723eece6077ad5e6dc
    folder="$root/.tools/aws-lc-fips"
    needs=(cargo cmake gcc g++ go perl sha256sum tar)
    flags=(-DFIPS=1)
    ;;
  *)
    echo "aws_lc.sh: unknown kind \"$kind\" (known: plain, fips)" >&2
    exit 2
    ;;
esac

stamp="$crate $version $sha256 $(uname -m) recipe $recipe"
if [[ -s "$folder/libcrypto.so" && "$(cat "$folder/stamp" 2>/dev/null || true)" == "$stamp" ]]; then
  echo "aws-lc: $folder/libcrypto.so is up to date ($crate $version)"
  exit 0
fi

# One build serves every clone of this user. The checksum beside it tells a half-written file.
cache="${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/kiseki/${stamp// /-}"
if (cd "$cache" 2>/dev/null && sha256sum --check --status libcrypto.so.sha256 2>/dev/null); then
  mkdir -p "$folder"
  cp "$cache/libcrypto.so" "$folder/libcrypto.so.new"
  mv "$folder/libcrypto.so.new" "$folder/libcrypto.so"
  echo "$stamp" >"$folder/stamp"
  echo "aws-lc: $folder/libcrypto.so from the cache ($crate $version)"
  exit 0
fi

missing=()
for tool in "${needs[@]}"; do
  command -v "$tool" >/dev/null 2>&1 || missing+=("$tool")
done
if ((${#missing[@]} > 0)); then
  echo "aws-lc: not built: missing ${missing[*]}. Kiseki will use OpenSSL 3 (libcrypto.so.3) where" \
    "the node has it, and WebCrypto otherwise; 'kiseki doctor' names the provider in use." >&2
  exit 3
fi

work="$(mktemp -d "${TMPDIR:-/tmp}/kiseki-aws-lc.XXXXXX")"
trap 'rm -rf "$work"' EXIT

# cargo is used only as the client that fetches one pinned package.
mkdir -p "$work/fetch/src"
: >"$work/fetch/src/lib.rs"
cat >"$work/fetch/Cargo.toml" <<EOF
[package]
name = "kiseki-fetch"
version = "0.0.0"
edition = "2021"
[dependencies]
$crate = "=$version"
EOF
echo "aws-lc: fetching $crate $version"
(cd "$work/fetch" && cargo fetch --quiet)
archive="$(find "${CARGO_HOME:-$HOME/.cargo}/registry/cache" -name "$crate-$version.crate" -print -quit)"
if [[ -z "$archive" ]]; then
  echo "aws-lc: cargo fetched $crate $version but its .crate file is not in the registry cache" >&2
  exit 1
fi
if ! echo "$sha256  $archive" | sha256sum --check --status; then
  echo "aws-lc: $archive has another SHA-256 than the pinned $sha256: refused" >&2
  exit 1
fi
tar -xzf "$archive" -C "$work"

# nodelete: its destructors for thread-local state run at the end of every thread, also of one that
# outlives the last dlclose; an unloaded library would crash the process then.
generator=()
command -v ninja >/dev/null 2>&1 && generator=(-GNinja)
echo "aws-lc: building (some minutes on two cores)"
log="$work/build.log"
if ! {
  cmake -S "$work/$crate-$version/aws-lc" -B "$work/build" "${generator[@]}" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_SHARED_LINKER_FLAGS=-Wl,-z,nodelete -DBUILD_SHARED_LIBS=ON -DBUILD_TESTING=OFF -DBUILD_TOOL=OFF \
    "${flags[@]}" &&
    cmake --build "$work/build" --target crypto --parallel "$(nproc)"
} >"$log" 2>&1; then
  tail -n 40 "$log" >&2
  echo "aws-lc: the build of $crate $version failed (last lines above)" >&2
  exit 1
fi

mkdir -p "$folder"
library="$(find "$work/build/crypto" -name 'libcrypto.so' -print -quit)"
# A FIPS module checks a hash of its own bytes at load: it is shipped exactly as linked.
cp -L "$library" "$folder/libcrypto.so.new"
[[ "$kind" == fips ]] || ! command -v strip >/dev/null || strip --strip-unneeded "$folder/libcrypto.so.new"
mv "$folder/libcrypto.so.new" "$folder/libcrypto.so"
echo "$stamp" >"$folder/stamp"
if mkdir -p "$cache" 2>/dev/null; then
  cp "$folder/libcrypto.so" "$cache/libcrypto.so"
  (cd "$cache" && sha256sum libcrypto.so >libcrypto.so.sha256)
else
  echo "aws-lc: $cache cannot be written: the next clone builds again" >&2
fi
echo "aws-lc: built $folder/libcrypto.so ($(stat -c %s "$folder/libcrypto.so") bytes)"
