# make demo    set everything up and start the app        make test    set everything up and test
# make check   format, lint and types                     make help    this list
#
# TORCH=cpu    use PyTorch's CPU wheels: 200 MB instead of 3 GB where there is no GPU
# PYTHON=...   the Python 3.10-3.13 that makes .venv      ARGS="--port 7861"   flags for the app

PYTHON ?= python3
TORCH ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

# A stamp is named after the contents of the files it stands for: a change of a requirement, and
# nothing else, installs again. `git checkout` changes times, not contents.
digest = $(shell cat $(1) | cksum | cut -d' ' -f1)
RUN_STAMP := $(VENV)/.installed-$(call digest,requirements.txt)
DEV_STAMP := $(VENV)/.installed-dev-$(call digest,requirements.txt requirements-dev.txt)

.PHONY: help demo test check format system clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -5

demo: $(RUN_STAMP)
	@echo "Starting CLIP Atelier ..."
	@$(BIN)/python app.py $(ARGS)

# Two processes of one thread each: threads that share a small tensor wait for each other.
test: $(DEV_STAMP) system
	@echo "Running the tests ..."
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: $(DEV_STAMP)
	@echo "Checking format, lint and types ..."
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(DEV_STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Chromium for the browser tests, libGL and libEGL for drawing avatars.
system:
	@PYTHON=$(BIN)/python .ci/system

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "CLIP Atelier needs Python 3.10 to 3.13; name one, as in: make demo PYTHON=python3.12"; \
	  exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; \
	  rm -rf $(VENV); exit 1; }

$(RUN_STAMP): | $(BIN)/python
ifeq ($(TORCH),cpu)
	@echo "Installing PyTorch's CPU wheels (about 200 MB) ..."
	@$(PIP) --index-url $(TORCH_CPU_INDEX) $$(grep -oE '^torch(vision)?==[0-9.]+' requirements.txt)
endif
	@echo "Installing requirements.txt (once; some minutes) ..."
	@$(PIP) -r requirements.txt
	@rm -f $(VENV)/.installed-[0-9]* && touch $@

$(DEV_STAMP): $(RUN_STAMP)
	@echo "Installing requirements-dev.txt ..."
	@$(PIP) -r requirements-dev.txt
	@rm -f $(VENV)/.installed-dev-* && touch $@
