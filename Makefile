# `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PHOTOS ?= $(wildcard ../shared/images/dev)

.DEFAULT_GOAL = help
.PHONY: help demo test lint types bench format clean

help:  ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

# Made once: a second call installs nothing. The stamp is older than pyproject.toml when that changed.
$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "htcjob needs Python 3.10 or newer; name one with PYTHON=python3.12"; exit 1; }
	@test -e $@ || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing htcjob and its tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/installed  ## Run an array of 8 jobs of the face tagger over photos, here.
	@PATH="$(abspath $(BIN)):$$PATH" examples/face-tagger-array.sh "$(PHOTOS)"

test: $(VENV)/installed  ## Run the tests.
	$(BIN)/python -m pytest

lint: $(VENV)/installed  ## Check style, and that imports point one way.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache

types: $(VENV)/installed  ## Check types, strictly.
	$(BIN)/mypy

bench: $(VENV)/installed  ## Measure start-up and throughput, side by side with what bounds them.
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.throughput "$(PHOTOS)"

format: $(VENV)/installed  ## Format the code.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove what the other targets made.
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
