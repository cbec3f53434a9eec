PYTHON ?= python3
VENV ?= .venv
DEFAULT_BUNDLE = bundles/digits
BUNDLE ?= $(DEFAULT_BUNDLE)
HOST ?= 127.0.0.1
PORT ?= 3000
BIN = $(VENV)/bin

export BENTOML_DO_NOT_TRACK = True
PIP_INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock

.PHONY: serve bundle bento test test-fast fuzz gpu-check lint format clean

# Only the default bundle is built; any other that is missing is for the service to refuse.
serve: $(VENV)/.calibration $(if $(filter $(DEFAULT_BUNDLE),$(BUNDLE)),bundle) ## build the default bundle once and serve it
	OFFRAMP_BUNDLE=$(BUNDLE) OFFRAMP_GRPC_HOST=$(HOST) exec $(BIN)/bentoml serve service.app:Offramp --host $(HOST) --port $(PORT)

bundle: $(DEFAULT_BUNDLE)/manifest.json ## train, calibrate and certify the default model

bento: $(VENV)/.calibration bundle ## package service and default bundle as a Bento
	$(BIN)/bentoml build

# small products of torch that wait for a busy second core take ten times as long
test test-fast: export OMP_NUM_THREADS = 1

test: $(VENV)/.dev ## the whole suite
	$(BIN)/python -m pytest

test-fast: $(VENV)/.dev ## without the slow tests
	$(BIN)/python -m pytest -m "not slow"

fuzz: export FUZZ_MINUTES ?= 10
fuzz: export OMP_NUM_THREADS = 1

fuzz: $(VENV)/.dev ## requests that nobody should send, for FUZZ_MINUTES
	$(BIN)/python -m pytest tests/fuzz --timeout=0

# Runs on $(PYTHON) as it is: a machine with a GPU may have no way to install the rest.
gpu-check: ## device tests and engine benchmark on an NVIDIA GPU, written to docs/gpu.md
	$(PYTHON) -m benchmarks.gpu_check

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) bundles

# An existing bundle is never rebuilt by make: `offramp demo --force` does that.
$(DEFAULT_BUNDLE)/manifest.json: | $(VENV)/.calibration
	$(BIN)/offramp demo --out $(DEFAULT_BUNDLE)

$(VENV)/.calibration: pyproject.toml requirements.lock | $(BIN)/python
	@echo "installing packages into $(VENV) (once, some minutes)"
	$(PIP_INSTALL) --editable '.[calibration]'
	@touch $@

$(VENV)/.dev: pyproject.toml requirements.lock | $(BIN)/python
	@echo "installing packages into $(VENV) (once, some minutes)"
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.calibration

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "offramp needs Python 3.11 or newer, found: $$($(PYTHON) --version 2>&1); name another with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
