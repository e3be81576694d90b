#!/bin/sh
# Makes .venv-localstack with exactly what requirements.txt beside this file names, unless that is what it has already.
set -eu
cd "$(dirname "$0")/../.."
. deploy/tools.sh

requirements=deploy/localstack/requirements.txt
cmp -s "$requirements" .venv-localstack/requirements.txt && exit
[ -w . ] || fail "this folder cannot be written; clone the repository somewhere that you may write to"
python=$(find_python)
uv=$(find_uv)
echo "set-up: installing LocalStack, for the tests, into .venv-localstack (330 MB)" >&2
export UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=true
"$uv" venv --quiet --clear --python "$python" .venv-localstack
VIRTUAL_ENV=.venv-localstack "$uv" pip sync --quiet --require-hashes "$requirements" ||
    fail "uv could not install LocalStack; the lines above say why"
cp "$requirements" .venv-localstack/
echo "set-up: done" >&2
