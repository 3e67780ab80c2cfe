# Requirements: make and Python 3.11 or newer; an older Python fetches one. Everything is installed into .venv.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
FIND_PYTHON = for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; \
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && echo python3
PYTHON ?= $(shell $(FIND_PYTHON))
HOST ?=
PORT ?=
DATA_DIR ?=
ADMIN_EMAIL ?=
JOBS ?= 3
ARGS ?=
COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links --no-annotate --quiet

.DEFAULT_GOAL := help
.PHONY: again help run setup test test-again test-slow lint format bench chaos engine-newest lock

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

run: $(VENV)/.runtime ## start the server with PostgreSQL and Redis (options: HOST, PORT, DATA_DIR, ADMIN_EMAIL, ARGS)
	@exec $(BIN)/python manage.py quickstart $(if $(HOST),--host "$(HOST)") $(if $(PORT),--port "$(PORT)") \
		$(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(if $(ADMIN_EMAIL),--admin-email "$(ADMIN_EMAIL)") $(ARGS)

setup: $(VENV)/.development ## install the packages for development and tests

test: $(VENV)/.development ## run the tests (options: JOBS, ARGS); REQUIRE_ALL=1 fails if a test is skipped
	@$(BIN)/python -m tests.prepare
	@$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow and not chaos" $(ARGS)

test-again: $(VENV)/.development ## if at most three tests failed, run the failed tests again, one at a time (for CI)
	@$(BIN)/python -m tests.again

test-slow: $(VENV)/.development ## run the slow tests (CI runs them after the other tests)
	@$(BIN)/python -m tests.prepare
	@$(BIN)/python -m pytest -q -m "slow and not chaos" $(ARGS)

lint: $(VENV)/.development ## check style, types, import directions and migrations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -W ignore manage.py makemigrations --check --dry-run --settings tests.check_settings

format: $(VENV)/.development ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.development ## run the benchmarks (ARGS="rest idle" runs only these)
	$(BIN)/python -m bench $(ARGS)

chaos: $(VENV)/.development ## kill processes under load, check that no event is lost, write a report (ARGS="--size 0.1")
	@$(BIN)/python -m tests.prepare
	@$(BIN)/python -m tests.chaos $(ARGS)

engine-newest: $(VENV)/.development ## run the contract tests on the newest release of the agent engine (ARGS="--release 1.58.1")
	@$(BIN)/python -m tests.engine_newest $(ARGS)

lock: $(VENV)/.development ## update the requirements files from pyproject.toml
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) pyproject.toml --group dev -o requirements-dev.lock
	$(COMPILE) --group uv -o requirements-uv.lock

# Without Python in $(VENV), for example after an upgrade of the system, everything is installed again.
$(VENV)/.runtime: requirements.lock requirements-uv.lock $(if $(wildcard $(BIN)/python),,again)
	@$(call install,requirements.lock)
	@touch $@

$(VENV)/.development: requirements-dev.lock requirements-uv.lock $(if $(wildcard $(BIN)/python),,again)
	@$(call install,requirements-dev.lock)
	@touch $@ $(VENV)/.runtime

again:

# Lines that start here run under a Python without packages, of any version since 3.8.
define install
	test -n "$(PYTHON)" || { echo "Python 3.11 or newer is required, but python3 is" \
		"$$(python3 --version 2>&1 || echo missing). Install Python, or set PYTHON: make PYTHON=/path/to/python3." >&2; exit 1; }; \
	"$(PYTHON)" -E -s -m lib.python_packages $(1) $(VENV)
endef
