# Everything a person runs. Each target sets up what it needs, and may be interrupted and run again.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help demo demo-down test test-long test-node lint simulate images bench-elector bench-webhook bench-controller setup clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The virtual environment, from uv.lock. The stamp is written last, so a set-up that was cut off is done again, and one that
# was cut off before there was a whole environment (the other stamp is still there) begins anew.
.venv/.ready: pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	  "make: Python 3.11 or newer is needed, '$(PYTHON)' is $$($(PYTHON) --version 2>&1); name another with PYTHON=..." >&2; exit 1; }
	@echo "Setting up .venv, once: a minute, or less when it was done before"
	@test ! -e .venv/.new || rm -rf .venv/bin
	@test -x $(BIN)/python || { rm -rf .venv && mkdir .venv && touch .venv/.new && $(PYTHON) -c \
	  'import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); import venv; venv.main([".venv"])'; }  # no traceback on Ctrl-C
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  "uv==$$(sed -n '/^name = "uv"$$/{n;s/version = "\(.*\)"/\1/p;}' uv.lock)"
	@$(BIN)/uv sync --quiet --frozen --extra webhook
	@rm -f .venv/.new
	@touch $@

setup: .venv/.ready  ## the virtual environment, with all that is in uv.lock

demo: setup  ## annotation, injected electors, fail-over (KEEP=1 leaves it running; NODE=1, as root, on a real node)
	@$(BIN)/python -m sandbox demo $(if $(NODE),--node) $(if $(KEEP),--keep)

demo-down: setup  ## end what `make demo KEEP=1` left running
	@$(BIN)/python -m sandbox down --name demo

test: setup lint  ## unit tests, simulation, and the tests on a real API server
	@$(BIN)/python -m sandbox build
	$(BIN)/python -m pytest -m "not long" tests/simulation  # runs on all cores by itself
	$(BIN)/python -m pytest -m "not long" -n 2 --dist loadfile --durations=10 --ignore=tests/simulation --ignore=tests/node tests

test-long: setup  ## what takes minutes: 5,000 simulated seeds, broken elections, client-go as an opponent, the chart
	@$(BIN)/python -m sandbox build
	@$(BIN)/python -c "from sandbox._build import binaries; from sandbox._recipes import CHART_TOOLS; binaries(CHART_TOOLS)"
	$(BIN)/python -m pytest -m long --durations=10 --ignore=tests/node tests

test-node: setup  ## on a real node, with the images and the chart: as root on Linux (15 minutes)
	@if test "$$(uname -s) $$(id -u)" = "Linux 0"; then \
	  $(BIN)/python -m pytest -raP --durations=10 tests/node; \
	else echo "make: tests/node skipped: a node needs Linux and root"; fi

lint: setup  ## style, types and the import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

SEEDS ?= 1000
simulate: setup  ## drive the election through SEEDS=1000 seeded runs full of faults, and sum up
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

bench-elector: setup  ## what an elector costs and how fast it is, beside a candidate written with client-go (about 40 minutes)
	$(BIN)/python -m bench.elector --write

REVIEWS ?= 200000
bench-webhook: setup  ## what the webhook costs (REVIEWS=200000)
	$(BIN)/python -m bench.webhook --reviews $(REVIEWS)

bench-controller: setup  ## what the controller costs and how fast it is, with a thousand elections (four minutes)
	@$(BIN)/python -c "from sandbox._build import binaries; from sandbox._recipes import CHART_TOOLS; binaries(CHART_TOOLS)"
	$(BIN)/python -m bench.controller

REPOSITORY ?= leader-election
TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
comma := ,
images:  ## REPOSITORY-elector and -webhook, by docker, podman or buildah (PUSH=1 pushes; CA=FILE where TLS is re-signed)
	@for tool in docker podman buildah none; do $$tool info >/dev/null 2>&1 && break; done; \
	test $$tool != none || { echo "make: none of docker, podman and buildah works here" >&2; exit 1; }; \
	set -e; for image in elector webhook; do \
	  echo "$$tool: $(REPOSITORY)-$$image:$(TAG)"; \
	  $$tool build $(BUILD_FLAGS) $(if $(CA),--secret id=ca$(comma)src=$(CA)) --target $$image \
	    --tag $(REPOSITORY)-$$image:$(TAG) .; \
	done; \
	if test -n "$(PUSH)"; then for image in elector webhook; do $$tool push $(REPOSITORY)-$$image:$(TAG); done; fi

clean:  ## remove the virtual environment and caches of this checkout (not the built binaries)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
