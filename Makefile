# Every target sets up what it needs on first use (see deploy/environment.sh).
.PHONY: demo up down test simulate soak check bench clean sweep mutants
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python

help:
	@sed -n 's/^## //p' Makefile

## make demo    watch a fleet heal itself: the whole story on this machine, three to seven minutes by the machine
demo: .venv/ready
	@$(PYTHON) -m ops demo

## make up      start the same and leave it running, with commands to try
up: .venv/ready
	@$(PYTHON) -m ops up

## make down    end what 'make up' started, and whatever an interrupted run left behind
down: .venv/ready
	@$(PYTHON) -m ops down

## make test    all tests: unit, over the wire, and the story
test: .venv/ready
	@$(PYTHON) -m pytest -n 3 --dist loadfile -m "not story" tests  # many wait for something
	@$(PYTHON) -m pytest -m story tests
	@$(MAKE) --no-print-directory simulate

## make simulate   two hundred days of the whole system, each with faults of its own (docs/simulation.md)
simulate: .venv/ready
	@$(PYTHON) -m tests.simulation 1 --seeds 200

## make soak    fifty times thirty days of it: an hour on two cores
soak: .venv/ready
	@$(PYTHON) -m tests.simulation 1 --seeds 50 --days 30

## make check   lint, types, import rules, templates
check: .venv/ready
	@sh deploy/check.sh

## make sweep   strike every workflow at every await and every change (tests take a sample; twenty-five minutes)
sweep: .venv/ready
	@SWEEP_SAMPLE=0 $(PYTHON) -m pytest -n 2 tests/simulation/test_sweep.py

## make mutants   change the decisions one place at a time, and say which changes no test notices (a quarter of an hour)
mutants:
	@sh deploy/mutants.sh

## make bench   run every benchmark, write bench/results.json
bench: .venv/ready
	@$(PYTHON) -m bench

## make clean   remove the environment and everything that runs made
clean: down
	@rm -rf mutants .venv .venv-* .localcloud demo-report .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/ready: uv.lock pyproject.toml deploy/environment.sh deploy/tools.sh
	@sh deploy/environment.sh
	@touch $@
