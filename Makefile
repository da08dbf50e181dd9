# Four words run everything: setup, check, test, demo. Each brings what it needs into .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Four workers, also on two cores: tests of whole worlds wait more than they compute. A module stays with one worker, so
# that its fixtures are made once.
# Bytecode is written in any case: the tests start programs by the hundred. Few arenas: the tests start threads by the thousand.
# One thread for OpenMP and BLAS: more of them than free cores wait for each other, and count as work.
PYTEST := PYTHONDONTWRITEBYTECODE= MALLOC_ARENA_MAX=2 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

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

# Sparkplug libraries of others, apart from ours (tests/interop/). What cannot be installed is skipped with its reason by the
# demo and the tests, and fails in CI.
.venv-interop/.pip: tests/interop/requirements.txt
	@echo "installing pysparkplug into .venv-interop ..."
	@$(PYTHON) -m venv .venv-interop \
	  && .venv-interop/bin/python -m pip install --quiet --disable-pip-version-check -r $< && touch $@ \
	  || echo "no pysparkplug: what needs it is skipped"

.venv-interop/.npm: tests/interop/package.json .venv-interop/.pip
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
	  echo "installing sparkplug-client into .venv-interop ..."; mkdir -p .venv-interop; cp $< .venv-interop/; \
	  npm install --prefix .venv-interop --silent --no-package-lock --no-audit --no-fund && touch $@ \
	    || echo "no sparkplug-client: what needs it is skipped"; \
	else echo "no node or npm: what needs them is skipped (apt install nodejs npm)"; fi

demo: .venv/.demo .venv-interop/.pip ## a hub, a broker and three devices on this machine play every act, in under two minutes
	$(BIN)/tidegate-hub demo $(ARGS)

test: .venv/.dev .venv-interop/.npm ## the fast suite, over real brokers and processes
	$(PYTEST) -m 'not nightly' $(ARGS)

nightly: .venv/.dev .venv-interop/.npm ## all tests: exhaustive matrices and long simulations too
	$(PYTEST) $(ARGS)

check: .venv/.dev ## lint, format, types, layers, docs, wheels of the device profiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 -p shared -p edge_agent
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_docs.py tests/test_layers.py
	@$(MAKE) --no-print-directory .venv/.wheels

.venv/.wheels: pyproject.toml constraints.txt $(wildcard device_profiles/*.toml)
	$(BIN)/python tests/installed/profile_wheels.py $@ # a minute or two, when a profile or a pin has changed

bench: .venv/.dev ## all benchmarks; one: .venv/bin/python -m benchmarks.twin
	$(BIN)/python -m benchmarks.agent
	$(BIN)/python -m benchmarks.ask
	$(BIN)/python -m benchmarks.budget
	$(BIN)/python -m benchmarks.fleet_budget
	$(BIN)/python -m benchmarks.database
	$(BIN)/python -m benchmarks.drain
	$(BIN)/python -m benchmarks.models
	$(BIN)/python -m benchmarks.quantization
	$(BIN)/python -m benchmarks.sources
	$(BIN)/python -m benchmarks.plant
	$(BIN)/python -m benchmarks.glm_engine
	$(BIN)/python -m benchmarks.incidents
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
	$(BIN)/python -m benchmarks.playbooks
	$(BIN)/python -m benchmarks.sparkplug --nodes 200 --rounds 1
	$(BIN)/python -m benchmarks.pages --servers 300 --weeks 2 --faults 2

reference: .venv/.dev ## write openapi.json, asyncapi.yaml and the configurations' schemas anew
	$(BIN)/python docs/reference/generate.py

clean:
	rm -rf .venv .venv-interop dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis tidegate-demo
