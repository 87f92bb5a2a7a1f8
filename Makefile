# mergeflow: `make demo` to see it work, `make test` to check it. Needs python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MERGEKIT := benchmarks/.venv-mergekit
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

export MERGEFLOW_HOME ?= $(CURDIR)/.mergeflow

.PHONY: architecture averaging averaging-plot bench bench-8b bench-memory clean crash database-servers demo docs field fuzz gate gpu help lint scale-out science search security sessions stack stack-test style suite test thorough types wheel

demo: $(VENV)/.installed  ## train example models, merge them, promote one and refuse the other
	@$(BIN)/mergeflow demo

test: $(VENV)/.installed-dev  ## everything that CI checks
	@$(MAKE) --no-print-directory style
	@echo "types and tests"
	@$(MAKE) --no-print-directory -j2 types suite

# `make test` checks types while the tests run: both at once take less time than one after the other.
suite: $(VENV)/.installed-dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

fuzz: $(VENV)/.installed-dev  ## 100,000 damaged checkpoints, adapters and recipes (ten minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --cases 100000
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/faults/test_hostile_headers.py tests/faults/test_hostile_indices.py

field: $(VENV)/.installed-dev  ## situations that people report of merging tools, 46 architectures, what messages advise (a quarter of an hour)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow or not slow' tests/field

thorough: $(VENV)/.installed-dev  ## tests of the rooms that take longer than `make test` has: every case, whole processes, real servers, deep and wide lineages (ten minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/merge_core tests/tasks tests/conformance tests/fuzz \
		tests/benchmarks tests/flows/model_zoo tests/flows/settings tests/flows/servers tests/flows/cli tests/flows/test_merge.py tests/flows/test_approval.py tests/flows/test_audit.py tests/flows/test_auditors_questions.py tests/flows/test_unregistered.py tests/faults/test_interrupted_merge.py

gate: $(VENV)/.installed  ## how often the gate promotes what it must not, and what it should, simulated (ten to twenty minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.gate --out docs/benchmarks/gate.md

science: $(VENV)/.installed  ## published claims about merging, tried on models that are trained for it: docs/science.md (under half an hour)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.science --out docs/science.md --plots docs/images/science \
		--numbers benchmarks/science/measured.json

security: $(VENV)/.installed-dev  ## every attack of docs/security.md that needs no browser (ten minutes; `make stack` has the others)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow or not slow' tests/security tests/tasks/audit tests/flows/test_signed_run.py tests/flows/test_kept_documents.py

crash: $(VENV)/.installed-dev  ## merges killed at 200 moments, starved, raced; secrets searched for (ten minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow or not slow' tests/faults/test_kill_anywhere.py \
		tests/faults/test_disk_faults.py tests/faults/test_changed_inputs_and_races.py tests/faults/test_working_directory.py \
		tests/faults/test_secrets.py

sessions: $(VENV)/.installed-dev  ## Prefect sessions that are killed, evaluations that die, adapters through the whole flow, a home's modes, gc beside servers and mounts, an older home (ten minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/faults/test_prefect_session.py \
		tests/flows/test_evaluation_that_dies.py tests/flows/test_adapters_in_flow.py tests/flows/test_calibrated_run.py tests/flows/test_baselines.py \
		tests/security/test_private_modes.py tests/security/test_gc_and_servers.py tests/security/test_gc_of_mounts.py \
		tests/upgrade

scale-out: $(VENV)/.installed-dev  ## merges by real workers (processes, work pool, Dask), some of them killed (slow)
	@$(INSTALL) -e '.[dask]'
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow or not slow' tests/scale_out \
		tests/faults/test_killed_worker.py tests/merge_core/distributed/test_job.py

search: $(VENV)/.installed-dev  ## searches and diagnoses on real models, a search killed at ten moments, the playground in Chromium (a quarter of an hour)
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(INSTALL) playwright || true
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -m 'slow or not slow' tests/flows/test_search.py tests/flows/test_search_budgets.py tests/flows/test_search_put_off.py \
		tests/flows/test_soup_search.py tests/flows/test_trials_in_mlflow.py tests/tasks/search tests/tasks/test_candidate.py \
		tests/flows/test_diagnose.py tests/flows/cli/test_diagnose.py tests/tasks/diagnosis tests/merge_core/operations/test_diagnosis.py

wheel: $(VENV)/.installed-dev  ## the wheel, built and installed outside: demo, run, average and up from three directories (ten minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow or not slow' tests/installed

