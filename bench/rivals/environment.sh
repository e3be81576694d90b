#!/bin/sh
# Makes .venv-rivals: what the consumer is measured against.
set -eu
cd "$(dirname "$0")/../.."
. deploy/tools.sh
locked_environment .venv-rivals bench/rivals/requirements.txt "the consumer's rivals"
