# Everything a user types. Each target that needs the environment builds it first; nothing else is asked for.
.DEFAULT_GOAL := help
.PHONY: help setup closures repro families test test-full coverage mutation fullsize lint audit mlflow dag clean always

PORT ?= 5000
WORKERS ?= 2
# Which tests share a worker, and which come first, is said in tests/conftest.py.
pytest = .venv/bin/pytest -q -n $(WORKERS)
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

families: setup ## run profile mini-families: ensembles of other members than those of Table 2 (not part of `make repro`)
	@.venv/bin/dvc repro families/dvc.yaml
	@.venv/bin/dguide summary --profile mini-families

test: setup ## run every test (WORKERS=2 processes); a skipped one prints its reason
	@OMP_NUM_THREADS=1 $(pytest)

# What the tests count lies in build/counted.txt meanwhile; docs/reliability.md has a table of it.
test-full: setup ## run every test with many more kills, faults and fuzzed cases, and say how many (ten minutes on two quiet cores)
	@mkdir -p build && : > build/counted.txt
	@DG_FULL=1 DG_COUNTS=$(CURDIR)/build/counted.txt OMP_NUM_THREADS=1 $(pytest)
	@.venv/bin/python -m tests.amount build/counted.txt

coverage: setup ## run every test and list the lines and branches of src that none reaches (twice the time of `make test`)
	@OMP_NUM_THREADS=1 $(pytest) --cov --cov-report=term

# mutmut works on a copy in mutants/ and goes on from what it finds there; `make clean` removes it.
mutation: setup ## change diffusion, guidance and evaluation in 2,000 places, one at a time: what no test notices (an hour)
	@OMP_NUM_THREADS=1 .venv/bin/mutmut run --max-children $(WORKERS)
	@.venv/bin/python -m tests.mutants

fullsize: setup ## profile cifar10 with 16 pictures, full-size networks and random weights; seconds of each stage (minutes)
	@DG_FULLSIZE=1 .venv/bin/pytest -q tests/test_fullsize.py

closures: setup ## link closures/<stage> to the modules that each stage imports (after an import has changed)
	@.venv/bin/python scripts/closures.py

lint: setup ## check style, formatting, types and the layers
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

# In an environment of its own: it must not change what it looks at.
audit: setup ## compare the installed versions with published advisories (needs the network)
	@python3 -m venv build/audit && build/audit/bin/pip install --quiet pip-audit
	@.venv/bin/pip freeze --exclude-editable > build/audit/installed.txt
	@build/audit/bin/pip-audit --requirement build/audit/installed.txt --no-deps --disable-pip

mlflow: setup ## open the MLflow UI on http://127.0.0.1:5000 (PORT=5000) until Ctrl-C
	@.venv/bin/dguide mlflow --port $(PORT)

# As text, DVC's drawing is hundreds of columns wide; Mermaid is readable as it is and drawn by GitHub.
dag: setup ## print the pipeline as a Mermaid graph
	@.venv/bin/dvc dag --collapse-foreach-matrix --md

clean: ## remove .venv and tool caches; data, models, reports and MLflow runs stay
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage* mutants build
	@find src tests \( -name __pycache__ -o -name '*.egg-info' \) -type d -prune -exec rm -rf {} +
