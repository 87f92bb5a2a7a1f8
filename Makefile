# mergeflow: `make demo` to see it work, `make test` to check it. Needs python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

export MERGEFLOW_HOME ?= $(CURDIR)/.mergeflow

.PHONY: demo test lint bench bench-memory clean help

demo: $(VENV)/.installed  ## train example models, merge them, promote one and refuse the other
	@$(BIN)/mergeflow demo

test: lint  ## everything that CI checks
	@echo "tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev  ## style, types, import direction
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict merge_core
	@$(BIN)/lint-imports

bench: $(VENV)/.installed  ## speed beside mergekit and the disk's floor (8 GB of disk, slow)
	@$(BIN)/python benchmarks/make_checkpoints.py benchmarks/work --models 3
	@$(BIN)/python benchmarks/speed/compare.py benchmarks/work/llama-1b --out benchmarks/work

bench-memory: $(VENV)/.installed  ## peak memory of merges of 1.24 B parameters (10 GB of disk, slow)
	@$(BIN)/python benchmarks/make_checkpoints.py benchmarks/work
	@$(BIN)/python benchmarks/peak_memory.py benchmarks/work/llama-1b --table docs/benchmarks/memory.md

clean:  ## remove the virtual environment and everything that was made here
	@chmod -R u+w $(CURDIR)/.mergeflow 2>/dev/null || true
	rm -rf $(VENV) .mergeflow build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (about two minutes, once) ..."
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing the tools for tests ..."
	@$(INSTALL) -e '.[dev]'
	@touch $@
