# `make quickstart` and `make test` work on a fresh machine with Python 3.10 or newer; they install everything first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install quickstart test test-slow dist-test benchmark-gpu docs docs-serve lint format clean

install: $(INSTALLED)

# pip first: the one that comes with Python 3.10, 23.0.1, does not resolve the dependencies. torch is pinned here only: a
# user's own, perhaps for a GPU, stays as it is, while an unpinned one would download CUDA's libraries.
$(INSTALLED): setup.py constraints.txt constraints-torch.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -c constraints-torch.txt -e ".[dev,plots]"
	touch $@

quickstart: install
	$(BIN)/python examples/quickstart.py

# Two processes take the test files in turns (`make test PROCESSES=0`: one). `make test COVERAGE=--cov` takes a quarter longer
# and prints which lines ran in pytest's own process, not in those of Ray; `coverage report -m` lists the missing ones.
PROCESSES ?= 2
# Ray's files come first: few and slow tests, which would otherwise be left to one process at the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=10 -n $(PROCESSES) --dist loadfile --no-loadscope-reorder \
	tests/ray tests/cli tests
test: lint
	$(PYTEST) $(COVERAGE)

test-slow: lint
	$(PYTEST) -m slow

# What users get: the wheel, built from the source distribution, in an environment that sees nothing of this checkout.
# The 25th iteration is the first that learns.
dist-test: install
	rm -rf build/dist build/fresh
	$(BIN)/python -m build --outdir build/dist
	$(PYTHON) -m venv build/fresh
	build/fresh/bin/python -m pip install --quiet --upgrade pip
	build/fresh/bin/pip install --quiet -c constraints.txt -c constraints-torch.txt build/dist/*.whl
	cd build/fresh && OMP_NUM_THREADS=1 bin/rllib example run dima_halfcheetah_2x3_nano \
		--stop '{"training_iteration": 25}' --storage-path "$$PWD/results"
	cd build/fresh && bin/rllib evaluate results/dima_halfcheetah_2x3_nano --episodes 1

# Parity of accelerated and eager steps first, then the tables, at last an iteration through Ray; some minutes. Needs a
# PyTorch with CUDA: on a machine that has one, `make benchmark-gpu PYTHON_GPU=python3` uses it without installing anything.
PYTHON_GPU ?= $(BIN)/python
benchmark-gpu:
	$(PYTHON_GPU) -m pytest -q tests/core/test_accelerated.py
	$(PYTHON_GPU) benchmarks/epoch.py --device cuda --acceleration eager cuda_graphs compile --updates 40 --warmup 4
	$(PYTHON_GPU) benchmarks/epoch.py --device cuda --recipe swift --acceleration eager cuda_graphs compile --warmup 4
	$(PYTHON_GPU) benchmarks/epoch.py --device cuda --recipe swift --acceleration compile --through-ray --sample-async --warmup 2

# The site, in site/; fails on a broken link.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs-serve: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

$(VENV)/.installed-docs: $(INSTALLED)
	$(BIN)/pip install --quiet -c constraints.txt -c constraints-torch.txt -e ".[docs]"
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build site *.egg-info .pytest_cache .ruff_cache .coverage
