# Everything a contributor, the CI or a curious reader runs. `make` alone prints the list.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-full offline-demo quick test check lint format types arrows check-deep attacks faults faultsim docs studies check-studies bench clean

PYTHON ?= python3.11
VENV ?= .venv
# extra words for pip, e.g. an index with CPU builds of torch
PIP_FLAGS ?=
# test processes; the tests do not depend on idle cores
WORKERS ?= 2

# of `make faultsim`
SEEDS ?= 10000

# of `make bench`
PAIRS ?= 10
BENCHMARKS ?= start many_sites overhead aggregate round71 scale loading sliding_window gpu private_steps secure_sum time_to_dice

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile

# Before any import of torch, in every process: spinning threads slow a shared machine 30-fold,
# and 1 and 2 threads give different bits.
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE
# Flower's programs start each other by name.
export PATH := $(abspath $(BIN)):$(PATH)
# Flower and Ray report home by default.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0
export DO_NOT_TRACK := 1

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(STAMP) ## a virtual environment in .venv with the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@echo "installing fedrounds and what it needs into $(VENV) (minutes, once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# torch first and alone: it is by far the largest, and every other package then fits itself to it
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt torch
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(STAMP) ## 71 simulated hospitals on phantom brains, at most three minutes after setup
	@$(BIN)/fedrounds demo

demo-full: $(STAMP) ## the same at the size that carries the claim, at most fifteen minutes
	@$(BIN)/fedrounds demo --full

offline-demo: $(STAMP) ## the demo with nothing but loopback; fails if anything dials out
	@$(BIN)/python tests/offline.py $(BIN)/fedrounds demo

quick: $(STAMP) ## the fast tests, under two minutes
	@$(PYTEST) -q -m "not slow"

test: $(STAMP) ## all tests, fast and slow, with coverage
	@$(PYTEST) -q --durations=15 --cov --cov-report=term

check: lint format types arrows ## lint, format, types, import arrows; with -k all of them even if one fails

lint: $(STAMP)
	@$(BIN)/ruff check .

format: $(STAMP)
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@$(BIN)/mypy

arrows: $(STAMP)
	@$(BIN)/lint-imports --no-cache --no-logo

check-deep: $(STAMP) ## mutation score of aggregation, guard, metrics and splits, at least 80 %
	@$(BIN)/python tests/deep/mutation.py --at-least 0.80

attacks: $(STAMP) ## every attack that was thought of, against real processes, and a table; a quarter of an hour; build/attacks.md
	@mkdir -p build
	@$(BIN)/python tests/real/attacks.py --markdown build/attacks.md

faults: $(STAMP) ## every fault made for real against real processes (root, nftables); half an hour; tables in build/
	@mkdir -p build
	@$(BIN)/python tests/real/faults.py --json build/faults.json --markdown build/faults.md

faultsim: $(STAMP) ## SEEDS (10,000) federations under one seeded scheduler, each with faults of its own; 0 violations
	@$(BIN)/python tests/faultsim/run.py --seeds $(SEEDS)

docs: $(STAMP) ## the pages in docs/_build/html; a warning is an error
	@$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

studies: $(STAMP) ## the studies on real images with all baselines, three seeds each; goes on where it stopped
	@$(BIN)/python benchmarks/real_studies.py

check-studies: $(STAMP) ## check every built-in study file
	@for study in studies/*.toml; do $(BIN)/fedrounds study check "$$study"; done

bench: $(STAMP) ## the programs behind every speed claim, PAIRS (10) pairs each, beside the peers; tables in build/bench
	@$(BIN)/python benchmarks/peers.py || true
	@failed=; for name in $(BENCHMARKS); do echo "== $$name"; \
	$(BIN)/python benchmarks/$$name.py --pairs $(PAIRS) -o build/bench || failed="$$failed $$name"; done; \
	for name in allocator from_nothing; do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || failed="$$failed $$name"; done; \
	$(BIN)/python benchmarks/bytes_sent.py --seeds $$(($(PAIRS) < 5 ? 1 : 5)) -o build/bench || failed="$$failed bytes_sent"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

clean: ## remove what was built; runs and the environment stay
	@rm -rf build dist mutants htmlcov .coverage .coverage.* coverage.xml docs/_build
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
