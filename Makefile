# make demo   on a bare machine with Python 3.11 and make: installs, trains, evaluates, merges, shows a table and a picture
# make test   the same set-up, then all the tests
# make check  what CI runs: format, lint, types, tests at both ends of the supported PEFT range

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST_PEFT := 0.21.0
PYTEST := $(BIN)/python -m pytest
DEMO := runs/demo

.PHONY: help install demo test test-slow test-oldest-peft check format lint types bench clean

help:
	@grep -E '^# make' Makefile | sed 's/^# //'

# torch goes first and alone: later packages then find it there, whatever build of it the machine is meant to have.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[cli,dev]'
	touch $(STAMP)

install: $(STAMP)

demo: $(STAMP)
	@rm -rf $(DEMO) $(DEMO)-merged
	$(BIN)/dude train recipes/mini_gsm_dude.yaml output=$(DEMO)
	$(BIN)/dude eval $(DEMO) --suite mini_csqa --limit 200
	$(BIN)/dude merge $(DEMO) -o $(DEMO)-merged
	$(BIN)/python examples/ask.py $(DEMO)-merged
	@echo
	@echo "picture: $(DEMO)/curves.png    record: $(DEMO)/run.json    answers: $(DEMO)/eval    merged model: $(DEMO)-merged"
	@echo "next:    copy recipes/mini_gsm_dude.yaml, change method or data, and run  $(BIN)/dude train YOUR.yaml"

test: $(STAMP)
	$(PYTEST) -n 2 --dist loadfile -m "not slow"

test-slow: $(STAMP)
	$(PYTEST) -m slow

# The other end of the supported range of PEFT, laid over the environment: everything that goes through PEFT.
test-oldest-peft: $(STAMP)
	test -d .peft-oldest/peft-$(OLDEST_PEFT).dist-info || { rm -rf .peft-oldest; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target .peft-oldest peft==$(OLDEST_PEFT); }
	PYTHONPATH=.peft-oldest EXPECTED_PEFT=$(OLDEST_PEFT) $(PYTEST) -q -n 2 --dist loadfile -m "not slow" tests/test_peft_range.py \
	  tests/test_identity_at_start.py tests/test_gradients.py tests/test_merge.py tests/test_saving.py tests/test_lifecycle.py \
	  tests/test_bad_input.py tests/test_training.py

check: lint types test test-oldest-peft

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/layer.py
	$(BIN)/python benchmarks/step.py

clean:
	rm -rf $(VENV) .peft-oldest runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
