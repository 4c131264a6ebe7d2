# make quickstart: install and train AdCo on embedded data. make test: every check that CI makes.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/installed

.PHONY: quickstart test clean

quickstart: $(STAMP)
	$(VENV)/bin/negbench run --method adco

test: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest

$(STAMP): pyproject.toml
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV) || { echo "make: no virtual environment could be made; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "installing negbench and PyTorch into $(VENV): some minutes the first time"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
