# Everything a developer types. Needs Python >= 3.11 and make; the rest is installed into this folder.
PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
INSTALLED := .venv/.installed
COMPILED := .compiled/.built
# without a C compiler the sidecars under test are not compiled
HAS_CC := $(shell command -v cc >/dev/null \
	&& test -e "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" && echo yes)
UNDER_TEST := $(if $(HAS_CC),AUTHIX_TEST_SIDECAR_PYTHON=$(CURDIR)/.compiled/bin/python)
BENCHMARKS := issuer model login_storm login_timing logout_latency replay revocation_map verify cut_on_logout sidecar
# half as many again as there are cores, because tests wait for programs
TESTERS := $(shell $(PYTHON) -c 'import os; print(max(2, (os.cpu_count() or 1) * 3 // 2))')
# file by file as they come, so that tests/e2e is first: by itself xdist would leave its files, long but of few tests, to
# the end, where they run alone
SPREAD := --dist loadfile --no-loadscope-reorder
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help install compiled run run-scale demo test coverage soak check format docs site bench build lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

install: $(INSTALLED) ## install the locked versions into .venv

# uv itself comes from the hashed lock too
$(UV): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit("Authix needs Python 3.11 or newer: set PYTHON=/path/to/python3" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "This Python lacks venv: install it (Debian: apt-get install python3-venv)."; exit 1; }
	$(PYTHON) -m venv .uv
	sed -n '/^uv==/,/# via/p' requirements.lock > .uv/uv.txt
	.uv/bin/python -m pip install --quiet --require-hashes --requirement .uv/uv.txt
	@touch $@

$(INSTALLED): $(UV) requirements.lock pyproject.toml sdk/pyproject.toml issuer/pyproject.toml sidecar/pyproject.toml
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip sync --quiet --python .venv --require-hashes requirements.lock
	$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation -e sdk -e issuer -e sidecar
	$(UV) pip check --quiet --python .venv
	@touch $@

compiled: $(COMPILED) ## the sidecar as its image has it, with the data plane as C, in .compiled

$(COMPILED): $(INSTALLED) sidecar/pyproject.toml sdk/pyproject.toml $(wildcard sidecar/src/*/*.py sdk/src/*/*.py)
	rm -rf .compiled
	$(UV) venv --quiet --python $(BIN)/python .compiled
	cp -r sidecar .compiled/source
	cd sdk && ../$(BIN)/python -m hatchling build -t wheel -d ../.compiled/wheels
	cd .compiled/source && HATCH_BUILD_HOOK_ENABLE_MYPYC=1 ../../$(BIN)/python -m hatchling build -t wheel -d ../wheels
	$(UV) pip install --quiet --python .compiled --constraint requirements.lock .compiled/wheels/authix-*.whl \
		"authix-sidecar[otel] @ file://$$(ls $(CURDIR)/.compiled/wheels/authix_sidecar-*.whl)"
	@touch $@

run: $(INSTALLED) ## issuer 8000, sidecar 8001 and 8002, demo service 8003, until Ctrl-C
	@exec $(BIN)/python examples/demo/run.py

run-scale: $(INSTALLED) ## the same on MongoDB, Redis and Kafka, with 2 issuer workers; installs those once
	@$(BIN)/python -m tests.servers.install Redis MongoDB Kafka
	@exec $(BIN)/python examples/demo/run.py --scale

demo: $(INSTALLED) ## walk through it against `make run`: register, log in, log out, be refused
	@$(BIN)/python examples/demo/walk.py

test: $(INSTALLED) $(if $(HAS_CC),$(COMPILED)) ## all tests; the sidecars in them are compiled, what is imported is not
	$(UNDER_TEST) $(BIN)/pytest -n $(TESTERS) $(SPREAD) --durations=10

coverage: $(INSTALLED) ## the same with branch coverage, also of the programs that the tests start; takes half as long again
	$(BIN)/pytest -n $(TESTERS) $(SPREAD) --cov --cov-report=term

soak: $(INSTALLED) $(if $(HAS_CC),$(COMPILED)) ## the long runs: crashes by the dozen, long Hypothesis searches
	$(UNDER_TEST) $(BIN)/pytest -m soak --timeout=3600 -o addopts="--import-mode=importlib --strict-markers --strict-config -ra -p no:schemathesis"

check: $(INSTALLED) ## formatting, lint, types, architecture, lock
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python tests/sdk/uses.py
	$(BIN)/lint-imports
	$(UV) pip check --python .venv
	@cp requirements.lock .uv/check.lock && $(LOCK) -o .uv/check.lock && cmp -s requirements.lock .uv/check.lock \
		|| { echo "requirements.lock does not fit the pyproject files: run make lock"; exit 1; }

format: $(INSTALLED) ## mend formatting and imports
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: $(INSTALLED) ## the pages of docs/ that are rendered from the code, such as docs/settings.md
	for page in docs/render_*.py; do $(BIN)/python $$page || exit 1; done

site: $(INSTALLED) ## the documentation as a site, in dist/site; a wrong link ends it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: $(INSTALLED) $(COMPILED) ## the benchmarks; each prints its comparison
	for bench in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$bench || exit 1; done

build: $(INSTALLED) ## the three wheels and source archives, in dist/
	rm -rf dist
	for part in sdk issuer sidecar; do (cd $$part && ../$(BIN)/python -m hatchling build -d ../dist) || exit 1; done

LOCK = $(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header \
	--no-emit-package authix --no-emit-package authix-issuer --no-emit-package authix-sidecar \
	sdk/pyproject.toml issuer/pyproject.toml sidecar/pyproject.toml --all-extras --group pyproject.toml:dev

lock: $(UV) ## bring requirements.lock up to date with the pyproject files; keeps what it can
	$(LOCK) -o requirements.lock

clean: ## remove everything that was installed, built or cached here
	rm -rf .venv .uv .compiled dist .coverage* htmlcov .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
