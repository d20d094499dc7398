# make demo | test | check | lab | docs | notebooks | sbom | clean      On a fresh machine with Python >= 3.11 each does its own set-up.
#
# PYTHON=python3.12        another interpreter to make .venv with
# VENV=path                another place for the environment
# JOBS=4                   processes of make test, 2 otherwise
# LAB="--allow-root"       options of make lab; this one is needed for root, as in a container
# TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                          where to look for torch beside pip's own index; this one has the small build without CUDA
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
OUT ?= demo
FLAGS ?=
LAB ?=
JOBS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NOTEBOOKS := $(sort $(shell find nbs -name "*.ipynb" -not -path "*/.ipynb_checkpoints/*"))
TEXTS := nbs tests tools docs $(wildcard benchmarks)

.DEFAULT_GOAL := help
.PHONY: help install demo test check lab docs notebooks sbom clean

help:
	@sed -n '1,8s|^# ||p' Makefile

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("scdnet needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.11")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,docs]'
	touch $@

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/scdnet demo --out $(OUT) --overwrite
	@echo "Open $(OUT)/report.html in a browser."

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

# What tests/test_house.py asks of the code as text, by itself: seconds.
check: $(INSTALLED)
	$(BIN)/ruff check scdnet $(TEXTS)
	$(BIN)/ruff format --check $(TEXTS)
	$(BIN)/mypy

lab: $(INSTALLED)
	@test "$$(id -u)" != 0 -o -n "$(findstring allow-root,$(LAB))" || { echo 'You are root, as in a container: make lab LAB="--allow-root --no-browser"' >&2; exit 2; }
	$(BIN)/jupyter lab $(LAB) nbs/index.ipynb

# The site, from the stored outputs: no kernel, no network. Only what changed is made anew.
docs: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -q -j auto -d _docs/doctrees docs _docs/html
	@echo "Open _docs/html/index.html in a browser."

# Execute every notebook and store what it shows, then write the package anew. FLAGS=data,slow executes those cells too.
notebooks: $(INSTALLED)
	$(BIN)/nbdev_export
	OMP_NUM_THREADS=1 $(BIN)/python tools/execute_notebooks.py --flags "$(FLAGS)" $(NOTEBOOKS)
	$(BIN)/nbdev_clean

# A bill of materials (CycloneDX) of all that lies in $(VENV): sbom.json. It is made when it is wanted, since every new pin changes it.
sbom: $(INSTALLED)
	$(BIN)/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible -o sbom.json

clean:
	rm -rf build dist sbom.json _docs docs/book docs/handbook docs/tutorials docs/story.ipynb docs/reference .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find nbs scdnet tests -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
