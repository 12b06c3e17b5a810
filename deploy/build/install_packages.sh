#!/usr/bin/env bash
# Installs the missing Debian packages of debian_packages.txt, as root or through sudo.
#
#   install_packages.sh [run|test|build ...]     (all when none is named)
#
# Prints one line for each package that is missing and cannot be had; exit 1 then.
# A program that is already there from another source (python3, cmake, ...) counts as installed.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
wanted=("$@")
((${#wanted[@]})) || wanted=(run test build)

declare -A program=(
  [s3cmd]=s3cmd [rclone]=rclone [python3]=python3 [gcc]=gcc [g++]=g++ [cmake]=cmake
  [ninja-build]=ninja [binutils]=ld [util-linux]=unshare [zstd]=zstd [fuse3]=fusermount3
)

present() {
  local package="$1" command="${program[$1]:-}"
  [[ -n "$command" ]] && command -v "$command" >/dev/null 2>&1 && return 0
  if [[ "$package" == python3-venv ]]; then
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 && return 0
  fi
  [[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" == installed ]]
}

missing=()
declare -A why=()
while IFS=$'\t' read -r package uses reason; do
  [[ -z "$package" || "$package" == \#* ]] && continue
  for use in "${wanted[@]}"; do
    if [[ ",$uses," == *",$use,"* ]]; then
      why[$package]="$reason"
      present "$package" || missing+=("$package")
      break
    fi
  done
done <"$here/debian_packages.txt"

if ((${#missing[@]} == 0)); then
  echo "packages: all present"
  exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
  for package in "${missing[@]}"; do
    echo "packages: MISSING $package (${why[$package]}); this is not a Debian machine, install its counterpart" >&2
  done
  exit 1
fi
as_root=()
if [[ "$(id -u)" != 0 ]]; then
  if ! command -v sudo >/dev/null 2>&1; then
    for package in "${missing[@]}"; do
      echo "packages: MISSING $package (${why[$package]}); neither root nor sudo: ask for 'apt-get install $package'" >&2
    done
    exit 1
  fi
  as_root=(sudo)
fi
echo "packages: installing ${missing[*]}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
"${install[@]}" -q update >"$log" 2>&1 || { tail -n 5 "$log" >&2; echo "packages: apt-get update failed; going on with the old lists" >&2; }
if ! "${install[@]}" install -y -q --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
  # One that cannot be had must not keep the others away.
  for package in "${missing[@]}"; do
    "${install[@]}" install -y -q --no-install-recommends "$package" >"$log" 2>&1 || true
  done
fi
failed=0
for package in "${missing[@]}"; do
  if ! present "$package"; then
    echo "packages: MISSING $package (${why[$package]}); apt-get could not install it" >&2
    failed=1
  fi
done
exit "$failed"
