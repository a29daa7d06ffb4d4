# Waystation. `make` or `make help` lists what can be done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help up test test-clients lint types layers unit bench soak chaos clean lock

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-13s %s\n", $$1, $$2}'

up: $(VENV)/.installed ## install what is missing, start everything on this machine, print URL and key
	@exec $(BIN)/waystation up $(ARGS)

test: $(VENV)/.installed-dev lint types layers unit ## the whole suite, on real Postgres and Redis

lint: $(VENV)/.installed-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## mypy --strict
	$(BIN)/mypy

layers: $(VENV)/.installed-dev ## import-linter: dependencies point one way
	$(BIN)/lint-imports

unit: $(VENV)/.installed-dev ## pytest on two processes
	$(BIN)/pytest -n 2 -m "not soak and not clients and not chaos" $(ARGS)

CLIENTS := tests/clients/npm
PYTHON_CLIENTS := tests/clients/python
OFFLINE := $(shell unshare -n sh -c 'ip link set lo up' 2>/dev/null && echo unshare -n)

test-clients: $(VENV)/.installed-dev $(CLIENTS)/node_modules/.installed $(PYTHON_CLIENTS)/.venv/.installed ## clients from npm and PyPI, cut off from the network where that can be done
	$(OFFLINE) sh -c '$(if $(OFFLINE),ip link set lo up && )exec $(BIN)/pytest -m clients $(ARGS)'

$(CLIENTS)/node_modules/.installed: $(CLIENTS)/package-lock.json
	cd $(CLIENTS) && npm ci --no-audit --no-fund --ignore-scripts
	@touch $@

$(PYTHON_CLIENTS)/.venv/.installed: $(PYTHON_CLIENTS)/requirements.lock | $(VENV)/bin/python
	@$(PYTHON) -m venv $(PYTHON_CLIENTS)/.venv
	$(PYTHON_CLIENTS)/.venv/bin/pip install -q --disable-pip-version-check --require-hashes -r $<
	@touch $@

bench: $(VENV)/.installed-dev ## our CPU per call beside a bare aiohttp pass-through's
	$(BIN)/python -m tests.bench.run

soak: $(VENV)/.installed-dev ## the slow tests
	$(BIN)/pytest -m soak $(ARGS)
	CODEC_EXAMPLES_TIMES=100 $(BIN)/pytest -n 2 --timeout 3600 tests/wire/test_every_codec.py

lock: ## write the lock files anew (needs uv)
	for extras in ":" "-embedded:--extra embedded" "-dev:--extra embedded --extra dev"; do \
	  uv pip compile pyproject.toml --extra build $${extras#*:} --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate -q -o requirements$${extras%%:*}.lock; done
	uv pip compile $(PYTHON_CLIENTS)/requirements.in --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-annotate -q -o $(PYTHON_CLIENTS)/requirements.lock

chaos: $(VENV)/.installed-dev ## providers fail under load on four nodes: the long versions
	CHAOS_TIMES=5 $(BIN)/pytest -s --timeout 1800 -m chaos tests/chaos tests/health tests/flow tests/upstream/slots $(ARGS)
	CHAOS_TIMES=5 $(BIN)/pytest -s tests/health/test_probes.py $(ARGS)

clean: ## remove the virtual environment and what tools left
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench-results

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Waystation needs Python 3.11 or newer (set PYTHON=...)")'
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements-embedded.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing Waystation and its embedded engines (once)"
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements-embedded.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --quiet -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing Waystation with its tests' tools (once)"
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --quiet -e .
	@touch $@ $(VENV)/.installed
