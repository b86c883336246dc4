# make demo | test | test-gpu | check | install. Each makes .venv and installs this package into it first, once.
#
#   PYTHON=python3.12 make install      another Python
#   make demo ARGS="--epochs 50"        options of nnunet-dino demo
#   make test ARGS="-k doctor -n 0"     options of pytest; two workers unless -n says otherwise

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test test-gpu check docs clean

help:
	@echo "make install   virtual environment in $(VENV) with this package, editable, and the tools to develop"
	@echo "make demo      phantom data set: plan, train with and without DINOv3, predict, compare"
	@echo "make test      all tests that need neither a GPU nor published weights, the slow ones too"
	@echo "make test-gpu  the tests that need a CUDA device; skipped where there is none"
	@echo "make check     ruff and mypy"
	@echo "make docs      the tables in docs/ that are made from the code"
	@echo "make clean     remove $(VENV) and caches; data and results stay"

install: $(INSTALLED)

demo: $(INSTALLED)
	@$(BIN)/nnunet-dino demo $(ARGS)

test: $(INSTALLED)
	@OMP_NUM_THREADS=1 NNUNET_DINO_TEST_DEVICE=cpu $(BIN)/python -m pytest -m "not (gpu and slow) and not weights and not slurm" -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-gpu: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m gpu -rs tests/test_gpu.py tests/test_pretrain_gpu.py $(ARGS)

docs: $(INSTALLED)
	@$(BIN)/python docs/generate.py

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What the installation writes into .venv comes from these files; the rest of the package is read from where it lies.
$(INSTALLED): setup.py pyproject.toml nnunet_dino/nnunet/discovery/boot.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "Python 3.10 or later required · got $$($(PYTHON) --version 2>/dev/null | grep . || echo nothing that runs) as $(PYTHON) · for example: make install PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || { \
	  echo "Making a virtual environment in $(VENV) with $$($(PYTHON) --version)."; \
	  $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "No virtual environment · on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; }
	@echo "Installing nnunet-dino and what it needs from the package index: nnU-Net, torch and torchvision, timm and others, ruff, mypy,"
	@echo "pytest. On Linux torch brings the CUDA libraries: about 3 GB are downloaded and 7 GB of disk used, unless pip has them already."
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
