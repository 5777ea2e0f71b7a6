#!/bin/sh
# Tells DVC to do without git where this folder is not the top of a git checkout that git can read: an unpacked
# archive, also inside somebody else's checkout, or a machine without git.
# The command that sets DVC's options can be given as arguments.
set -eu
cd "$(dirname "$0")/.."
# Git hands these to hooks; they would make it answer for another folder.
unset GIT_DIR GIT_WORK_TREE

[ $# -gt 0 ] || set -- .venv/bin/dvc config
if top=$(git rev-parse --show-toplevel 2>/dev/null) && [ "$top" -ef . ]; then
    exit 0
fi
if ! grep -qs 'no_scm *= *[Tt]rue' .dvc/config.local; then
    "$@" --local core.no_scm true
    echo "setup: no git checkout here, so DVC runs without git (core.no_scm in .dvc/config.local)"
fi
