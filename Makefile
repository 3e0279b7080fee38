# make demo: the whole pipeline on the miniature.  make test: the tests.  Both set up .venv first, once.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
SYSTEM_PACKAGES := libegl1 libgl1-mesa-dri chromium fonts-dejavu-core
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test setup lint clean system

demo: $(VENV)/.installed
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/syncd run --recipe demo

test: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest

setup: $(VENV)/.installed

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found; name a Python 3.11 or 3.12: make setup PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python system
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Headless rendering needs EGL with Mesa's rasteriser; Chromium shows the report in its tests.
system:
	@.ci/system-packages $(SYSTEM_PACKAGES)

# The views and checkpoints of a miniature training stay; they are artifacts/.miniature.
clean:
	[ ! -d artifacts ] || find artifacts -mindepth 1 -maxdepth 1 ! -name .miniature -exec rm -rf {} +
	rm -rf .prefect
