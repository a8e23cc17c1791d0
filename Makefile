# Two commands do everything: `make run` and `make test`. Both install first, into .venv, when the lock has changed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOCK := $(shell cat pyproject.toml .ci/constraints.txt | cksum | tr -d ' ')
INSTALLED := $(VENV)/installed-$(LOCK)
PEERS := $(VENV)/peers-$(LOCK)

.PHONY: run test lint bench install clean

run: install  ## the main job on the embedded default: three tiny models, a recording with a known answer
	$(BIN)/harness run quickstart

test: install  ## the whole test suite; recordings are looked for in HARNESS_SHARED or ../shared
	$(BIN)/python -m pytest

lint: install  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(PEERS)  ## side-by-side timings, 20 minutes; prints a table and writes benchmarks.json
	$(BIN)/python tests/benchmarks/run.py

install: $(INSTALLED)

# torch comes first and pinned: a bare `torch` would bring the newest build and gigabytes that the lock does not want.
$(INSTALLED):
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt torch
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt --editable '.[dev]'
	touch $@

$(PEERS): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt --editable '.[dev,bench]'
	touch $@

clean:
	rm -rf $(VENV) results build *.egg-info
