# The front door. Every target sets up what it needs and asks nothing.
PYTHON ?= python3
BIN := .venv/bin
export PYTHON

.PHONY: help setup demo test lint bench bench-wan clean

help:
	@echo "make demo    push a real tree, mount it, run Python from the mount"
	@echo "make test    lint, types, import contracts, then the tests floor by floor"
	@echo "make lint    only what make test checks before the tests"
	@echo "make bench   measure against ext4 (ARGS='--only ROW --json')"
	@echo "make bench-wan   cold starts over a slow network, against curl (as root; ARGS too)"
	@echo "make setup   only Debian packages and .venv"
	@echo "make clean   remove everything these made"

setup:
	@scripts/setup.sh

demo: setup
	@scripts/docker.sh
	@$(BIN)/python demo/demo.py $(ARGS)

test: setup
	@scripts/docker.sh
	@$(BIN)/python scripts/run_tests.py $(ARGS)

lint: setup
	@$(BIN)/python scripts/run_tests.py --lint

bench: setup
	@$(BIN)/python -m benchmarks.run $(ARGS)

bench-wan: setup
	@$(BIN)/python -m benchmarks.wan $(ARGS)

clean:
	@if [ -x $(BIN)/python ]; then $(BIN)/python demo/demo.py --clean; fi
	rm -rf .venv .bench .build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	find aysfs tests benchmarks demo scripts -name __pycache__ -type d -exec rm -rf {} +
