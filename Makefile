# make demo | make test | make bench: each does its own set-up in virtual environments under this folder.
# .venv holds what flies plus the tools for its tests, without torch; .venv-training adds PyTorch.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
TRAINING := .venv-training
OUT ?= flights
WORKERS ?= 2
.DEFAULT_GOAL := help

.PHONY: help demo browser test test-agent test-training lint bench setup setup-training clean python-present

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

python-present:
	@command -v $(PYTHON) >/dev/null || { echo "Python is missing: install it with: sudo apt install python3 python3-venv (3.11 or newer)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); CrackScout needs Python 3.11 or newer (make PYTHON=python3.12 ...)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "The venv module is missing: install it with: sudo apt install python3-venv"; exit 1; }

# The stamps hold the set-up: it runs again only when pyproject.toml changed.
$(VENV)/.agent: pyproject.toml | python-present
	@echo "Setting up $(VENV) (what flies, no torch) ..."
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.agent
	@echo "Adding the tools for tests to $(VENV) ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(TRAINING)/.dev: pyproject.toml | python-present
	@echo "Setting up $(TRAINING) (PyTorch; several GB, some minutes) ..."
	@test -x $(TRAINING)/bin/python || $(PYTHON) -m venv $(TRAINING)
	@$(TRAINING)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[training,dev]'
	@touch $@

setup: $(VENV)/.dev  ## set up the environment of the agent
setup-training: $(TRAINING)/.dev  ## set up the environment for training (PyTorch)

demo: $(VENV)/.agent  ## replay a short recorded flight along a pier and write its report
	@$(VENV)/bin/drone-agent demo --out $(OUT)

# The browser tests skip with a reason where there is no Chromium and no way to install it.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "Installing Chromium for the browser tests ..." && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || echo "Chromium is missing: the browser tests will be skipped (sudo apt install chromium)"

test: lint browser test-agent test-training  ## everything: linters, types, architecture, tests

lint: $(VENV)/.dev $(TRAINING)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(TRAINING)/bin/mypy

# Without torch, so that nothing the drone needs can lean on it.
test-agent: $(VENV)/.dev  ## the tests of what flies
	$(VENV)/bin/pytest -m "not training"

test-training: $(TRAINING)/.dev  ## the tests of the training package
	OMP_NUM_THREADS=1 $(TRAINING)/bin/pytest -m training tests/training -n $(WORKERS) --dist loadscope

bench: $(VENV)/.dev  ## speed, as ratios within one run
	$(VENV)/bin/python bench/run.py
	$(VENV)/bin/python -m tests.bench.marking_latency --runs 100 --load 2

clean:  ## remove the virtual environments and caches
	rm -rf $(VENV) $(TRAINING) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
