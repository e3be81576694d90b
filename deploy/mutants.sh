#!/bin/sh
# Mutation testing of the decisions (pyproject.toml, tool.mutmut), in a virtual environment of its own.
# Arguments are names of mutants to run again: 'services.chaos.*'.
set -eu
cd "$(dirname "$0")/.."
. deploy/tools.sh

python=$(find_python)
uv=$(find_uv)
UV_PROJECT_ENVIRONMENT=.venv-mutants UV_PYTHON="$python" UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true \
    "$uv" sync --quiet --frozen --all-extras --group mutants || fail "uv could not install mutmut; the lines above say why"
[ $# -gt 0 ] || rm -rf mutants
nice -n 5 .venv-mutants/bin/mutmut run --max-children 2 "$@" >mutants.log 2>&1 || { tail -n 40 mutants.log; exit 1; }
rm mutants.log
.venv-mutants/bin/python -m tests.mutants
