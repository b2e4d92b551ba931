# Development and proof of `runbook` on Debian 12 or 13. Start with `make help`.
#
# The machine tier boots real systemds in throwaway machines, for which it must be root; make asks
# sudo by itself when you are not.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The distribution's own: python3-gi belongs to it, and another Python may come first in PATH.
PYTHON := /usr/bin/python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SUDO   := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=XDG_CACHE_HOME,PIP_CERT,HOME)
SUITE  ?= bookworm
# More arguments for pytest: make test-unit PYTEST_ARGS="-k kill_orphan -x"
PYTEST_ARGS ?=
# CUTS_ARGS="--only power --suite trixie": a part of the round of cuts; --help tells more.
CUTS_ARGS ?=
# BENCH_ARGS=--record puts the figures into docs/explanation/speed.md.
BENCH_ARGS ?=

PACKAGES := ca-certificates curl dbus debian-archive-keyring iproute2 mmdebstrap procps \
            python3-gi python3-venv systemd systemd-container util-linux

.PHONY: help setup demo test test-unit test-bus test-machine lint acceptance cuts bench shell docs docs-output clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(STAMP) ## Debian packages and the virtual environment .venv (once)

# A second run costs nothing: apt is asked only when a package is missing, pip when pyproject.toml
# is newer than the stamp.
$(STAMP): pyproject.toml
	@missing="$$(for p in $(PACKAGES); do \
	    dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q '^install ok' || echo $$p; done)"; \
	if [ -n "$$missing" ]; then \
	    $(SUDO) apt-get update -q; \
	    DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qy --no-install-recommends $$missing; \
	fi
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint test-unit test-bus test-machine ## everything but the acceptance with OpenClaw

test-unit: $(STAMP) ## pure tests, and the rules of the house
	$(BIN)/pytest -n 2 -m "not root" --ignore=tests/bus --ignore=tests/machine $(PYTEST_ARGS)

test-bus: $(STAMP) ## against a private dbus-daemon with a fake systemd on it
	$(BIN)/pytest -n 2 tests/bus $(PYTEST_ARGS)

# The trees come first: building one takes longer than a single test may.
test-machine: $(STAMP) ## on booted throwaway machines, systemd 252 and 257
	$(SUDO) $(BIN)/python -m tests.machine.tree
	$(SUDO) $(BIN)/pytest -n 2 -m root tests/unit $(PYTEST_ARGS)
	$(SUDO) $(BIN)/pytest -n 2 --dist loadscope -m "not acceptance" tests/machine $(PYTEST_ARGS)

acceptance: $(STAMP) ## the incident with the real OpenClaw, mended by runbooks/openclaw-gateway.yaml
	@command -v npm >/dev/null || { $(SUDO) apt-get update -q; \
	    DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qy --no-install-recommends npm; }
	$(SUDO) $(BIN)/python -m tests.machine.tree
	$(SUDO) $(BIN)/python -m tests.machine.openclaw
	$(SUDO) $(BIN)/pytest -n 2 --dist loadscope -m acceptance tests/machine $(PYTEST_ARGS)

cuts: $(STAMP) ## runs cut short at every event, and gone on with; most of an hour: make cuts SEED=1
	$(SUDO) $(BIN)/python -m tests.machine.tree
	$(SUDO) $(BIN)/python -m tests.machine.cuts $(SEED) $(CUTS_ARGS)

demo: $(STAMP) ## the incident, staged in a throwaway machine and mended before your eyes
	@$(SUDO) $(BIN)/python -m tests.machine.demo

shell: $(STAMP) ## a shell in a throwaway machine: make shell SUITE=trixie
	@$(SUDO) $(BIN)/python -m tests.machine.shell $(SUITE)

docs: $(STAMP) ## write the generated parts of the pages again
	$(BIN)/python -m tests.docs

docs-output: $(STAMP) ## record the output in the pages again, from real runs in throwaway machines
	@$(SUDO) $(BIN)/python -m tests.machine.tree
	@$(SUDO) $(BIN)/python -m tests.machine.record_docs

bench: $(STAMP) ## how fast it is
	$(SUDO) $(BIN)/python -m tests.bench.bench $(BENCH_ARGS)

clean: ## removes what the other targets made, the trees in the cache too
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	$(SUDO) rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/runbook"
