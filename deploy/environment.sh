#!/bin/sh
# Makes .venv with exactly what uv.lock names. Needs Python 3.11 or newer and a package index; brings everything else.
set -eu
cd "$(dirname "$0")/.."
. deploy/tools.sh

[ -w . ] || fail "this folder cannot be written; clone the repository somewhere that you may write to"
python=$(find_python)
uv=$(find_uv)
echo "set-up: installing the locked dependencies into .venv"
# Compiled here and once: where PYTHONDONTWRITEBYTECODE is set, every process would compile half a thousand modules again.
UV_COMPILE_BYTECODE=1 UV_PYTHON="$python" UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true "$uv" sync --quiet --frozen --all-extras ||
    fail "uv could not install the locked dependencies; the lines above say why"
echo "set-up: done"
