# `make conformance` and `make test` set up their environment in .venv. To use another interpreter than python3:
# make clean test PYTHON=python3.12
# On Linux, pip may choose a PyTorch build with several GB of CUDA. Pass options for pip to select another:
# make test PIP_OPTIONS='--index-url ...'

PYTHON ?= python3
PIP_OPTIONS ?=
LOWEST_PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# Compilation caches of PyTorch and JAX, for the next run.
export TORCHINDUCTOR_CACHE_DIR := $(CURDIR)/build/torchinductor
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/build/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES := -1

# VECTORS=avx2 or VECTORS=avx hides wider vector instructions from all libraries: make test VECTORS=avx2
VECTORS ?= widest
ON_VECTORS = $(BIN)/python -m conformance.vectors $(VECTORS) --

# conformance/test_conformance.py is `make conformance` once more, as tests.
SUITE_TESTS := $(filter-out conformance/test_conformance.py,$(wildcard conformance/test_*.py))

# Frameworks that need their own environment: conformance/environments lists the packages, the interpreter is set here.
FRAMEWORKS := oneflow torch-1.10 jax keras liger_kernel mindspore mlx modelopt onnx optax paddle torchtune trl
ONEFLOW_PYTHON ?= python3.10
TORCH_1_10_PYTHON ?= python3.9
interpreter_of = $(if $(filter oneflow,$(1)),$(ONEFLOW_PYTHON),$(if $(filter torch-1.10,$(1)),$(TORCH_1_10_PYTHON),$(PYTHON)))

.PHONY: help conformance conformance-full fuzz report support support-check $(FRAMEWORKS) test test-processors test-processors-short test-long examples larger-than-memory benchmarks accuracy maps docs clients lint format dist corpus lock lock-lowest test-lowest clean
.DEFAULT_GOAL := help

help:  ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "$(FRAMEWORKS): install the framework in an environment of its own, record and judge it"

conformance: $(READY)  ## Compare every implementation with torch.nn.KLDivLoss
	$(ON_VECTORS) $(BIN)/python -m conformance --write build/conformance.html --write build/conformance.json

conformance-full: $(READY)  ## The same without sampling: hours
	$(BIN)/python -m conformance --all --write build/conformance.html --write build/conformance.json

# For as long as asked: make fuzz SECONDS=1800 SEEDS='1 2 3'
SECONDS ?= 60
SEEDS ?=
fuzz: $(READY)  ## Judge random cases, for SECONDS=60
	$(ON_VECTORS) $(BIN)/python -m conformance fuzz --seconds $(SECONDS) $(addprefix --seed ,$(SEEDS))

report: $(READY)  ## Judge installed and recorded implementations, and write only the page: build/conformance.html
	$(BIN)/python -m conformance report

support: $(READY)  ## Write the tables of support in README and docs, from the last `make conformance`
	$(BIN)/python -m conformance.support README.md docs/support.md

support-check: $(READY)  ## Fail unless the tables of support are those of the last `make conformance`
	$(BIN)/python -m conformance.support README.md docs/support.md --check

# Against PyTorch, and against kldiv_xp in the convention of OneFlow and of PyTorch up to 1.12.
$(FRAMEWORKS): %: build/environments/%/ready $(READY)
	rm -rf build/recordings/$*
	build/environments/$*/bin/python conformance/record.py conformance/implementations/$(firstword $(subst -, ,$*)).py \
	    --corpus conformance/corpus.npz --corpus conformance/logits.npz --output build/recordings/$*
	$(BIN)/python -m conformance judge build/recordings/$*/*.npz
	$(BIN)/python -m conformance judge build/recordings/$*/*.npz --reference 'kldiv_xp numpy [oneflow]'
	$(BIN)/python -m pytest -q conformance/test_recordings.py -k $* || { \
	    [ $$? = 5 ] && echo "no recording of $* is committed, with which this one could be compared"; }
	@echo "the recordings are in build/recordings/$*; those of conformance/recordings are committed"

