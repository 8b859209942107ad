# `make quickstart` and `make test` work on a fresh machine with Python 3.10 or newer; they install everything first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install quickstart test test-slow lint format clean

install: $(INSTALLED)

$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,plots]"
	touch $@

quickstart: install
	$(BIN)/python examples/quickstart.py

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10

test-slow: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10 -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
