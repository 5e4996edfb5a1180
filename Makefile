# make demo: everything, from a bare machine to two trained models.  make test: every check.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: install demo test lint bench clean

install: $(INSTALLED)

# torch first and by itself: the plain name, asked for by a dependency, may bring gigabytes of CUDA to a CPU machine
$(INSTALLED): pyproject.toml constraints.txt
	@echo "making .venv (two to three minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@$(PIP) --editable '.[trainers,test,lint,bench]'
	@touch $(INSTALLED)

demo: install
	@$(BIN)/mixtura demo

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

test: lint
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup

# DATA=DIR names the unpacked real data; without it the pool is the installed packages' docstrings
bench: install
	$(BIN)/python -m benchmarks.pipeline $(if $(DATA),--data $(DATA)) $(if $(QUICK),--quick)

clean:
	rm -rf .venv .mixtura demo mixtures build dist *.egg-info
