# `make run` and `make test` need nothing but Python 3.11 or newer (the tests on Apache Kafka also
# Java 17 and Maven); they set up everything else in .venv and in ~/.cache. The embedded Kafka copies
# its program to ~/.calfkit, 41 MB, which `make clean` leaves.

PYTHON ?= python3
BIN := .venv/bin
END_TO_END := tests/integration/test_end_to_end.py tests/integration/test_compat.py
# More than there are cores: most tests wait for a broker most of the time.
PROCESSES ?= 4
# The locks of the image: what is installed is what was locked, to the byte.
HASHED := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --custom-compile-command 'make lock'

.PHONY: help setup run gitlab test test-all test-newest image browser faults model bench bench-smoke bench-setup format lint types schemas reference lock kafka producers helm clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

setup: .venv/ready ## everything into .venv

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

run: PORT := 8000
run: setup ## the product with example events, on http://127.0.0.1:8000; PORT=0: a free port
	@$(BIN)/projector dev --example --port $(PORT)

gitlab: PORT := 8000
gitlab: setup ## the same fed from a GitLab-shaped database, where PostgreSQL is installed
	@$(BIN)/python -m examples.gitlab.demo $(PORT)

test: setup kafka ## unit tests, and the product from end to end on both brokers; three and a half minutes
	$(BIN)/pytest -n $(PROCESSES) --dist loadgroup $(END_TO_END) tests/unit tests/compat

test-all: helm producers test ## that, and every command, TLS, users, Redis Cluster, Sentinel, ...; eighteen minutes
	$(BIN)/pytest -n $(PROCESSES) --dist worksteal tests/integration $(END_TO_END:%=--ignore=%)

browser: setup ## the operators' page in a headless Chromium, where chromium and chromedriver are installed
	$(BIN)/pytest tests/browser

test-newest: NEWEST := tests/unit tests/compat
test-newest: setup ## unit tests on Python 3.14, on a Debian; three minutes
	scripts/newest-python .cache/newest-python -q -n $(PROCESSES) $(NEWEST)

faults: setup kafka ## faults under traffic: crashes, outages, failovers, poison; fifteen minutes
	$(BIN)/pytest -n 2 --dist worksteal -m 'not alone' tests/faults; others=$$?; \
	  $(BIN)/pytest -m alone tests/faults && exit $$others

model: setup ## the models of the promises, in every interleaving, where spin and gcc are installed
	$(BIN)/pytest tests/integration/test_model.py

bench: bench-setup ## how fast, beside what the parts can do; some 25 minutes; writes benchmarks/report
	$(BIN)/python -m benchmarks run

bench-smoke: bench-setup ## the same in some two minutes; fails where less than half of what is wanted is left
	$(BIN)/python -m benchmarks smoke

bench-setup: setup kafka
	@command -v wrk >/dev/null || { apt-get update -qq && apt-get install -y -qq wrk >/dev/null; } || \
	  { echo "install wrk, the generator of lookups" >&2; exit 1; }

kafka: ## the jars of Apache Kafka for the tests, where Java and Maven are installed
	@if command -v java >/dev/null && command -v mvn >/dev/null; then scripts/kafka fetch; fi

producers: ## the clients of other producers for the tests, those in Node.js and Go where these are installed
	@PYTHON=$(PYTHON) scripts/producers fetch

helm: ## Helm for the tests of the chart, where Go is installed
	@scripts/helm fetch

format: setup ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup ## style, common errors, security
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo

types: setup ## mypy, strict
	$(BIN)/mypy

schemas: setup ## write docs/asyncapi.yaml and docs/schemas from the code
	$(BIN)/projector schemas docs

reference: setup ## write docs/commands.md and docs/settings.md from the code
	$(BIN)/python scripts/reference.py

lock: setup ## choose the newest allowed versions of everything
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras \
	  --no-annotate --custom-compile-command 'make lock' pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile $(HASHED) --extra gitlab --extra tracing --constraint requirements.lock \
	  pyproject.toml --output-file deploy/image/runtime.lock
	$(BIN)/uv pip compile $(HASHED) --upgrade --group pyproject.toml:image-build \
	  --output-file deploy/image/build.lock

image: ## the image, where Docker is installed
	docker build --tag allowed-agents-projector --build-arg REVISION=$$(git rev-parse HEAD) \
	  --build-arg CREATED=$$(date -u +%Y-%m-%dT%H:%M:%SZ) .

clean: ## remove what setup made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
