#!/usr/bin/env bash
# boto3 and aws-cli for the end-to-end tests, in .tools/venv, exactly as python_requirements.txt.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="$(cd "$here/../.." && pwd)/.tools/venv"
wanted="$(sha256sum <"$here/python_requirements.txt" | cut -d ' ' -f 1)"
[[ "$(cat "$venv/stamp" 2>/dev/null || true)" == "$wanted" && -x "$venv/bin/aws" ]] && exit 0
if ! command -v python3 >/dev/null 2>&1; then
  echo "venv: python3 is missing: boto3 and aws-cli cannot be tested (make packages)" >&2
  exit 1
fi
echo "venv: installing $(grep -v '^#' "$here/python_requirements.txt" | tr '\n' ' ')"
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/python_requirements.txt"
echo "$wanted" >"$venv/stamp"
