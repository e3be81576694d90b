#!/bin/sh
# Makes .venv-localstack: LocalStack, which the wire tests run on beside the local cloud.
set -eu
cd "$(dirname "$0")/../.."
. deploy/tools.sh
locked_environment .venv-localstack deploy/localstack/requirements.txt "LocalStack, for the tests (330 MB),"
