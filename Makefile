# Everything runs in .venv, which `make` builds by itself: what locks/ names, by version and digest, and riskstream.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Stamps of what is installed: for everything; and for the demo, which does with less where that is all there is.
DEV    := $(VENV)/.installed-dev
PIP    := --quiet --disable-pip-version-check
DEMO   := $(if $(wildcard $(DEV)),$(DEV),$(VENV)/.installed-embedded)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo up test test-system check bench bench-large bench-timescale peers save-cost growth bounds chaos soak lock reference clean

help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(DEV) ## build .venv with everything the project needs

$(VENV)/.installed-%: pyproject.toml locks/%.txt locks/build.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "riskstream needs Python 3.11 or newer; try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP) --require-hashes -r locks/build.txt -r locks/$*.txt
	$(BIN)/python -m pip install $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

demo: $(DEMO) ## the whole thing on embedded servers: traders, a worker killed half-way, the reconciliation
	$(BIN)/riskstream demo

up: $(DEMO) ## all that a bot of your own needs, until Ctrl-C: servers, worker, exporter, dashboard
	$(BIN)/riskstream up

check: $(DEV) ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each has servers of its own; an outside Redis is one for all, and gets flushed. Tests wait more than they work, so
# three keep two cores busy.
TEST_PROCESSES ?= $(if $(TEST_REDIS_URL),0,3)
test: check ## every check and the whole test suite, on servers it starts by itself
	$(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist worksteal

test-system: $(DEV) ## failovers, and what needs servers of Debian: forms of connecting, clocks; 30 minutes at most
	timeout 1800 $(BIN)/pytest tests -m system --numprocesses $(TEST_PROCESSES) --dist worksteal

bench: $(DEV) ## measure against the yardsticks: 5 minutes
	$(BIN)/python -m benchmarks

bench-large: $(DEV) ## the same, and with a history of 10 million rows, into docs/benchmarks.md: 6 minutes
	$(BIN)/python -m benchmarks --large --page

bench-timescale: $(DEV) ## drain into hypertables on the server of TEST_TIMESCALE_URL, into docs/benchmarks.md: 5 minutes
	$(BIN)/python -m benchmarks.hypertables --page

peers: $(DEV) ## riskstream beside what others would use, and what faults leave, into docs/benchmarks.md: 10 minutes
	$(BIN)/python -m benchmarks.peers --page

save-cost: $(DEV) ## what save() costs the trader, idle and under load
	$(BIN)/python -m benchmarks.save_cost

growth: $(DEV) ## rates, waits, processor time as things grow, into docs/growth.png and scale.md: 20 minutes
	$(BIN)/python -m benchmarks.growth

bounds: $(DEV) ## measure what docs/reliability.md promises, and write it beside the promises: 25 minutes
	$(BIN)/python -m benchmarks.partitions
	RISK_TEST_BOUNDS=1 $(BIN)/pytest -m bounds

lock: $(DEV) ## write locks/, the digests of dbmate and THIRD-PARTY.txt from constraints.txt
	$(BIN)/python -m locks
	$(MAKE) install
	$(BIN)/python -m locks.notices

reference: $(DEV) ## write docs/reference from the code
	$(BIN)/python -m docs.generate

SECONDS ?= 600
SEED ?= 7
ENGINE ?= single
DESKS ?= 0
chaos: $(DEV) ## faults drawn from a seed, then all is reconciled: make chaos ENGINE=single|cluster|sentinel|hosts SECONDS=600 SEED=7 DESKS=3
	$(BIN)/python -m tests.chaos --engine $(ENGINE) --seconds $(SECONDS) --seed $(SEED) --desks $(DESKS)

SOAK_SECONDS ?= 1800
soak: $(DEV) ## a steady load with kills and restarts: all is reconciled and nothing grew; SOAK_SECONDS=1800
	$(BIN)/python -m tests.soak --seconds $(SOAK_SECONDS)

clean: ## remove .venv, caches and the demo's data
	rm -rf $(VENV) .riskstream .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
