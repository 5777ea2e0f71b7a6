#!/bin/sh
# Builds .venv and marks it finished with .venv/.stamp, which holds the folder it was built in.
# A failure at any point leaves no stamp, so that the next run starts over.
set -eu
cd "$(dirname "$0")/.."

suitable='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
find_python() {
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3 python; do
        if "$candidate" -c "$suitable" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: Python 3.11 or 3.12 with venv is needed, $(python3 --version 2>&1 || true) was found;" \
        "install it or name it: make setup PYTHON=/path/to/python3.11" >&2
    exit 2
}

started=$(cat .venv/.stamp 2>/dev/null || true)
rm -f .venv/.stamp
python=$(find_python)
if [ -e .venv ] && [ -z "$started" ] && [ ! -e .venv/install.log ]; then
    echo "setup: .venv is not of this setup; move it away, then try again" >&2
    exit 2
fi
if [ "$started" != "$(pwd -P)" ] || ! .venv/bin/python -c "$suitable" >/dev/null 2>&1; then
    "$python" -m venv --clear .venv
    : >.venv/install.log
fi

echo "setup: installing into .venv (some minutes, once; details in .venv/install.log)"
bars=on
[ -t 1 ] || bars=off
install() {
    .venv/bin/python -m pip install --quiet --progress-bar $bars --log .venv/install.log --no-input \
        --disable-pip-version-check --no-compile "$@"
}
# The constraints name every package, so that pip need not look for versions that fit; the second call brings what only
# this machine needs, such as CUDA's libraries. Python compiles what it imports when it does.
install --no-deps --requirement constraints.txt
install --editable '.[dev]' --constraint constraints.txt
# Created here, because several processes that create it at the same time disturb each other.
MLFLOW_DISABLE_TELEMETRY=true .venv/bin/mlflow db upgrade sqlite:///mlflow.db >/dev/null 2>&1 || true
# DVC unpickles its own indices (CVE-2025-69872 of diskcache, without a fix) and would keep them where everybody on this
# machine may write; here only the owner may.
mkdir -p .dvc/tmp/site
chmod 700 .dvc/tmp/site
.venv/bin/dvc config --local core.site_cache_dir "$(pwd -P)/.dvc/tmp/site"
pwd -P >.venv/.stamp
echo "setup: done"
