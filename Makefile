# `make test`, `make demo` and `make app` do all their own set-up in virtual environments below this folder.
PYTHON ?= python3.11
VENV ?= .venv
DEMO_DIR ?= demo
BIN = $(VENV)/bin
# Workers of the test run; each computes with one thread.
JOBS ?= $(shell nproc)

.PHONY: demo app test lint format clean

demo: $(VENV)/.runtime
	$(BIN)/python scripts/demo.py --output_dir $(DEMO_DIR)

# The annotation server's environment: $(BIN)/python -m monailabel_app --studies DIR_OR_URL
app: $(VENV)/.app

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.runtime: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.app: requirements-app.txt $(wildcard monailabel_app/shims/*) $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet -r requirements-app.txt
	$(BIN)/python -m pip install --quiet --no-deps monailabel==0.8.5
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall ./monailabel_app/shims
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.app
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) $(DEMO_DIR) .pytest_cache .mypy_cache .ruff_cache
