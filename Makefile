# Everything runs in .venv, which `make` builds by itself; nothing but Python, make and a C++
# compiler must be there before. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Relay's tests need another Python (3.10) and another TVM than the rest.
RELAY_VENV := .venv-relay
RELAY_BIN := $(RELAY_VENV)/bin
RELAY_STAMP := $(RELAY_VENV)/.installed
RELAY_FILES := $(RELAY_VENV)/onnx
# CI runs the slow tests, too: MARKS='not heavy' (.ci/run).
MARKS ?= not heavy and not slow

.DEFAULT_GOAL := help
.PHONY: help site figures compare demo test test-all test-main test-relay test-tvm-versions test-versions check docs docs-relay bench bench-engines bench-relay gpu soak fuzz fuzz-relay prove mutants mutants-relay faults clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

demo: $(STAMP)  ## fold and compile real models: BatchNorms, errors and times side by side
	$(BIN)/bnfx demo

test: check test-main test-relay  ## lint, types, and the suite but for what takes long

test-all: MARKS = heavy or not heavy
test-all: test test-versions  ## slow and heavy tests, too, and with every torch that is supported

test-main: $(STAMP)  ## the suite, but for Relay
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=25 -m '$(MARKS)'

# The recipe is one script: where there is no Python 3.10, it says so, and fails only if told to.
test-relay: $(STAMP)  ## Relay's tests, in a Python 3.10 of their own
	@if sh tests/relay/find_python.sh >/dev/null; then \
	  $(MAKE) --no-print-directory $(RELAY_STAMP) $(RELAY_FILES) && \
	  $(RELAY_BIN)/python -m pytest -n 2 --dist worksteal --durations=25 -m '$(MARKS)' tests/relay; \
	else \
	  echo "*** NOT TESTED: tests/relay (bnfx.tvm.relay, bnfx.passes.relay)."; \
	  echo "*** They need Python 3.10: put python3.10 on PATH, or install pyenv or uv."; \
	  test -z "$$BNFX_REQUIRE_RELAY"; \
	fi

# The environments differ from .venv in TVM alone, so they look the rest up there.
test-tvm-versions: $(STAMP)  ## Relax's tests without torch, on the older TVMs that bnfx supports
	sh tests/relax/older_tvms.sh $(BIN)/python

# Environments of 5 to 7 GB each, so neither CI nor `make test` makes them; `make test-all` does.
test-versions:  ## the suite with the oldest and newest torch that bnfx supports (docs/versions.md)
	PYTHON=$(PYTHON) sh tests/torch_versions.sh '$(MARKS)'

check: $(STAMP)  ## ruff (lint and format) and mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## write docs/refusals.md anew from the table of codes
	$(BIN)/python -m bnfx.report.refusals_page > docs/refusals.md.new && mv docs/refusals.md.new docs/refusals.md

docs-relay: $(RELAY_STAMP)  ## write docs/tvm_relay_ops.md anew: ops that are left of small graphs
	PYTHONPATH=tests/relay $(RELAY_BIN)/python tests/relay/op_counts.py > docs/tvm_relay_ops.md.new
	mv docs/tvm_relay_ops.md.new docs/tvm_relay_ops.md

site: $(STAMP)  ## build the documentation as a site, warnings as errors: docs/_site/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_site

figures: $(STAMP)  ## run the experiments of docs/batchnorm.md and draw all pictures anew
	$(BIN)/python docs/draw_figures.py
	$(BIN)/python docs/draw_report.py

compare: $(STAMP)  ## run the programs of docs/compare on what is installed, and write its table anew
	$(BIN)/python docs/compare/run.py

bench: $(STAMP)  ## speed of live and frozen weights; cost of the rewrite, the check, the synchronisation
	$(BIN)/python -m bnfx.bench.weights_speed
	$(BIN)/python -m bnfx.bench.rewrite_cost
	$(BIN)/python -m bnfx.bench.depth
	$(BIN)/python -m bnfx.bench.check_cost
	$(BIN)/python -m bnfx.bench.call_cost
	$(BIN)/python -m bnfx.bench.sync_cost
	$(BIN)/python -m bnfx.bench.tvm_relax

bench-engines: $(STAMP)  ## bnfx beside ONNX Runtime and OpenVINO, 13 models: hours (docs/performance.md)
	$(BIN)/python -m bnfx.bench.engines

bench-relay: $(RELAY_STAMP)  ## what folding changes in Relay builds: build time and run time
	$(RELAY_BIN)/python -m bnfx.bench.tvm_relay

# No environment of its own: a machine with a GPU has its PyTorch. GPU_ARGS="--seconds 800", ...
gpu:  ## tests and benchmarks on a GPU, with the Python at hand: results in gpu-results (docs/cuda.md)
	PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m bnfx.bench.gpu $(GPU_ARGS)

SECONDS ?= 1800
soak: $(STAMP)  ## threads call one model while another writes to it, for SECONDS (1800)
	$(BIN)/python -m bnfx.bench.soak --seconds $(SECONDS)

# PROVE_ARGS="--step 10" takes each tenth case, "--only merge" the rules so named.
prove: $(STAMP)  ## each rule on every small shape, and the battery, to the last bit (docs/reliability.md)
	PYTHONPATH=tests $(BIN)/python -m proofs $(PROVE_ARGS)
	$(BIN)/python -m pytest -q -m 'heavy or not heavy' tests/proofs tests/battery tests/peers tests/relax/test_whole_numbers.py

# Mutants can be stopped and go on later. MUTANTS="passes/crossing --again", "--seconds 600".
faults: $(STAMP)  ## rules, compilers, memory, disks, files, threads and ranks that fail: counted
	$(BIN)/python -m pytest -q -m 'heavy or not heavy' tests/test_faults.py tests/faults tests/archives \
	  tests/fuzz/test_files.py tests/weights/test_interrupts.py tests/weights/test_threads.py \
	  tests/sync/test_diagnosis.py

mutants: $(STAMP)  ## break each guard in turn; a test must fail (docs/reliability.md)
	PYTHONPATH=tests $(BIN)/python -m mutants $(MUTANTS)

mutants-relay: $(RELAY_STAMP)  ## the same for passes/relay, whose tests need a Python of their own
	PYTHONPATH=tests $(RELAY_BIN)/python -m mutants $(MUTANTS)

fuzz: $(STAMP)  ## random networks, equivalent ones, weights, damaged files, for SECONDS (1800)
	PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(SECONDS)

fuzz-relay: $(RELAY_STAMP)  ## thousands of random Relay modules, for a nightly run
	BNFX_FUZZ=3000 $(RELAY_BIN)/python -m pytest tests/relay/test_random.py

clean:  ## remove the environments and what tools left behind
	rm -rf $(VENV) $(RELAY_VENV) .venv-tvm-* .venv-torch-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
	  "bnfx needs Python 3.10 or newer; this is %d.%d. Use: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(RELAY_STAMP): pyproject.toml
	"$$(sh tests/relay/find_python.sh)" -m venv $(RELAY_VENV)
	$(RELAY_BIN)/python -m pip install --quiet --editable '.[test-relay]'
	@touch $@

$(RELAY_FILES): tests/relay/export_onnx.py $(STAMP)
	$(BIN)/python tests/relay/export_onnx.py $@
	@touch $@
