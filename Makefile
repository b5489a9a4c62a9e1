# `make run` shows the example on this machine's own Python files; `make test` checks everything.
# Needed: make, and Python 3.11 or newer with its venv module. All the rest goes into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14; do \
	command -v $$python >/dev/null && $$python -c '$(USABLE)' 2>/dev/null && echo $$python && break; done)

BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install -qq --constraint constraints.txt
HTTP := 127.0.0.1:8750
CONF := .run/ov.conf
SOCKET := .run/hotreload.sock

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

# --- the example ---------------------------------------------------------------------------------

.PHONY: run
run: .venv/.runs $(CONF) ## run the example on http://127.0.0.1:8750 in the foreground; Ctrl-C drains it
	@chmod 700 .run
	@printf '%s\n' \
	  'From a second terminal, in this folder:' \
	  '  $(BIN)/hotreload status --watch --socket $(SOCKET)' \
	  '  edit $(CONF), say vlm.max_concurrent 4 → 16, save, and watch the first one' \
	  '  $(BIN)/hotreload reload --socket $(SOCKET)     asks for the same and prints the verdict' \
	  '  find .run/workspace -name .abstract.md          what is written' \
	  'Ctrl-C here drains; "make run" again goes on where each document was.'
	@$(BIN)/hotreload run examples.summaries.service:service --config $(CONF) --http $(HTTP) --socket $(SOCKET)

$(CONF): | .venv/.runs
	@umask 077 && mkdir -p .run && \
	key=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(32))') && \
	sed "s|\"hotreload\": {|&\n    \"root_key\": \"$$key\",|" examples/summaries/ov.conf > $@.new && mv $@.new $@

# --- the environment: a stamp each, so that `make run` installs only what it needs ----------------

