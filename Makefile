# `make help` lists the targets. A fresh clone needs no other step than the target you want.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := $(CURDIR)/.venv
PY := $(VENV)/bin/python
# More arguments for pytest: make test ARGS="-k manifest"
ARGS ?=

# Workers of Spark run the interpreter this names; without it they take another one and die.
export PYSPARK_PYTHON := $(PY)
# The Java that setup found; read when a recipe runs, because setup may just have written it.
export JAVA_HOME = $(shell cat $(VENV)/java_home 2>/dev/null)
# The Spark of the locked environment, not one that happens to be installed.
unexport SPARK_HOME

# Spark's classes as setup archived them: every JVM starts ten seconds sooner.
export SPARK_SUBMIT_OPTS := $(SPARK_SUBMIT_OPTS) -XX:SharedArchiveFile=$(VENV)/spark-classes.jsa

.PHONY: help setup demo test test-spark test-state test-unit test-long test-chaos fuzz lint format build lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with the locked versions, find or install Java 17 (quick when done)
	@scripts/setup.sh

demo: setup ## Draw a catalogue, train a small model, tag three nights of it, query the tables
	$(PY) demo/run.py

test: setup ## Run the tests, in two processes side by side; each prints when it ends
	@$(MAKE) --no-print-directory --keep-going --jobs=2 --output-sync test-spark test-state

# 5 is pytest's answer where ARGS selects nothing of a half.
PYTEST_HALF = OMP_NUM_THREADS=1 $(PY) -m pytest --durations=15 -m "not chaos and not long" $(ARGS)
test-spark: setup ## Run the half of the tests with the nights of a catalogue, and those without Spark
	$(PYTEST_HALF) tests/spark tests/unit || [ $$? -eq 5 ]

test-state: setup ## Run the other half: what stands between nights, and whole jobs
	$(PYTEST_HALF) tests/state tests/jobs || [ $$? -eq 5 ]

test-long: setup ## Run the stories that take long: registries, trainings killed or in two processes
	OMP_NUM_THREADS=1 $(PY) -m pytest --durations=15 -m "long and not chaos" $(ARGS) tests

test-chaos: setup ## Kill and race whole jobs through spark-submit; over an hour, not part of test
	OMP_NUM_THREADS=1 $(PY) -m pytest --durations=15 -m chaos $(ARGS) tests/chaos tests/state

test-unit: setup ## Run the tests that need no Java, on all cores
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/unit --numprocesses=auto --durations=3 -m "not long" $(ARGS)

FUZZ_S ?= 120
FUZZ_TARGETS := taxonomy bundle uris rows manifest
fuzz: setup ## Let a fuzzer try files, uris and rows of strangers; ten minutes, FUZZ_S=10 each for a look
	test -d .fuzz/atheris || $(UV) pip install --quiet --python $(PY) --target .fuzz "atheris>=3,<4"
	for target in $(FUZZ_TARGETS); do \
	    mkdir -p .fuzz/corpus/$$target; \
	    OMP_NUM_THREADS=1 PYTHONPATH=.fuzz:. $(PY) tests/fuzz/fuzz_inputs.py $$target .fuzz/corpus/$$target \
	        -max_total_time=$(FUZZ_S) -max_len=2000 -len_control=0 -artifact_prefix=.fuzz/; \
	done

lint: setup ## Check format, style and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: setup ## Format the code and apply the safe fixes of the linter
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

build: setup ## Build dist/: wheel, sdist, and the zip for spark-submit --py-files
	@PYTHON=$(PY) scripts/build.sh dist

# Ranges stand in setup.cfg. UPGRADE=--upgrade takes the newest versions they allow.
UPGRADE ?=
UV = $(shell command -v uv || echo $(CURDIR)/.uv/bin/uv)
lock: setup ## Renew requirements.lock after a change of setup.cfg (UPGRADE=--upgrade: newest)
	$(UV) pip compile setup.cfg --extra dev --python-version 3.11 --generate-hashes \
	    -o requirements.lock --no-emit-index-url --no-emit-find-links --quiet $(UPGRADE)

clean: ## Remove what builds, tests and the demo left behind; .venv stays
	rm -rf build dist demo-output spark-warehouse metastore_db artifacts derby.log \
	    *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
