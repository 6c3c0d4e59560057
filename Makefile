# Everything a developer types. Needs Python >= 3.11 and make; the rest is installed into this folder.
PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
INSTALLED := .venv/.installed
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help install run demo test soak check format bench build lock clean

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
