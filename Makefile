# make quickstart: install and train AdCo on embedded data.
# make test: every check of a change. make test-fast: without Slurm, torch.compile and tests that start processes.
# make test-portable: the numerical tests as other processors and numbers of threads compute.
# make test-minimums: what works without torch, on the declared minimum of every other dependency; for Python 3.11.
# make bench: negbench beside other libraries, e.g. make bench BENCH='--groups moco --output results/peers.json'.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/installed
DEV := $(VENV)/installed-dev
PEERS := .venv-peers
MINIMUMS := .venv-minimums
BENCH ?=
OPTIONS ?=
PYTEST := $(VENV)/bin/pytest -n auto --dist loadfile --no-loadscope-reorder $(OPTIONS)
NUMERICAL := $(addprefix tests/, $(addsuffix .py, contrast/test_adco contrast/test_losses contrast/test_methods \
	contrast/test_moco contrast/test_multi_crop data/test_patterns data/test_views evaluate/test_classifier \
	evaluate/test_classifier_training evaluate/test_diagnostics evaluate/test_frozen_features evaluate/test_knn \
	evaluate/test_knn_beside_lightly evaluate/test_linear evaluate/test_probing models/test_batch_norm models/test_models \
	report/test_reference report/test_report_statistics train/test_optim)) \
	tests/train/test_run.py::test_synchronised_ranks_train_as_one_process

.PHONY: quickstart test test-fast test-portable test-minimums bench clean

quickstart: $(STAMP)
	$(VENV)/bin/negbench run --method adco

test: $(DEV)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(PYTEST)

test-fast: $(DEV)
	$(PYTEST) -m "not slurm and not compile and not processes"

test-portable: $(DEV)
	set -e; for threads in 1 2; do for processor in ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2; do \
		echo "$$processor, $$threads thread(s)"; env $$processor OMP_NUM_THREADS=$$threads OMP_WAIT_POLICY=PASSIVE $(PYTEST) $(NUMERICAL); done; done

test-minimums: $(MINIMUMS)/installed
	$(MINIMUMS)/bin/negbench run --help > /dev/null
	$(MINIMUMS)/bin/negbench methods
	$(MINIMUMS)/bin/negbench status --output results/reference/quickstart/runs
	$(MINIMUMS)/bin/negbench report results/reference/quickstart/runs --output $(MINIMUMS)/report > /dev/null
	$(MINIMUMS)/bin/python -m pytest --noconftest --disable-warnings tests/report/test_bench_report.py \
		tests/report/test_reference.py tests/records/test_status.py --deselect tests/records/test_status.py::test_states_on_a_real_slurm \
		--deselect tests/report/test_bench_report.py::test_runs_and_benches_in_one_folder

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

$(MINIMUMS)/installed: pyproject.toml setup.py
	$(PYTHON) -m venv --clear $(MINIMUMS)
	$(MINIMUMS)/bin/python -m pip install --quiet --disable-pip-version-check pytest pytest-timeout
	$(MINIMUMS)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: \
		$$($(MINIMUMS)/bin/python -m tests.minimums)
	$(MINIMUMS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(PEERS)/installed: benchmarks/peers/requirements.txt
	@test -x $(PEERS)/bin/pip || $(PYTHON) -m venv $(PEERS)
	@echo "installing lightly, kornia and their PyTorch into $(PEERS): 6 GB, some minutes"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(MINIMUMS) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
