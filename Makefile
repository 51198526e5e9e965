# make demo | test | checks | bench | slurm-up | slurm-down | clean | help. The first of them installs into .venv, once.
.DELETE_ON_ERROR:
.PHONY: help install demo test checks bench slurm-up slurm-down clean

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: $(STAMP)  ## find Python 3.12 or newer, make .venv, install the project and its tools into it

demo: $(STAMP)  ## the whole job on two CPU cores: data, training, a kill, resume, conversion
	$(PY) demo/run.py

test: $(STAMP)  ## the tests
	$(PY) -m pytest

checks: $(STAMP)  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy megatron_octo demo benchmarks

bench: $(STAMP)  ## the benchmarks that a CPU can run
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.throughput recipes/demo.yaml --nproc 2 --steps 20

slurm-up:  ## a SLURM of two nodes on this machine, for tests/slurm (root; Debian or Ubuntu)
	tests/slurm/start_slurm.sh

slurm-down:  ## end it
	tests/slurm/stop_slurm.sh

clean:  ## remove what demo, tests and tools left (.venv stays)
	rm -rf demo/out build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# A candidate has to run: pyenv puts a python3.13 on the PATH that only says it is not chosen, and
# Debian splits venv off. 3.12 comes first because it is what the tests run on (and what uv is asked for: the newest
# Python has no wheels yet). PYTHON=... goes before all.
$(STAMP): pyproject.toml setup.py
	@set -eu; \
	usable() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; }; \
	uv=; if uv --version >/dev/null 2>&1; then uv=yes; fi; \
	if ! $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then \
	  python=; \
	  for p in $(PYTHON) python3.12 python3.13 python3.14 python3 python \
	      "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python; do \
	    if usable "$$p"; then python=$$p; break; fi; \
	  done; \
	  rm -rf $(VENV); \
	  if [ -n "$$python" ]; then echo "python: $$python"; "$$python" -m venv $(VENV); \
	  elif [ -n "$$uv" ]; then uv venv --python 3.12 $(VENV); \
	  else \
	    echo "error: no Python 3.12 or newer with venv was found. Any of these gets one:" >&2; \
	    echo "  apt install python3.12 python3.12-venv      (or your distribution's package)" >&2; \
	    echo "  pyenv install 3.12" >&2; \
	    echo "  curl -LsSf https://astral.sh/uv/install.sh | sh      (uv fetches Python itself)" >&2; \
	    echo "  make PYTHON=/path/to/python3.12 ..." >&2; \
	    exit 1; \
	  fi; \
	fi; \
	if [ -n "$$uv" ]; then uv pip install --python $(PY) -e '.[dev]'; \
	else \
	  $(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip -q; \
	  $(PY) -m pip install -q -e '.[dev]'; \
	fi; \
	touch $@
