# make quickstart: install and train AdCo on embedded data. make test: every check that CI makes. make bench: negbench
# beside other libraries, e.g. make bench BENCH='--groups moco --output results/peers.json'.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/installed
DEV := $(VENV)/installed-dev
PEERS := .venv-peers
BENCH ?=

.PHONY: quickstart test bench clean

quickstart: $(STAMP)
	$(VENV)/bin/negbench run --method adco

test: $(DEV)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest

bench: $(STAMP) $(PEERS)/installed
	$(VENV)/bin/python -m benchmarks.peers --peer-python $(PEERS)/bin/python $(BENCH)

$(STAMP): pyproject.toml setup.py
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV) || { echo "make: no virtual environment could be made; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "installing negbench and PyTorch into $(VENV): some minutes the first time"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(DEV): $(STAMP)
	@echo "installing what the checks need into $(VENV)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

$(PEERS)/installed: benchmarks/peers/requirements.txt
	@test -x $(PEERS)/bin/pip || $(PYTHON) -m venv $(PEERS)
	@echo "installing lightly, kornia and their PyTorch into $(PEERS): 6 GB, some minutes"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
