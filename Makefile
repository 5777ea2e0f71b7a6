# Everything a user types. Each target that needs the environment builds it first; nothing else is asked for.
.DEFAULT_GOAL := help
.PHONY: help setup repro test fullsize lint mlflow dag clean always

PORT ?= 5000
WORKERS ?= 2
profile = $$(sed -n 's/^profile: *\([A-Za-z0-9_.-]*\).*/\1/p' params.yaml)

# DVC starts `dguide` by name, so .venv/bin must come first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY ?= true

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: .venv/.stamp ## build .venv with everything in it (once; again when pyproject.toml or constraints.txt change)
	@sh scripts/dvc_scm.sh

# The stamp holds the folder it was made in: scripts in .venv hold absolute paths, so a moved or copied folder
# needs a new environment.
.venv/.stamp: pyproject.toml constraints.txt $(shell [ "$$(cat .venv/.stamp 2>/dev/null)" = "$$(pwd -P)" ] || echo always)
	@sh scripts/setup.sh

repro: setup ## run the study of the profile named in params.yaml: data, training, sampling, evaluation, report
	@.venv/bin/dvc repro
	@.venv/bin/dguide summary --profile "$(profile)"

test: setup ## run every test (WORKERS=2 processes); a skipped one prints its reason
	@OMP_NUM_THREADS=1 .venv/bin/pytest -q -n $(WORKERS) --dist loadgroup

fullsize: setup ## profile cifar10 with 16 pictures, full-size networks and random weights; seconds of each stage (minutes)
	@DG_FULLSIZE=1 .venv/bin/pytest -q tests/test_fullsize.py

lint: setup ## check style, formatting, types and the layers
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

mlflow: setup ## open the MLflow UI on http://127.0.0.1:5000 (PORT=5000) until Ctrl-C
	@.venv/bin/dguide mlflow --port $(PORT)

# As text, DVC's drawing is hundreds of columns wide; Mermaid is readable as it is and drawn by GitHub.
dag: setup ## print the pipeline as a Mermaid graph
	@.venv/bin/dvc dag --collapse-foreach-matrix --md

clean: ## remove .venv and tool caches; data, models, reports and MLflow runs stay
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage build
	@find src tests \( -name __pycache__ -o -name '*.egg-info' \) -type d -prune -exec rm -rf {} +