.venv/.made:
	@test -n "$(PYTHON)" || { echo 'no Python 3.11 or newer with venv found; on Debian: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.runs: .venv/.made pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

.venv/.tests: .venv/.made pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	@touch .venv/.runs $@

.venv/.openviking: .venv/.made pyproject.toml constraints.txt
	$(PIP) --editable '.[dev,openviking]'
	@touch .venv/.runs .venv/.tests $@

# --- checks --------------------------------------------------------------------------------------

COVERED := $(BIN)/coverage run -m pytest

# What needs the stock server, a systemd or containers of its own has its own target; the coverage of all is one report.
# Tests that hold a real deadline run alone, after the others.
APART := openviking systemd container
TYPED := $(filter-out hotreload/openviking/ hotreload/__pycache__/,$(wildcard hotreload/*/)) $(wildcard hotreload/*.py)

# Pure modules are covered to the last branch.
PURE := hotreload/lifecycle.py,hotreload/queue/job.py,hotreload/config/fields.py,hotreload/reload/plan.py,hotreload/reload/report.py

.PHONY: test test-openviking test-systemd test-container test-recovery-full lint types unit format
test: lint types unit ## lint, types and tests with branch coverage, but for what the next ones add

# It keeps the machine busy, so it runs alone.
BUSY := tests/openviking/test_restarts.py

test-openviking: .venv/.openviking ## types and tests of the adapter on stock OpenViking, and the tour
	$(BIN)/basedpyright hotreload/openviking examples/openviking
	$(COVERED) -n 3 --dist loadscope --ignore=$(BUSY) tests/openviking  # a module shares one server
	$(COVERED) $(BUSY)
	$(BIN)/coverage combine --append --quiet
	$(BIN)/coverage report --fail-under=90

BOXES := 4  # at once: most of the time they wait

test-systemd: .venv/.openviking ## tests under real systemd 252 and 257 in containers; as root, with mmdebstrap and nspawn
	$(BIN)/python -m tests.systemd.base
	$(BIN)/python -m pytest -n $(BOXES) --dist worksteal tests/systemd

test-container: .venv/.tests ## the image and the manifests of the examples under podman; as root, with podman, runc, catatonit and mmdebstrap
	$(BIN)/python -m pytest tests/container

test-recovery-full: .venv/.openviking ## what the search for missing work is held to, at full counts: minutes
	HOTRELOAD_SUMMARIES=5000 HOTRELOAD_OTHERS=500 HOTRELOAD_FILES=100000 \
	HOTRELOAD_DOCUMENTS=300 HOTRELOAD_OPENVIKING_KILLS=10 HOTRELOAD_FOLDERS=20000 \
	  $(BIN)/python -m pytest tests/process/test_missing.py tests/openviking/test_missing.py

lint: .venv/.tests ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.tests ## basedpyright, strict
	$(BIN)/basedpyright $(TYPED) examples

unit: .venv/.tests ## the tests alone
	$(BIN)/coverage erase
	$(COVERED) -n 4 --dist worksteal $(APART:%=--ignore=tests/%) -m 'not deadline'
	$(COVERED) $(APART:%=--ignore=tests/%) -m deadline
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --omit='hotreload/openviking/*' --fail-under=93
	$(BIN)/coverage report --include=$(PURE) --fail-under=100

.PHONY: bench-reload
bench-reload: .venv/.tests .venv/.servers ## how long a reload takes, beside Prometheus, Caddy and nginx (Debian's, as root)
	$(BIN)/python -m tests.bench.reload $(ROUNDS)

.venv/.servers: .venv/.made  # their own services are not started
	@missing=$$(for each in prometheus caddy nginx; do command -v $$each >/dev/null || echo $$each; done); \
	if [[ -n "$$missing" && $$(id -u) == 0 ]] && command -v apt-get >/dev/null; then \
	  policy=/usr/sbin/policy-rc.d; \
	  [[ -e $$policy ]] || { trap 'rm -f /usr/sbin/policy-rc.d' EXIT; printf '#!/bin/sh\nexit 101\n' > $$policy; chmod 755 $$policy; }; \
	  apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	fi
	@touch $@

.PHONY: bench-queue
bench-queue: .venv/.tests .venv/.peers ## how fast queue and pool are, beside other durable queues
	PYTHONPATH=.venv/peers $(BIN)/python -m tests.bench.queue $(ROUNDS)

.PHONY: bench-openviking
bench-openviking: .venv/.openviking ## messages a second through OpenViking's Semantic worker and the time of an import, beside stock's
	$(BIN)/python -m tests.bench.openviking_messages $(ROUNDS)
	$(BIN)/python -m tests.bench.openviking_import $(ROUNDS)

.PHONY: bench-postgres
bench-postgres: .venv/.tests .venv/.peers ## how fast the engine on PostgreSQL is, beside pgqueuer and procrastinate; with Debian's postgresql
	PYTHONPATH=.venv/peers $(BIN)/python -m tests.bench.postgres $(ROUNDS)

.PHONY: bench-postgres-done
bench-postgres-done: .venv/.tests ## what done jobs in PostgreSQL cost a claim: few beside a million, or DONE=10000000
	$(BIN)/python -m tests.bench.postgres_done $(DONE)

.venv/.peers: .venv/.made tests/bench/requirements.txt
	$(BIN)/pip --disable-pip-version-check install -qq --target .venv/peers --upgrade -r tests/bench/requirements.txt
	@touch $@

.PHONY: campaign
campaign: .venv/.tests ## services killed 200 times, restarted and drained 100 times each, with what came of it
	HOTRELOAD_KILLS=200 HOTRELOAD_RESTARTS=100 HOTRELOAD_DRAINS=100 HOTRELOAD_IDLE=50 HOTRELOAD_KILLER=5 \
	  $(BIN)/python -m pytest tests/process/test_service_life.py -p no:randomly

.PHONY: campaign-postgres
campaign-postgres: .venv/.tests ## 3 nodes on one PostgreSQL: 200 failures, 100 drains without it, 50 reloads; with Debian's postgresql, faketime
	HOTRELOAD_FLEET_ROUNDS=200 HOTRELOAD_FLEET_JOBS=100000 HOTRELOAD_FLEET_STOP=60 HOTRELOAD_POSTGRES_DRAINS=34 \
	  HOTRELOAD_FLEET_RELOADS=50 $(BIN)/python -m pytest -p no:randomly \
	  tests/process/test_postgres_campaign.py tests/process/test_postgres_drains.py tests/process/test_fleet.py

.PHONY: screenshots
screenshots: .venv/.tests ## the README's pictures of the page and the terminal; with chromium installed
	mkdir -p examples/pictures && $(BIN)/python -m tests.page.screenshots examples/pictures

format: .venv/.tests ## put imports and layout right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# --- upkeep --------------------------------------------------------------------------------------

.PHONY: constraints clean distclean
constraints: .venv/.openviking ## write the versions of .venv to constraints.txt
	@{ head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+=='; } > constraints.new
	@mv constraints.new constraints.txt

clean: ## remove caches and reports
	rm -rf .coverage .coverage.* htmlcov build dist .hypothesis .pytest_cache .ruff_cache .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean ## and .venv and .run, the example's queue and workspace included
	rm -rf .venv .run
