# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# one thread per test process: with two workers on two cores more would only get in each other's way
TEST_ENV := OMP_NUM_THREADS=1 MPLBACKEND=Agg WANDB_MODE=offline

.PHONY: demo test lint types layers unit coverage format wheel docs clean

demo: $(VENV)/installed
	$(BIN)/lightning-advreg demo --out runs/demo

test: lint types layers unit

lint: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/installed-test
	$(BIN)/mypy

layers: $(VENV)/installed-test
	$(BIN)/lint-imports

unit: $(VENV)/installed-test
	$(TEST_ENV) $(BIN)/pytest -n 2 --dist worksteal -m "not slow"

# apart from the tests, which it makes a third slower
coverage: $(VENV)/installed-test
	$(TEST_ENV) $(BIN)/pytest -n 2 --dist worksteal -m "not slow" --cov --cov-report=term:skip-covered --cov-fail-under=90

format: $(VENV)/installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# sdist and wheel in dist/, and the wheel used in a fresh environment that sees the packages of .venv
wheel: $(VENV)/installed
	.ci/wheel $(VENV)

# the documentation site in build/site, from an environment of its own; pages open from the disk too
docs: build/docs-env/installed
	NO_MKDOCS_2_WARNING=1 build/docs-env/bin/mkdocs build --strict --config-file .ci/mkdocs.yml
	build/docs-env/bin/python .ci/check_links.py build/site

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage*

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/installed

build/docs-env/installed: .ci/site/requirements.txt
	$(PYTHON) -m venv build/docs-env
	build/docs-env/bin/python -m pip install --quiet --requirement .ci/site/requirements.txt
	touch $@
