# A fresh machine needs Python 3.11, 3.12 or 3.13 with pip, and make; everything else is installed in .venv/.
# Another Python:  make PYTHON=python3.12 test       Arguments for pytest:  make test PYTEST_ARGS="-x -k hubbard"
#
# Why the package is installed twice.
# The folders hamiltonians/, models/, samplers/ and scripts/ are mapped to nqs.hamiltonians, … by pyproject.toml.
# - To run, the package is installed in (default, "lenient") editable mode: setuptools registers an import finder with
#   the mapping. It also works if ./nqs comes first on sys.path, as in `python -c "import nqs.models"` or
#   `python -m pytest` in this directory: Python finds nqs in ./nqs, does not find models there, and asks the next
#   finder. New and renamed files are found at once. The strict mode, a tree of links, does neither.
# - mypy and import-linter run no import finders, so for `make types` and `make lint` the five folders are copied to build/typed/
#   in the layout of their import names, by the build step of the wheel (build_py). Both tools run there; the paths in
#   the messages of mypy are then mapped back to those of the sources.

PYTHON ?= python3
PYTEST_ARGS ?=
RUN_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check
INSTALLED := .venv/.installed
DOCUMENTED := .venv/.documented
TYPED := build/typed
# Folders are included because their times change when a file is added or removed.
SOURCES := $(shell find nqs hamiltonians models samplers scripts \( -type d ! -name __pycache__ -o -name '*.py' -o -name py.typed \) -print)

.DEFAULT_GOAL := help
.PHONY: help run test lint format types docs clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

run: $(INSTALLED)  ## find the ground state of a Bose-Hubbard chain (RUN_ARGS="--help" lists the options)
	$(BIN)/nqs run bose-hubbard $(RUN_ARGS)

# With byte code, because tests start many interpreters.
test: lint types  ## all checks: lint, types, tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal $(PYTEST_ARGS)

lint: $(TYPED)/.built  ## ruff (rules and format) and the import floors, without changes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "$(BIN)/lint-imports  (in $(TYPED)/)"
	@cd $(TYPED) && ../../$(BIN)/lint-imports ../../pyproject.toml --no-cache --no-logo

format: $(INSTALLED)  ## apply the fixes and the format of ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(TYPED)/.built  ## mypy on the built package
	@echo "$(BIN)/mypy -p nqs  (in $(TYPED)/)"
	@cd $(TYPED) && { \
	    ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p nqs > ../mypy.txt 2>&1; \
	    status=$$?; \
	    sed -e 's#^nqs/\(hamiltonians\|models\|samplers\|scripts\)/#\1/#' ../mypy.txt; \
	    exit $$status; }

docs: $(DOCUMENTED)  ## the documentation site in build/docs, warnings as errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

clean:  ## remove builds and caches (the environment stays: rm -r .venv removes it)
	rm -rf build dist docs/api nqs.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find nqs hamiltonians models samplers scripts tests -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# --------------------------------------------------------------------------------------------------------- environment

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	    echo "nqs needs Python 3.11, 3.12 or 3.13, but '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo 'not there')." \
	         "Choose another one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Making the environment .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv

# setuptools first: the version in constraints.txt also builds the package.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing nqs and the versions of constraints.txt into .venv (a first time takes some minutes)"
	@$(PIP) install -c constraints.txt setuptools
	@PYTHONWARNINGS=ignore $(PIP) install -c constraints.txt --no-build-isolation -e '.[test,dev]'
	@touch $@

$(DOCUMENTED): $(INSTALLED)
	@echo "Installing the documentation generator into .venv"
	@PYTHONWARNINGS=ignore $(PIP) install -c constraints.txt --no-build-isolation -e '.[docs]'
	@touch $@

$(TYPED)/.built: $(SOURCES) pyproject.toml $(INSTALLED)
	@rm -rf $(TYPED)
	@$(BIN)/python -c 'import setuptools; setuptools.setup()' --quiet build_py --build-lib $(TYPED)
	@touch $@
