PYTHON ?= python3
VENV ?= .venv
DEFAULT_BUNDLE = bundles/digits
BUNDLE ?= $(DEFAULT_BUNDLE)
HOST ?= 127.0.0.1
PORT ?= 3000
DEVICE ?= cpu
BASE ?= python:3.11-slim
BIN = $(VENV)/bin

export BENTOML_DO_NOT_TRACK = True
# most tests keep one core busy: two at a time, those of one file together
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile
PIP_INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock

.PHONY: serve bundle bento container-test test test-fast fuzz gpu-check soak faults bench bench-quick lint format clean

# Only the default bundle is built; any other that is missing is for the service to refuse.
serve: $(VENV)/.calibration $(if $(filter $(DEFAULT_BUNDLE),$(BUNDLE)),bundle) ## build the default bundle once and serve it
	OFFRAMP_BUNDLE=$(BUNDLE) OFFRAMP_GRPC_HOST=$(HOST) exec $(BIN)/bentoml serve service.app:Offramp --host $(HOST) --port $(PORT)

bundle: $(DEFAULT_BUNDLE)/manifest.json ## train, calibrate and certify the default model

bento: $(VENV)/.calibration $(if $(filter $(DEFAULT_BUNDLE),$(BUNDLE)),bundle) ## package service and bundle as a Bento; DEVICE=cuda for GPUs
	@$(BIN)/python -m container.bento $(BUNDLE) --device $(DEVICE) --base $(BASE)

container-test: $(VENV)/.calibration bundle ## build the image and show that it works; RECORD=1 writes figures to docs/containers.md
	@$(BIN)/python -m container.trial --base $(BASE) $(if $(RECORD),--record docs/containers.md)

# small products of torch that wait for a busy second core take ten times as long
test test-fast: export OMP_NUM_THREADS = 1

test: $(VENV)/.dev ## the whole suite
	$(PYTEST)

test-fast: $(VENV)/.dev ## without the slow tests
	$(PYTEST) -m "not slow"

fuzz: export FUZZ_MINUTES ?= 10
fuzz: export OMP_NUM_THREADS = 1

fuzz: $(VENV)/.dev ## requests that nobody should send, for FUZZ_MINUTES
	$(BIN)/python -m pytest tests/fuzz --timeout=0

soak: SOAK_MINUTES ?= 30

soak: $(VENV)/.dev $(if $(filter $(DEFAULT_BUNDLE),$(BUNDLE)),bundle) ## the service under load, written to docs/reliability.md; ONLY="soak overload" chooses
	$(BIN)/python benchmarks/soak.py --bundle $(BUNDLE) --minutes $(SOAK_MINUTES) $(addprefix --only ,$(ONLY))

faults: $(VENV)/.dev $(if $(filter $(DEFAULT_BUNDLE),$(BUNDLE)),bundle) ## the service under faults, written to docs/reliability.md; ONLY="drift clock-jump" chooses
	$(BIN)/python benchmarks/faults.py --bundle $(BUNDLE) $(addprefix --only ,$(ONLY))

# The data are named by hand: DATA has goemotions/ and mulan/, MINILM is all-MiniLM-L6-v2.
# Without them the digits alone are compared.
MLSERVER = $(VENV)-mlserver
GOEMOTIONS = --data $(DATA)/goemotions/train.tsv --tune $(DATA)/goemotions/dev.tsv \
	--test $(DATA)/goemotions/test.tsv --label-names $(DATA)/goemotions/labels.txt
BIBTEX = $(DATA)/mulan/bibtex/bibtex
COMPARED = $(if $(DATA),bundles/bibtex $(if $(MINILM),bundles/emotions-model bundles/emotions-labels))
SERVED = --mlserver-python $(MLSERVER)/bin/python \
	$(if $(DATA),--table-bundle bundles/bibtex --table $(BIBTEX)-test.arff) \
	$(if $(MINILM),--encoder-bundle bundles/emotions-model --nearest-bundle bundles/emotions-labels --texts $(DATA)/goemotions)

bench: $(VENV)/.dev $(MLSERVER)/.installed bundle $(COMPARED) ## offramp beside its peers, quality against cost, scale: written to docs/results.md
	$(BIN)/python benchmarks/serving.py $(SERVED) --out docs/results.md --picture docs/side-by-side.png
	$(BIN)/python benchmarks/quality_cost.py $(addprefix --data ,$(DATA)) $(addprefix --minilm ,$(MINILM)) --out docs/results.md --picture docs/quality-cost.png
	$(BIN)/python benchmarks/scale.py --out docs/results.md

bench-quick: $(VENV)/.dev $(MLSERVER)/.installed bundle ## every server of the comparison and every table of scale, for a moment
	$(BIN)/python benchmarks/serving.py --mlserver-python $(MLSERVER)/bin/python --quick
	$(BIN)/python benchmarks/scale.py --quick

$(MLSERVER)/.installed: benchmarks/peers/mlserver.txt
	@echo "installing MLServer into $(MLSERVER) (once, a minute)"
	$(PYTHON) -m venv $(MLSERVER)
	$(MLSERVER)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bundles/emotions-model: | $(VENV)/.calibration
	$(BIN)/offramp calibrate --model $(MINILM) $(GOEMOTIONS) --against model --guarantee hamming --epsilon 0.03 --out $@

bundles/emotions-labels: | $(VENV)/.calibration
	$(BIN)/offramp calibrate --model $(MINILM) $(GOEMOTIONS) --out $@

bundles/bibtex: | $(VENV)/.calibration
	$(BIN)/offramp train --data $(BIBTEX)-train.arff --test $(BIBTEX)-test.arff --guarantee sample-f1 --against labels --out $@

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
	rm -rf $(VENV) $(MLSERVER) bundles

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
