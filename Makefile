# Claim by Claim. `make` alone lists what can be made.

PYTHON ?= python3
PAPER ?=
PROFILE ?= laptop
FRESH ?=
BUDGET ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PRESS := $(PY) -m ntf_utils.press
BOOK_TESTS := tests/test_book.py tests/test_browser.py
# One file, one worker: cells of a notebook, or tests that share a built thing, stay together.
TWO_WORKERS := -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help book test lab notebooks reproduce bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(VENV)/.installed  ## build the book from the recorded runs and say where it lies
	@$(PRESS) book

test: $(VENV)/.installed-test  ## everything: lint, unit tests, replays, notebooks, smoke runs, strict book, browser
	$(PY) -m ruff check .
	$(PY) -m pytest $(TWO_WORKERS) tests $(BOOK_TESTS:%=--ignore=%)
	$(PY) -m ntf_utils runs verify
	$(PY) -m ntf_utils replay --budget 30s
	$(PY) -m pytest $(TWO_WORKERS) --nbval --nbval-current-env --nbval-cell-timeout 120 notebooks
	$(PY) -m pytest $(BOOK_TESTS)

lab: $(VENV)/.installed  ## JupyterLab on the notebooks
	$(PY) -m jupyter lab notebooks

notebooks: $(VENV)/.installed  ## execute the .py sources and write the .ipynb beside them [PAPER=]
	@$(PRESS) notebooks $(if $(PAPER),--paper $(PAPER))

reproduce: $(VENV)/.installed  ## run what the records lack [PAPER= PROFILE=laptop BUDGET=10m FRESH=1: all again]
	@$(PY) -m ntf_utils reproduce $(or $(PAPER),all) --profile $(PROFILE) $(if $(FRESH),--fresh) \
	  $(if $(BUDGET),--budget $(BUDGET))

bench: $(VENV)/.installed-test  ## our speed beside what you would otherwise run
	@$(PY) -m benchmarks

clean:  ## remove the built book and all caches; the records, .venv and downloads stay
	rm -rf _build .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The stamps are older than the files below when those change: then pip runs again.
$(VENV)/.installed: requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Claim by Claim needs Python 3.11 or newer, which '$(PYTHON)' is not: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Installing into $(VENV): about two minutes ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --requirement requirements.txt
	@$(PIP_INSTALL) --no-deps --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt
	@$(PIP_INSTALL) --requirement requirements-test.txt
	@touch $@
