# lightops: `make bench` and `make test` work from a clean clone with Python >= 3.11, a C++ compiler and make.
#
# Environment: an active virtual environment (or any PYTHON=...) that already has torch is used as it is, and lightops
# runs from the tree. Otherwise .venv is made, gets torch, the extras and lightops itself (editable).
#   PYTHON      interpreter to start from (python3)
#   TORCH_SPEC  what to install where no torch is there; add PIP_ARGS="--index-url ..." to choose an index
#   MAX_JOBS, CXX, DEBUG, LIGHTOPS_CUDA, TORCH_CUDA_ARCH_LIST: see CONTRIBUTING.md

PYTHON ?= python3
TORCH_SPEC ?= torch==2.13.0
TORCHVISION_SPEC ?= torchvision==0.28.0
PIP_ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
VENV ?= .venv

HAS_TORCH := $(shell $(PYTHON) -c 'import importlib.util as u, sys; print(int(sys.prefix != sys.base_prefix and u.find_spec("torch") is not None))' 2>/dev/null)
ifeq ($(HAS_TORCH),1)
PY := $(PYTHON)
STAMPS := build/setup/active
BASE := $(STAMPS)/base
else
PY := $(VENV)/bin/python
STAMPS := $(VENV)/setup
BASE := $(STAMPS)/base
endif
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

.PHONY: build
build: $(BASE)
	@$(PY) setup.py --quiet build_ext --inplace

$(BASE):
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "lightops needs Python >= 3.11, $(PYTHON) is %d.%d; run make PYTHON=python3.11" % sys.version_info[:2])'
ifneq ($(HAS_TORCH),1)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet $(PIP_ARGS) '$(TORCH_SPEC)'
endif
	$(PY) -m pip install --quiet $(PIP_ARGS) 'setuptools>=77' 'pybind11>=2.13,<4' ninja
	@mkdir -p $(@D) && touch $@
