# Everything a user types. Each target that needs the environment builds it first; nothing else is asked for.
.DEFAULT_GOAL := help
.PHONY: help setup repro test fullsize lint docs numbers mlflow experiments release dag clean always

PORT ?= 5000
# Three, also on two processors, for some tests wait.
WORKERS ?= 3
VARIANTS ?= edm|d0|mean_prob
SETTINGS ?= variants.d0.w1
# DVC starts `dguide` by name, so .venv/bin must come first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY ?= true
# Containers often set it; then each command would compile thousands of modules, which doubles the time of its start.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: .venv/.stamp ## build .venv (once; again when pyproject.toml or constraints.txt change)
	@sh scripts/dvc_scm.sh

# The stamp holds the folder it was made in: a moved or copied folder needs a new environment.
.venv/.stamp: pyproject.toml constraints.txt $(shell [ "$$(cat .venv/.stamp 2>/dev/null)" = "$$(pwd -P)" ] || echo always)
	@sh scripts/setup.sh

repro: setup ## run the pipeline and print its results; PROFILE=name activates another profile first
	@[ -z "$(PROFILE)" ] || dguide profile $(PROFILE)
	@dguide config
	@dvc repro
	@dguide summary

test: setup ## run every test in WORKERS=3 processes; a skipped one prints its reason
	@OMP_NUM_THREADS=1 pytest -q -n $(WORKERS)

fullsize: setup ## walk cifar10 and cifar10-reproduction with 16 images, full-size networks and random weights in the real file formats
	@DG_FULLSIZE=1 pytest -q tests/test_fullsize.py

lint: setup ## check style, types and the layers
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports --no-logo

docs: setup ## build the documentation in site/ and check its links; NOTEBOOKS=all runs the long notebooks too
	@NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@for page in reports/*/index.html; do [ ! -f "$$page" ] || install -D -m 644 "$$page" "site/$$page"; done
	@echo "docs: wrote site/index.html"

numbers: setup ## write the results into README.md and docs from reports/
	@python scripts/write_numbers.py

mlflow: setup ## print links to the runs and curves, and serve the MLflow UI on port PORT=5000 until Ctrl-C
	@MLFLOW_TRACKING_URI=sqlite:///mlflow.db python scripts/mlflow_views.py http://127.0.0.1:$(PORT)
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_LOGGING_LEVEL=WARNING PYTHONWARNINGS=ignore \
		mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 --uvicorn-opts "--log-level warning" \
		--backend-store-uri sqlite:///mlflow.db --artifacts-destination mlartifacts

experiments: setup ## compare DVC experiments: the FIDs of VARIANTS and the values of SETTINGS, two patterns
	@dvc exp show --drop '.*' --keep 'Experiment|.*/($(VARIANTS)).json:fid$$|$(SETTINGS)'

release: setup ## pack the networks of the profile in params.yaml into dist/, for from_pretrained
	@dguide release

# As text, DVC's drawing is hundreds of columns wide.
dag: setup ## print the pipeline as a Mermaid graph
	@dvc dag --collapse-foreach-matrix --md

clean: ## remove .venv and tool caches; data, models, reports and MLflow runs stay
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build
	@find src tests \( -name __pycache__ -o -name '*.egg-info' \) -type d -prune -exec rm -rf {} +
