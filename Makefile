# Kiseki. Two commands on a fresh Debian machine with npm, as root or with sudo:
#   make run     set-up, build, and a server on this machine
#   make test    set-up, build, and all tests
# Everything that is fetched or built lands in .tools/, dist/ or ~/.cache.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

DENO := $(CURDIR)/.tools/deno/deno
DATA_DIR ?= $(CURDIR)/.tools/dev-data
export PATH := $(CURDIR)/.tools/deno:$(PATH)
export DENO_NO_UPDATE_CHECK := 1

# What `deno check` and the build read.
TYPESCRIPT = $$(git ls-files -co --exclude-standard '*.ts')

.PHONY: help setup tools packages venv aws-lc aws-lc-fips build run test soak bench check floors release clean

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: packages tools venv aws-lc ## Debian packages, Deno, Python clients, AWS-LC

tools: ## Deno (pinned) into .tools/deno and the npm dependencies into Deno's cache
	@deploy/build/install_deno.sh
	@$(DENO) install --quiet

packages: ## Installs the Debian packages of deploy/build/debian_packages.txt
	@deploy/build/install_packages.sh

venv: ## boto3 and aws-cli for the tests into .tools/venv
	@deploy/build/install_venv.sh

# Exit 3 says that a tool for building it is missing: Kiseki then uses OpenSSL 3 or WebCrypto.
aws-lc: ## AWS-LC's libcrypto.so into .tools/aws-lc
	@deploy/build/aws_lc.sh plain || { code=$$?; [ $$code -eq 3 ] || exit $$code; }

aws-lc-fips: ## AWS-LC's FIPS module into .tools/aws-lc-fips (needs Go and Perl)
	@deploy/build/aws_lc.sh fips

build: tools aws-lc ## dist/kiseki
	@$(DENO) run -A --quiet deploy/build/build.ts

run: setup build ## A server on this machine, data in DATA_DIR
	@mkdir -p "$(DATA_DIR)"
	@cat deploy/build/first_object.txt >&2
	@exec dist/kiseki server --dev --data-dir "$(DATA_DIR)"

test: setup build ## All tests; long rounds at a tenth
	@KISEKI_ROUNDS_SCALE=$${KISEKI_ROUNDS_SCALE:-0.1} $(DENO) run -A --quiet test/run.ts

soak: setup build ## All tests at full counts
	@KISEKI_ROUNDS_SCALE=1 $(DENO) run -A --quiet test/run.ts

bench: tools build ## Ratios measured in one run on this machine
	@test -f test/bench/main.ts || { echo "bench: test/bench/main.ts does not exist" >&2; exit 1; }
	@$(DENO) run -A --unstable-net --quiet test/bench/main.ts

check: tools ## Format, lint, types, floors
	@$(DENO) fmt --check --quiet
	@$(DENO) lint --quiet
	@$(DENO) check --quiet $(TYPESCRIPT)
	@$(DENO) test -A --quiet --no-check test/floors_test.ts

release: build ## dist/kiseki.zst, SHA256SUMS, SBOM
	@$(DENO) run -A --quiet deploy/build/release.ts

clean: ## Removes what was built (.tools stays; `rm -rf .tools` removes that too)
	@rm -rf dist coverage
