# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Most tests wait for processes, so a few more than there are cores.
TEST_WORKERS ?= 3

# A machine without an NVIDIA driver gets a known CPU-capable torch instead of the newest build with its CUDA libraries.
CONSTRAINTS := $(if $(shell command -v nvidia-smi 2>/dev/null),,-c constraints/cpu.txt)

CAMPAIGNS = --count $(or $(N),10) $(if $(SEED),--seed $(SEED)) $(if $(KEEP_GOING),--keep-going)

.PHONY: help setup demo test chaos chaos-nodes lint format docs benchmarks clean

help:
	@echo "make demo        train in peace, through kills, a preemption and a corrupt snapshot, and on damaged data, and compare"
	@echo "make test        ruff, mypy and every test this machine can run; lists what was skipped and why"
	@echo "make chaos N=100 so many campaigns of random faults; SEED=123 for the first seed, KEEP_GOING=1 to go on after a failure"
	@echo "make chaos-nodes N=100  likewise, of runs on two nodes"
	@echo "make docs        the documentation, in build/docs; warnings are errors"
	@echo "make benchmarks  the figures of benchmarks/README.md"
	@echo "make clean       remove the environment and all caches"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python examples/demo.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

chaos: setup
	$(BIN)/python -m tests.chaos.campaign $(CAMPAIGNS)

chaos-nodes: setup
	$(BIN)/python -m tests.chaos.node_campaign $(CAMPAIGNS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

benchmarks: setup
	$(BIN)/python -m benchmarks.peers
	$(BIN)/python -m benchmarks.recovery
	$(BIN)/python -m benchmarks.snapshot
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.divergence_runs

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
