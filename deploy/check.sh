#!/bin/sh
# Lint, types, import rules, dependencies and templates. Every one runs, and the exit code says whether all were fine.
set -u
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
failed=0

check() {
    title=$1
    shift
    if output=$("$@" 2>&1); then
        echo "ok    $title"
    else
        echo "WRONG $title"
        echo "$output"
        failed=1
    fi
}

check "format" ruff format --check .
check "lint" ruff check .
check "types" mypy
check "import rules" lint-imports
check "dependencies" deptry .
check "templates" cfn-lint deploy/*.yaml
exit $failed
