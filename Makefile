# Four words run everything: setup, check, test, demo. Each brings what it needs into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Two workers: each runs its half in order, so that a module's fixtures are made once, and who is done takes from the other.
# Bytecode is written in any case: the tests start programs by the hundred. Few arenas: the tests start threads by the thousand.
PYTEST := PYTHONDONTWRITEBYTECODE= MALLOC_ARENA_MAX=2 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: setup demo test check bench nightly reference clean

setup: .venv/.dev ## everything a developer needs

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "The hub needs Python 3.11 or newer, this is "\
	  + sys.version.split()[0] + ". Give another: make PYTHON=python3.12 ... (the agent alone runs on 3.10)")'
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv (a minute or two the first time) ..."
	$(PIP) -e '.[demo]'
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv (a minute or two the first time) ..."
	$(PIP) -e '.[dev]'
	@touch $@ .venv/.demo

demo: .venv/.demo ## a hub, a broker and three devices on this machine play every act, in under two minutes
	$(BIN)/tidegate-hub demo $(ARGS)

test: .venv/.dev ## the fast suite, over real brokers and processes
	$(PYTEST) -m 'not nightly' $(ARGS)

nightly: .venv/.dev ## all tests: exhaustive matrices and long simulations too
	$(PYTEST) $(ARGS)

check: .venv/.dev ## lint, format, types, layers, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 -p shared -p edge_agent
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_docs.py tests/test_layers.py

bench: .venv/.dev ## all benchmarks; one: .venv/bin/python -m benchmarks.twin
	$(BIN)/python -m benchmarks.agent
	$(BIN)/python -m benchmarks.budget
	$(BIN)/python -m benchmarks.fleet_budget
	$(BIN)/python -m benchmarks.database
	$(BIN)/python -m benchmarks.drain
	$(BIN)/python -m benchmarks.frames
	$(BIN)/python -m benchmarks.twin
	$(BIN)/python -m benchmarks.query
	$(BIN)/python -m benchmarks.jobs
	$(BIN)/python -m benchmarks.ingest
	$(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.monitoring
	$(BIN)/python -m benchmarks.bytes
	$(BIN)/python -m benchmarks.fleet
	$(BIN)/python -m benchmarks.maintenance
	$(BIN)/python -m benchmarks.thresholds
	$(BIN)/python -m benchmarks.glm
	$(BIN)/python -m benchmarks.pages --servers 300 --weeks 2 --faults 2

reference: .venv/.dev ## write openapi.json, asyncapi.yaml and the configurations' schemas anew
	$(BIN)/python docs/reference/generate.py

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis tidegate-demo