# The models are made with kldiv_xp, and recorded in an environment without it.
onnx: build/onnx
.PHONY: build/onnx
build/onnx: $(READY)
	$(BIN)/python -m conformance.export_onnx --output $@

build/environments/%/ready: conformance/environments/%.txt
	@$(call interpreter_of,$*) -c '' || { echo "make $* needs another Python: see conformance/environments/$*.txt," \
	    "and name it, as in make oneflow ONEFLOW_PYTHON=/path/to/python3.10 or make torch-1.10 TORCH_1_10_PYTHON=..."; exit 1; }
	@echo "setting up build/environments/$*: takes some minutes"
	$(call interpreter_of,$*) -m venv --clear build/environments/$*
	build/environments/$*/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --requirement $<
	touch $@

# Programs that use the loss, each in an environment of its own, with the loss that they have and with kldiv_xp.
CLIENTS := $(basename $(notdir $(wildcard tests/clients/programs/*.txt)))
clients: $(addprefix build/clients/,$(addsuffix /result.json,$(CLIENTS)))  ## Put kldiv_xp in the place of the loss in other people's programs
	$(BIN)/python -m tests.clients.table build/clients docs/clients.md

# A client that differs, or does not run, is in the table, which fails then.
build/clients/%/result.json: build/clients/%/ready tests/clients/programs/%.py tests/clients/drive.py $(wildcard src/kldiv_xp/*.py src/kldiv_xp/*/*.py) | $(READY)
	-build/clients/$*/venv/bin/python tests/clients/drive.py $* --output $@

.PRECIOUS: build/clients/%/ready
build/clients/%/ready: tests/clients/programs/%.txt
	@echo "setting up build/clients/$*: takes some minutes"
	$(PYTHON) -m venv --clear build/clients/$*/venv
	build/clients/$*/venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --requirement $<
	build/clients/$*/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

test: $(READY)  ## Run the tests of the library and of the suite, with coverage
	$(ON_VECTORS) $(BIN)/python -m pytest README.md docs src tests $(SUITE_TESTS) --numprocesses auto --maxprocesses 4 --cov --cov-report=term

# Tests that depend on the last bits of a logarithm.
VALUES := tests/test_accuracy.py tests/test_conventions.py tests/test_gradient_promise.py tests/test_loss_value.py tests/test_properties.py \
    tests/test_sixteen_bits.py tests/test_value_and_grad.py tests/test_values.py
VERDICTS := conformance/test_faults.py conformance/test_ledger.py conformance/test_recordings.py conformance/test_suite.py
test-processors: $(READY)  ## Run the tests of values, corpus and ledger with all vector instructions, with AVX2, and with neither
	for vectors in widest avx2 avx; do \
	    $(BIN)/python -m conformance.vectors $$vectors -- $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
	    $(VALUES) $(VERDICTS) || [ $$? = 77 ] || exit 1; \
	done

test-processors-short: $(READY)  ## A part of it for CI: values and corpus with AVX2, the ledger with neither
	$(BIN)/python -m conformance.vectors avx2 -- $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
	    tests/test_values.py conformance/test_suite.py -k 'not mutated' || [ $$? = 77 ]
	$(BIN)/python -m conformance.vectors avx -- $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
	    conformance/test_ledger.py -k 'not another_value' || [ $$? = 77 ]

test-long: $(READY)  ## Run the tests that take long, and the property-based tests with 20,000 examples and more
	$(BIN)/python -m pytest tests $(SUITE_TESTS) -m long --numprocesses auto --maxprocesses 4
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest tests/test_properties.py

# Old packages call functions that newer ones deprecate.
test-lowest: build/lowest/ready  ## Run the tests, part of the suite, and the docs with the lowest versions that pyproject.toml allows
	build/lowest/bin/python -m pytest README.md docs src tests $(SUITE_TESTS) --numprocesses auto --maxprocesses 4 \
	    -W ignore::DeprecationWarning -W ignore::FutureWarning
	build/lowest/bin/python -m conformance -g documentation -g edge
	build/lowest/bin/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/lowest/docs

# PyTorch goes first, as in $(VENV).
build/lowest/ready: constraints-lowest.txt
	@echo "setting up build/lowest: takes some minutes"
	$(LOWEST_PYTHON) -m venv --clear build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< $(PIP_OPTIONS) torch
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check --requirement $< --editable .
	touch $@

examples: $(READY)  ## Train a student in three frameworks, and move a PyTorch script: build/distillation.png
	$(BIN)/python -m examples.distillation
	$(BIN)/python -m examples.moving_from_torch

larger-than-memory: $(READY)  ## The loss of 4 GB in two processes with less than 1 GB each: Dask, and Cubed from Zarr
	$(BIN)/python examples/larger_than_memory.py
	$(BIN)/python examples/larger_than_memory.py --engine cubed --rounds 1

benchmarks: $(READY)  ## Measure the loss side by side with its peers, in less than 10 minutes: build/benchmarks
	$(ON_VECTORS) $(BIN)/python -m benchmarks

accuracy: $(READY)  ## Errors of the loss and of its peers against the exact value, in some 10 minutes: build/benchmarks
	$(BIN)/python -m benchmarks accuracy

# The page on the committed recordings, which docs/conf.py adds to the documentation. Judging them takes some minutes.
REPORT := build/report/conformance-report.html
$(REPORT): $(wildcard conformance/*.py conformance/*.npz conformance/*/*.py conformance/recordings/*.npz conformance/report/*.*) | $(READY)
	$(BIN)/python -m conformance report conformance/recordings/*.npz --processes 2 --output $@

maps: $(READY)  ## Draw the maps of the special values in docs/images from the committed recordings
	$(BIN)/python -m conformance.report.maps docs/images

docs: $(READY) $(REPORT)  ## Build the documentation, with the report on the committed recordings: build/docs/index.html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo "open build/docs/index.html"

lint: $(READY)  ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)  ## Put the code into its format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

dist: $(READY)  ## Build the wheel and the sdist, and try the wheel in an empty environment with NumPy alone
	rm -rf dist build/wheel-venv
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "$$(ls dist/*.whl)[numpy]"
	cd build && wheel-venv/bin/python -c "import numpy as np, kldiv_xp; assert kldiv_xp.kl_div(np.log([0.5, 0.5]), np.asarray([1.0, 0.0]), 'sum') == np.log(2.0)"
	@echo "the wheel installs, and works with NumPy alone"

corpus: $(READY)  ## Build the corpora of the conformance suite anew
	$(BIN)/python -m conformance.build_corpus losses
	$(BIN)/python -m conformance.build_corpus logits

lock: $(READY)  ## Pin what is installed in constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

# The suite pins a newer PyTorch than the lowest one, hence the override. PyTorch pins its CUDA packages itself.
lock-lowest: $(READY)  ## Pin the lowest versions that pyproject.toml allows in constraints-lowest.txt
	mkdir -p build
	grep --only-matching 'torch>=[0-9.]*' pyproject.toml | sort --unique > build/lowest-torch.txt
	echo '# Written by `make lock-lowest`.' > constraints-lowest.txt
	$(BIN)/uv pip compile --quiet --python-version 3.11 --resolution lowest-direct --extra dev \
	    --override build/lowest-torch.txt --no-emit-package triton --no-annotate --no-header pyproject.toml \
	    | grep --invert-match --extended-regexp '^(nvidia|cuda)-' >> constraints-lowest.txt

clean:  ## Remove the environment and all that was built
	rm -rf $(VENV) build dist

# PyTorch goes first: what depends on it must find the pinned version installed.
$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV): takes a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_OPTIONS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
