# Everything a person does with this repository. Needs make and Python 3.11 or newer; the rest is installed here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := deployments/requirements.lock
# Most tests wait most of the time: more of them than processors. A worker without a test takes others' over.
WORKERS ?= 5
SIDE_BY_SIDE = -n $(WORKERS) --dist worksteal
# uv trusts whom the operating system trusts.
export UV_SYSTEM_CERTS := true

.PHONY: demo test test-fast test-long test-kill check lint format lock audit-deps bench reference clean

demo: $(VENV)/ready ## sample studies through a platform on this machine, to a report
	@$(BIN)/dicom-ingest demo

test: $(VENV)/ready ## all tests, several at a time
	@$(BIN)/pytest $(SIDE_BY_SIDE)

test-fast: WORKERS = 3
test-fast: $(VENV)/ready ## those that start no process, no server and no browser: a minute and a half
	@$(BIN)/pytest $(SIDE_BY_SIDE) -m 'not long and not processes'

check: lint test ## what CI runs: format, lint, types, tests

lint: $(VENV)/ready ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(VENV)/ready ## mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(VENV)/ready ## resolve the dependencies anew; kept when schedules still make runs with them
	@$(BIN)/uv pip compile --quiet --universal --upgrade --generate-hashes --no-annotate --no-header \
		--python-version 3.11 --extra sandbox --extra postgresql --extra stores --extra dev --output-file $(LOCK).new pyproject.toml
	@$(MAKE) --no-print-directory VENV=.venv-lock LOCK=$(LOCK).new .venv-lock/ready
	@.venv-lock/bin/pytest -x -m '' tests/e2e/test_schedules.py || { \
		echo "The lock stays as it was: with $(LOCK).new schedules make no runs. Find the package that changed."; exit 1; }
	@mv $(LOCK).new $(LOCK)
	@rm -rf .venv-lock

audit-deps: $(VENV)/ready ## known vulnerabilities of what the lock names; asks an advisory service on the internet
	@$(BIN)/uv tool run --quiet pip-audit --require-hashes --disable-pip --requirement $(LOCK)

test-long: $(VENV)/ready ## what takes minutes each, and 300 kills: an hour
	@$(BIN)/pytest $(SIDE_BY_SIDE) -m long
	@$(MAKE) --no-print-directory test-kill

test-kill: $(VENV)/ready ## killed 300 times at random moments: a quarter of an hour
	@KILLS=300 $(BIN)/pytest $(SIDE_BY_SIDE) -m '' tests/e2e/test_kill.py

bench: $(VENV)/ready ## how fast, side by side
	@$(BIN)/python -m tests.benchmarks

reference: $(VENV)/ready ## deployments/REFERENCE.md and the manual page, from the command line's declarations
	@$(BIN)/python -m tests.reference

clean:
	rm -rf $(VENV) .venv-lock

# Hashes are checked, nothing is resolved, nothing is built but this project itself.
$(VENV)/ready: $(LOCK) pyproject.toml
	@echo "Installing into $(VENV) (a minute the first time) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dicom-ingest needs Python 3.11 or newer: make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes --requirement $(LOCK)
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
