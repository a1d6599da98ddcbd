# podlane's menu. `make` alone prints it; `V=1` shows the commands.

MAKEFLAGS += --no-print-directory

Q := $(if $(V),,@)
PYTHON := .venv/bin/python
RUFF := .venv/bin/ruff
TESTS ?= tests
JOBS ?= 4

.DEFAULT_GOAL := menu
.PHONY: menu setup root demo demo-cluster test bench lint fmt proto check-proto docs lock vendor screenshots clean

menu: ## print this menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: Debian packages and the locked Python environment
	$(Q)./deploy/setup.sh

root:
	@[ "$$(id -u)" = 0 ] || { echo "root is needed for network namespaces and eBPF: run 'sudo make $(MAKECMDGOALS)'" >&2; exit 1; }

demo: root setup ## one node, two pods, from CNI ADD to ping and 1 GiB of TCP, told as a story
	$(Q)$(PYTHON) deploy/demo/demo.py

demo-cluster: root setup ## etcd and three nodes: pods, a policy on all of them, a node that dies
	$(Q)$(PYTHON) deploy/demo/cluster.py

test: root setup ## all tests, in parallel
	$(Q)PYTHONDONTWRITEBYTECODE= $(PYTHON) -m pytest -n $(JOBS) --dist loadgroup $(TESTS)

bench: root setup ## speed against the reference plugins, in one run; table and build/bench.json
	$(Q)$(PYTHON) -m benchmarks.main

lint: setup check-proto ## ruff, mypy --strict, import walls, buf
	$(Q)$(RUFF) check . && $(RUFF) format --check .
	$(Q).venv/bin/mypy
	$(Q).venv/bin/lint-imports
	$(Q).venv/bin/buf lint protos

fmt: setup ## format Python and C
	$(Q)$(RUFF) check --fix . && $(RUFF) format .
	$(Q)command -v clang-format >/dev/null && clang-format -i bpf/*.[ch] bpf/lib/*.h || true

proto: setup ## regenerate protos/gen
	$(Q)./protos/generate.sh

check-proto: proto ## fail when protos/gen is not what the .proto files say
	$(Q)[ -z "$$(git status --porcelain protos/gen)" ] || { git status --short protos/gen; echo "protos/gen is stale: commit what 'make proto' wrote" >&2; exit 1; }

docs: setup ## write the pages of docs/ that are made from the sources
	$(Q)$(PYTHON) -m tests.pages

lock: ## resolve the dependencies anew into requirements.lock
	$(Q).tools/bin/uv lock --upgrade && .tools/bin/uv export --quiet --no-emit-project --no-annotate --no-header --output-file requirements.lock >/dev/null

vendor: ## fetch the page's front-end packages again, and check them (npm)
	$(Q)$(PYTHON) deploy/vendor.py

screenshots: setup ## make the pictures of the live page in docs/images
	$(Q)$(PYTHON) -m tests.ui_screenshots

clean: ## remove everything that was built, the Python environment too
	$(Q)rm -rf .venv .tools build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
