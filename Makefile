# Loopline: `make` lists what there is.
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
# Tests wait for processes half of their time: one more at a time than there are cores.
TESTERS = $$($(BIN)/python -c 'import os; print((os.cpu_count() or 1) + 1)')

.DEFAULT_GOAL := help
.PHONY: help setup demo run up down test test-browser test-containers chaos nights gpu-check lint format docs bench histories lock clean

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

# The environment is made in three steps, each with a stamp, so that a second `make setup` costs nothing.
setup: $(VENV)/.ready  ## make the environment in .venv (every other target does it too)

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Loopline needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 setup" >&2; exit 1; }
	@echo "Making the environment in $(VENV) (once; torch is the large part)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: $(VENV)/.python requirements/torch.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -r requirements/torch.txt
	@touch $@

$(VENV)/.ready: $(VENV)/.torch requirements/dev.txt client/pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable client
	@touch $@

demo: setup  ## start everything, train a real job, show its progress and the result, stop everything
	@$(BIN)/python -m local demo

run: setup  ## start the service on embedded defaults and stay up (Ctrl-C stops it)
	@$(BIN)/python -m local run

up:  ## docker compose up, with this machine's GPUs or on the CPU; needs Docker alone (docs/server.md)
	@docker/up.sh

down:  ## stop what make up started; all data are kept
	@docker compose --profile '*' down

test: setup  ## all tests, on SQLite, PostgreSQL and Valkey, which come with the environment
	@PYTEST_XDIST_AUTO_NUM_WORKERS=$(TESTERS) $(BIN)/python -m pytest -n auto $(TESTS)

test-browser: setup  ## what web pages may do, in a real Chromium, which apt-get installs where there is none (as root)
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { apt-get update -q && apt-get install -y -q --no-install-recommends chromium; }
	@LOOPLINE_BROWSER=1 $(BIN)/python -m pytest tests/api/test_browser.py $(TESTS)

test-containers: setup  ## build the images and take a stack through docs/server.md and docs/operations.md (Docker; 10 minutes)
	@LOOPLINE_CONTAINERS=1 $(BIN)/python -m pytest tests/containers -s $(TESTS)

chaos: setup  ## random faults on a whole service, then proof of its promises (SECONDS=600 SEED=7; docs/faults.md)
	@$(BIN)/python -m tests.chaos $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

nights: setup  ## a fortnight of retrainings with a moved clock, and a real cron daemon (needs root; about five minutes)
	@LOOPLINE_NIGHTS=1 LOOPLINE_CRON=1 $(BIN)/python -m pytest -q tests/system/test_fortnight.py tests/system/test_nightly.py tests/client/cli/test_cron.py $(TESTS)

gpu-check: setup  ## does it train right on the GPU of this server? (docs/gpu.md; DEVICE=cuda:1 another, DEVICE=cpu without one)
	@$(BIN)/python -m worker.gpucheck --device $(or $(DEVICE),cuda)

lint: setup  ## ruff, mypy --strict, hadolint, and whether the compose files are right
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted; run: make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/hadolint docker/Dockerfile
	@for files in "" "-f compose.cpu.yaml" "-f compose.hosts.yaml" "-f compose.worker.yaml"; do \
	  $(BIN)/docker-compose --env-file .env.example -f compose.yaml $$files --profile '*' config --quiet || exit 1; done
	@echo "lint: nothing to complain about"

format: setup  ## let ruff format the code and mend what it can
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

docs: setup  ## write docs/spec.md, docs/settings.md and the table of docs/metrics.md
	@$(BIN)/python docs/tables.py

bench: setup  ## measure speed and accuracy; the table goes to benchmarks/RESULTS.md (about 15 minutes)
	@$(BIN)/python -m benchmarks $(ONLY)

histories: setup  ## do the nine presets train to the same numbers, bit for bit, as at another commit? (SINCE=HEAD~1)
	@$(BIN)/python -m benchmarks.histories $(or $(SINCE),HEAD~1)

lock: setup  ## pin every dependency anew, with hashes, from requirements/*.in
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@for name in service dev flower; do $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-find-links --no-emit-index-url --no-header requirements/$$name.in -o requirements/$$name.txt; done
	@echo "Pinned. See what moved: git diff --stat requirements"

clean:  ## remove the environment, caches and everything that runs have left in var/
	@rm -rf $(VENV) var .mypy_cache .pytest_cache .ruff_cache .hypothesis
