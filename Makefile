# `make help` lists the targets. Everything runs as root on Debian 12 and needs nothing installed beforehand.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
PYTHON_ROOMS := audit bench cli collector common compose docs doctor enricher history lab prices schemas sinks tests
# A file's tests stay in one process: they share what is expensive to make. Most wait for Kafka or for a window, so four
# processes keep two cores busy. Files go out in the order that tests/conftest.py gives them.
PYTEST_ARGS ?= -n 4 --dist loadfile --no-loadscope-reorder
# A name here is a file bench/*/NAME.py, `make bench-NAME` and a section of docs/benchmarks.md.
BENCHES := hook overhead collector enricher sinks columnar index freshness bill advise forecast archive history audit scale

.PHONY: help setup demo test quick torture real-api cluster-test soak flips bench compose-test check format docs screenshots images chart lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing: apt packages, .venv, Apache Kafka's jars
	@scripts/setup

demo: setup ## a cluster of namespaces, real packets, real Kafka, live tables; DURATION=60 ends by itself
	@$(BIN)/zonemeter demo $(if $(DURATION),--duration $(DURATION))

test: ## all tests: tables, the hook in a real kernel, Kafka, one run end to end
	@scripts/setup test
	@$(BIN)/pytest $(PYTEST_ARGS)

quick: ## the tests that need no root, no server, no process and no archive; set-up needs root, these do not
	@[ "$$(id -u)" != 0 ] || scripts/setup test
	@$(BIN)/pytest $(PYTEST_ARGS) -q -m quick

torture: ## every fault many times, then the books: an hour; SEED=1 ONLY="broker kill" SHARE=0.1
	@scripts/setup test
	@$(BIN)/python -m tests.torture $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)") $(if $(SHARE),--share $(SHARE))

real-api: ## manifests, advice and the enricher beside a real kube-apiserver; its first run builds it: some ten minutes
	@scripts/setup test
	@$(BIN)/python -m tests.real_api

cluster-test: ## a real Kubernetes cluster here: install, traffic beside the wire's count, kills, an upgrade, uninstall; some 15 minutes
	@scripts/setup test
	@$(if $(VARIATION),ZONEMETER_CLUSTER_VARIATION="$(VARIATION)") $(BIN)/python -m tests.cluster $(if $(ONLY),--only "$(ONLY)") $(if $(KEEP),--keep)

soak: setup ## memory, descriptors and tasks at full load must be flat: the lab, or NODES=1000 made-up ones; MINUTES=30
	@$(BIN)/python -m bench.services.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(NODES),--nodes $(NODES))

flips: ## windows under load, to the packet; FLIPS=1000
	@scripts/setup test
	@FLIPS=$(or $(FLIPS),1000) $(BIN)/pytest -q tests/collector/packets/test_flips.py

bench: setup $(BENCHES:%=bench-%) ## all benchmarks into docs/benchmarks.md; one: make bench-hook

bench-%:
	@scripts/setup bench
	@$(BIN)/python -m $(subst /,.,$(basename $(wildcard bench/*/$*.py))) $(BENCH_ARGS)

compose-test: setup ## docker-compose.yml for real: build, up, traffic, metrics, flow log, audit, down
	@scripts/compose-test

check: setup ## formatters, linters, types, import rules; under a minute
	@$(BIN)/ruff format --check --quiet $(PYTHON_ROOMS)
	@$(BIN)/ruff check --quiet $(PYTHON_ROOMS)
	@$(BIN)/clang-format --dry-run --Werror bpf/*.[ch]
	@$(BIN)/lint-imports --no-cache >.cache/lint-imports.log || { cat .cache/lint-imports.log; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@echo "check: ok"

format: setup ## rewrite the sources as `make check` wants them
	@$(BIN)/ruff check --quiet --fix-only $(PYTHON_ROOMS)
	@$(BIN)/ruff format --quiet $(PYTHON_ROOMS)
	@$(BIN)/clang-format -i bpf/*.[ch]

screenshots: ## redraw the pages' pictures in docs/images, from a made-up week
	@scripts/setup test
	@$(BIN)/python scripts/screenshots

docs: setup ## rewrite docs/settings.md from the settings classes
	@$(BIN)/python -m tests.support.settings_reference >docs/settings.md

images: ## build the images, push them, write where they are: REGISTRY=registry.example.com/tools TAG=0.1.0 PLATFORMS=...
	@scripts/images "$(REGISTRY)" $(TAG)

chart: ## copy into the Helm chart the files that it shares with k8s/: Helm reads nothing outside of it
	@cp k8s/monitoring/{alerts.yml,dashboard.json,health.json} k8s/trial/prometheus.yml charts/zonemeter/files/

lock: setup ## rewrite requirements.lock, and the images' parts of it, from pyproject.toml
	@$(BIN)/pip install -q uv
	@$(BIN)/uv pip compile -q --upgrade --all-extras --generate-hashes --python-version 3.11 --no-header --no-annotate pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --generate-hashes --python-version 3.11 --no-header --no-annotate -c requirements.lock pyproject.toml -o images/requirements.lock
	@$(BIN)/uv pip compile -q --extra msk --generate-hashes --python-version 3.11 --no-header --no-annotate -c requirements.lock pyproject.toml -o images/requirements-msk.lock
	@$(BIN)/uv pip compile -q --extra iceberg --generate-hashes --python-version 3.11 --no-header --no-annotate -c requirements.lock pyproject.toml -o images/requirements-iceberg.lock

clean: ## take down the lab of this checkout and delete what setup and the demo made
	@[ ! -x $(BIN)/zonemeter ] || $(BIN)/zonemeter lab down --of-this-checkout
	@rm -rf .venv .cache demo/flows-2*Z* *.egg-info build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@[ ! -d demo ] || rmdir --ignore-fail-on-non-empty demo
