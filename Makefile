# make help lists the targets. The first one that needs it installs into .venv, once; LOCKED=1 takes requirements.lock.
.DELETE_ON_ERROR:
TOOLCHAINS := gcc g++ libboost-dev libssl-dev default-jdk-headless nodejs golang-go rustc librust-regex-dev \
  golang-github-stretchr-testify-dev \
  librust-md5-dev bubblewrap mold util-linux

.PHONY: help install toolchains demo test test-fast coverage checks generated lock bench slurm-up slurm-down clean

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

install: $(STAMP)  ## find Python 3.12 or newer, make .venv, install the project and its tools into it

demo: $(STAMP)  ## run the whole job on two CPU cores: data, training, a kill, resume, conversion
	$(PY) demo/run.py

test: $(STAMP)  ## run all tests: the quick ones on two cores, then the others one by one
	@code=0; \
	$(PY) -m pytest -n 2 --dist worksteal -m 'not slow and not gpu and not slurm' || code=$$?; \
	$(PY) -m pytest -m 'slow or gpu or slurm' || code=$$?; \
	exit $$code

test-fast: $(STAMP)  ## run the tests that need neither minutes, nor a GPU, nor SLURM, on two cores
	$(PY) -m pytest -n 2 --dist worksteal -m 'not slow and not gpu and not slurm'

coverage: $(STAMP)  ## run the fast tests, and print how much of each room they execute
	COVERAGE_CORE=sysmon $(PY) -m coverage run -m pytest -m 'not slow and not gpu and not slurm'
	$(PY) -m coverage combine -q
	$(PY) -m coverage report --skip-covered --sort=cover

checks: $(STAMP)  ## check style, types and the order of the rooms: ruff, mypy, import-linter
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy megatron_octo demo benchmarks
	$(VENV)/bin/lint-imports

generated: $(STAMP)  ## renew generated files: reference and schema of recipes, picture of the architecture
	$(PY) -m megatron_octo.schema --update recipes/recipe.schema.json docs/recipes.md
	$(PY) docs/architecture_svg.py

lock: $(STAMP)  ## renew requirements.lock, the versions that a CPU environment was tested with (needs uv)
	uv pip compile -q pyproject.toml --extra dev --universal --python-version 3.12 --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements.lock

bench: $(STAMP)  ## run the benchmarks that a CPU can run
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.throughput recipes/demo.yaml --nproc 2 --steps 20

toolchains:  ## install the compilers and the sandbox that evaluation needs (root; Debian or Ubuntu)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(TOOLCHAINS)

slurm-up:  ## start a SLURM of two nodes on this machine, for tests/slurm (root; Debian or Ubuntu)
	tests/slurm/start_slurm.sh

slurm-down:  ## stop that SLURM
	tests/slurm/stop_slurm.sh

clean:  ## remove what demo, tests and tools left (.venv stays)
	rm -rf demo/out build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage*
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# A candidate has to run: pyenv puts a python3.13 on the PATH that only prints that it is not selected, and Debian ships
# venv separately. 3.12 comes first because most tests run on it (uv installs it, too). PYTHON=... overrides all.
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
	if [ -n "$$uv" ]; then pip="uv pip install --python $(PY)"; \
	else \
	  $(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip -q; \
	  pip="$(PY) -m pip install -q"; \
	fi; \
	if [ -n "$(LOCKED)" ]; then $$pip -r requirements.lock; $$pip --no-deps -e .; else $$pip -e '.[dev]'; fi; \
	touch $@
