# `make conformance` and `make test` set up all that they need, in .venv. To use another interpreter than python3:
# make clean test PYTHON=python3.12
# On Linux, pip may choose a PyTorch with several GB of CUDA beside it. Options that make it choose another go here:
# make test PIP_OPTIONS='--index-url ...'

PYTHON ?= python3
PIP_OPTIONS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# torch.compile keeps what it compiled here, so that a second run need not compile it again.
export TORCHINDUCTOR_CACHE_DIR := $(CURDIR)/build/torchinductor

.PHONY: help conformance conformance-full test test-long lint format dist corpus lock clean
.DEFAULT_GOAL := help

help:  ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

conformance: $(READY)  ## Hold every implementation against torch.nn.KLDivLoss
	$(BIN)/python -m conformance --json build/conformance.json

conformance-full: $(READY)  ## The same, with torch.compile over every case, too: much longer
	$(BIN)/python -m conformance --all --json build/conformance.json

test: $(READY)  ## Run the tests of the library and of the suite, with coverage
	$(BIN)/python -m pytest README.md src tests conformance/test_suite.py --cov --cov-report=term

test-long: $(READY)  ## Run the property-based tests with 20,000 examples and more
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest tests/test_properties.py

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

corpus: $(READY)  ## Build the corpus of the conformance suite anew
	$(BIN)/python -m conformance.build_corpus

lock: $(READY)  ## Pin what is installed in constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:  ## Remove the environment and all that was built
	rm -rf $(VENV) build dist

# PyTorch goes first: what depends on it must find the pinned version installed.
$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV): takes a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_OPTIONS) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
