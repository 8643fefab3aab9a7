# Each target installs what it needs into .venv first, if that has not been done: `make demo` is enough.

SHELL := /bin/bash
INSTALLED := .venv/.installed

.PHONY: demo test lint samples clean

demo: $(INSTALLED) ## cleans the bundled backdoored model and shows what changed
	.venv/bin/harden demo

test: $(INSTALLED) ## every test, on two cores
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2

lint: $(INSTALLED) ## style, form and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

samples: $(INSTALLED) ## draws the pictures and trains the networks in samples/ again (3 minutes)
	.venv/bin/python samples/make.py

clean: ## what the targets above have made, the samples excepted
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info

# The stamp is written last, so that an installation that broke off is started again.
$(INSTALLED): pyproject.toml constraints.txt
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "harden needs Python 3.11 or newer, and found: $$(python3 --version 2>&1)." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	fi; \
	echo "Installing into .venv with $$found: about 6 GB, a few minutes, once." && \
	rm -f $@ && "$$found" -m venv .venv && \
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' && \
	touch $@