lint: style types  ## style, import direction, types

style: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	@$(BIN)/mypy --strict merge_core tasks flows mergeflow

architecture: $(VENV)/.installed-dev  ## the ladder of rooms, its sizes and levels; fails on a circle, a room without words, a file too long
	@$(BIN)/python -m tests.architecture

docs: $(VENV)/.installed-docs  ## the pages and an API reference as one site, build/site/index.html; a link that leads nowhere fails it (two minutes)
	@$(BIN)/python -m sphinx -q -W --keep-going -c docs/site . build/site
	@echo "the site is at build/site/index.html"

bench: $(VENV)/.installed $(MERGEKIT)/.installed  ## speed and memory beside mergekit and the floor, 1.24 B parameters (forty minutes, 11 GB)
	@$(BIN)/python benchmarks/make_checkpoints.py benchmarks/work --models 3
	@$(BIN)/python benchmarks/speed/compare.py benchmarks/work/llama-1b --out docs/benchmarks

bench-8b: $(VENV)/.installed  ## the same at 8 B parameters, to the disk, without mergekit (slow, 50 GB of disk)
	@$(BIN)/python benchmarks/make_checkpoints.py benchmarks/work --shape llama-8b --models 2
	@$(BIN)/python benchmarks/speed/compare.py benchmarks/work/llama-8b --out docs/benchmarks \
		--without floor engine mergekit --methods linear task_arithmetic ties --rounds 1

bench-memory: $(VENV)/.installed  ## peak memory with the tensors of an 8 B model, two layers of it (ten minutes, 13 GB)
	@$(BIN)/python benchmarks/make_checkpoints.py benchmarks/work --shape llama-8b-two-layers --models 3
	@$(BIN)/python benchmarks/speed/compare.py benchmarks/work/llama-8b-two-layers --out docs/benchmarks \
		--without floor engine "floor to disk" "engine to disk" first mergekit --rounds 1

gpu: $(VENV)/.installed-dev  ## on a machine with a GPU: every method against the CPU, and what of the hardware is reached
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/gpu tests/conformance/test_gpu_kernels.py
	@$(BIN)/python benchmarks/make_checkpoints.py benchmarks/work --models 3
	@$(BIN)/python benchmarks/gpu.py benchmarks/work/llama-1b

averaging: $(VENV)/.installed-dev  ## average beside a simulated training run, on real servers (slow)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -s tests/flows/test_average.py tests/averaging

averaging-plot: $(VENV)/.installed  ## measure every schedule on the example models, and draw it
	@OMP_NUM_THREADS=1 $(BIN)/python -m examples.averaging_schedules $(MERGEFLOW_HOME)/zoo \
		--plot docs/images/averaging-schedules.png

stack: $(VENV)/.installed-dev  ## `mergeflow up` with real servers and a real browser (half an hour)
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(INSTALL) playwright || true
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/flows/stack/test_setup.py \
		tests/flows/stack/test_edited_in_prefect.py tests/stack -m slow

stack-test: $(VENV)/.installed-dev  ## `mergeflow up` on PostgreSQL and Redis with two workers (about ten minutes)
	@$(INSTALL) -e '.[scale-out]' check-jsonschema
	@{ command -v redis-server && ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 || \
		$(MAKE) --no-print-directory database-servers || true
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -m 'slow or not slow' tests/stack_servers \
		tests/flows/stack/test_config.py tests/flows/stack/test_compose_file.py

# RUNLEVEL=1: the programs alone are wanted; nothing is started, and no cluster of the system's is used.
database-servers:
	@echo "installing PostgreSQL and Redis from the distribution's packages (needs root) ..."
	@apt-get update -qq
	@RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		postgresql redis-server >/dev/null

clean:  ## remove the virtual environment and everything that was made here
	@chmod -R u+w $(CURDIR)/.mergeflow 2>/dev/null || true
	rm -rf $(VENV) .mergeflow build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

help:  ## this list
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 22

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

$(VENV)/.installed-docs: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing the tools for the site ..."
	@$(INSTALL) $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

# An environment of its own: a peer to measure against, and no part of mergeflow.
$(MERGEKIT)/.installed:
	@$(PYTHON) -m venv $(MERGEKIT)
	@$(MERGEKIT)/bin/python -m pip install -qq torch==2.13.0
	@$(MERGEKIT)/bin/python -m pip install -qq torch==2.13.0 mergekit==0.1.5
	@touch $@
