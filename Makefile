# make train   install, train PPO on LunarLander-v3 for 1M steps, evaluate, curve and video (about a minute)
# make test    install if needed and run all tests
# make fuzz    a million damaged and forged model files and checkpoints (about ten minutes)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/ppo-LunarLander-v3
SEED ?= 10
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: train install dev test test-all fuzz lint format types docs bench lock clean

train: $(VENV)/.installed
	$(BIN)/actrix train ppo LunarLander-v3 --seed $(SEED) --out $(RUN) --video --require 200
	$(BIN)/actrix eval $(RUN)

install: $(VENV)/.installed
dev: $(VENV)/.dev

$(VENV)/.venv:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'actrix needs Python 3.11 or newer')"
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) --editable ".[all]"
	touch $@

# jax2onnx asks for an older orbax-checkpoint than the pinned one and imports neither: it comes without its dependencies.
$(VENV)/.dev: $(VENV)/.installed
	$(PIP) --editable ".[all,dev]"
	$(PIP) --no-deps jax2onnx
	touch $@

# Trackers, the hub, PettingZoo and reasoning-gym are large, and only slow tests use them.
$(VENV)/.slow: $(VENV)/.dev
	$(PIP) --editable ".[all,dev,track,hub,pettingzoo,reasoning]"
	touch $@

test: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-all: $(VENV)/.slow
	$(BIN)/pytest -n 2 --dist worksteal

fuzz: $(VENV)/.dev
	ACTRIX_FUZZ=1000000 $(BIN)/pytest -n 2 tests/run/test_fuzz.py tests/run/test_fuzz_checkpoints.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict --quiet

# The peers pull in PyTorch: install a CPU build of it into $(VENV) first.
bench: $(VENV)/.installed
	$(PIP) --editable ".[all,bench]"

lock: $(VENV)/.dev
	(head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable) > constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache
