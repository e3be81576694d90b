#!/bin/sh
# Makes .venv-rivals with exactly what requirements.txt beside this file names, unless that is what it has already.
set -eu
cd "$(dirname "$0")/../.."
. deploy/tools.sh

requirements=bench/rivals/requirements.txt
cmp -s "$requirements" .venv-rivals/requirements.txt && exit
[ -w . ] || fail "this folder cannot be written; clone the repository somewhere that you may write to"
python=$(find_python)
uv=$(find_uv)
echo "set-up: installing what the consumer is measured against, into .venv-rivals" >&2
export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true
"$uv" venv --quiet --clear --python "$python" .venv-rivals
VIRTUAL_ENV=.venv-rivals "$uv" pip sync --quiet --require-hashes "$requirements" ||
    fail "uv could not install the rivals; the lines above say why"
cp "$requirements" .venv-rivals/
echo "set-up: done" >&2
