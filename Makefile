# Everything a developer does here. `make` alone explains the targets.
# Needs Python 3.11 or newer, make, and a package registry; all else goes into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTS ?= tests
PYTEST_ARGS ?=
# Hundreds of processes of the tests load the same modules: each would compile them anew.
unexport PYTHONDONTWRITEBYTECODE
CLEAN_PYTHON := env -u PYTHONPATH -u PYTHONHOME
NEW_ENOUGH := import sys, venv, ensurepip; raise SystemExit(sys.version_info < (3, 11))

# The parts of the battery: what each runs. Short in `make test`, long here; CIS_SEED repeats what a part printed.
CHAOS_push := tests/acceptance/test_push.py
CHAOS_room := tests/acceptance/test_room_many.py tests/acceptance/test_room_leases.py tests/acceptance/test_room_lies.py \
    tests/chaos/test_lying_homeserver.py
CHAOS_states := tests/store/test_state_machine.py
CHAOS_simulation := tests/chaos/test_simulation.py
CHAOS_kill := tests/chaos/test_kills.py
CHAOS_adopt := tests/chaos/test_adopt.py
CHAOS_stop := tests/chaos/test_stops.py
CHAOS_escape := tests/chaos/test_escape.py
CHAOS_starve := tests/chaos/test_starve.py
CHAOS_power := tests/chaos/test_power_loss.py
CHAOS_disk := tests/chaos/test_full_disk.py tests/chaos/test_io_errors.py tests/acceptance/test_damage.py
CHAOS_http := tests/chaos/test_http_schema.py
CHAOS_fuzz := tests/chaos/test_fuzz.py tests/chaos/test_fuzz_rows.py
CHAOS_upgrade := tests/store/test_upgrades.py
CHAOS_PARTS := states simulation kill adopt stop escape starve power disk http fuzz upgrade push room
CHAOS_all := $(foreach part,$(CHAOS_PARTS),$(CHAOS_$(part)))

.PHONY: help demo test collected packages check bench bench-full soak chaos serve lock clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A python that is found may still be a shim of a version that is not there, so each is run before it is taken.
$(READY): pyproject.toml requirements/dev.txt requirements/runtime.txt
	@python=""; \
	for candidate in $${PYTHON:-} python3.13 python3.12 python3.11 python3; do \
	    if $(CLEAN_PYTHON) "$$candidate" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "CIS-DAG needs Python 3.11 or newer, with its venv module, and none was found." >&2; \
	    echo "Install one (Debian: apt install python3 python3-venv; macOS: brew install python)," >&2; \
	    echo "or name yours: make PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$("$$python" --version)"; \
	rm -rf $(VENV); \
	$(CLEAN_PYTHON) "$$python" -m venv $(VENV)
	$(CLEAN_PYTHON) $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(CLEAN_PYTHON) $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY) ## start a node, run a real DAG on it, show the result, stop
	@$(BIN)/python examples/demo.py

# Without a homeserver, or a program of Debian's packages, their tests are skipped, loudly; where CI is set that is a failure.
# The files are handed out in the order of tests/conftest.py, the long ones first.
test: $(READY) ## check, then every test
	@$(MAKE) --no-print-directory -j 3 packages check collected
	@$(BIN)/python -m tests.worlds.homeserver || test -z "$${CI:-}"
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS) $(TESTS)

# Runs beside the checks, which leave a processor free: the workers of the tests find compiled what it compiles.
collected: $(READY)
	@$(BIN)/python -m pytest --collect-only -qq $(PYTEST_ARGS) $(TESTS) >/dev/null || true

packages: $(READY)
	@$(BIN)/python -m tests.worlds.debian || test -z "$${CI:-}"

check: $(READY) ## format, lint, types, layers, dead code, known faults of dependencies; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/vulture
	$(BIN)/python -m tests.project.dependencies

# Each writes bench.json, bench.md and bench.svg into build/bench. CASES="layered query" chooses; ROUNDS, DIR as in docs.
BENCH := $(BIN)/python -m tests.bench $(CASES) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(DIR),--dir $(DIR)) \
    --json build/bench/bench.json --markdown build/bench/bench.md --plot build/bench/bench.svg

bench: $(READY) ## what the product costs beside the machine's limit, 3 minutes (docs/explanation/performance.md)
	$(BENCH)

bench-full: $(READY) ## the same at full size, a quarter of an hour (RECORD=1 puts the results into the document)
	$(BENCH) --full $(if $(RECORD),--record docs/explanation/performance.md)

soak: $(READY) ## half an hour of mixed load on one node, watched for what grows (MINUTES=5; docs/explanation/performance.md)
	$(BIN)/python -m tests.bench.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(DIR),--dir $(DIR)) --json build/bench/soak.json

chaos: $(READY) ## the whole battery at full length, hours long (PART=kill for one part; docs/explanation/reliability.md)
	@test -n "$(CHAOS_$(or $(PART),all))" || { echo "PART is one of: $(CHAOS_PARTS)" >&2; exit 2; }
	CIS_LONG=1 $(BIN)/python -m pytest -s $(CHAOS_$(or $(PART),all))

serve: $(READY) ## a node of your own, in the foreground (CIS_HOME, default ~/.cis)
	$(BIN)/cis node start

lock: $(READY) ## solve the dependencies anew and write requirements/*.txt
	@command -v uv >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@for extra in "" dev; do \
	    PATH="$(CURDIR)/$(BIN):$$PATH" uv pip compile --quiet --upgrade pyproject.toml $${extra:+--extra $$extra} \
	        --generate-hashes --no-emit-index-url --no-emit-find-links --universal --python-version 3.11 \
	        --custom-compile-command "make lock" --output-file requirements/$${extra:-runtime}.txt; \
	done

clean: ## remove .venv, caches and build results
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
