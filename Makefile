# Everything runs in .venv, which `make` builds by itself; nothing but Python, make and a C++
# compiler must be there before. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check docs bench fuzz clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: $(STAMP)  ## fold and compile real models: BatchNorms, errors and times side by side
	$(BIN)/bnfx demo

test: check  ## lint, types, and the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(STAMP)  ## ruff (lint and format) and mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## write docs/refusals.md anew from the table of codes
	$(BIN)/python -m bnfx.report.refusals > docs/refusals.md.new && mv docs/refusals.md.new docs/refusals.md

bench: $(STAMP)  ## speed of live and frozen weights; cost of the rewrite, the check, the synchronisation
	$(BIN)/python -m bnfx.bench.weights_speed
	$(BIN)/python -m bnfx.bench.rewrite_cost
	$(BIN)/python -m bnfx.bench.check_cost
	$(BIN)/python -m bnfx.bench.sync_cost

fuzz: $(STAMP)  ## thousands of random networks, for a nightly run: folded and compiled are eager
	BNFX_FUZZ=3000 $(BIN)/python -m pytest -n 2 --dist worksteal tests/fuzz

clean:  ## remove the environment and what tools left behind
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
	  "bnfx needs Python 3.10 or newer; this is %d.%d. Use: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@
