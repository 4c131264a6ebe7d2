"""One thread by default: tensors are tiny, and tests beside each other would otherwise fight over the cores."""

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import records, slurm, warm_python

SITE = str(Path(__file__).with_name("site"))  # what is installed for tests alone: a backbone for short runs
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), SITE)))
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in what it starts in the background
LONGEST_FIRST = ("slurm", "compile", "processes")
LONG_FILES = (
    "test_run",
    "test_export",
    "test_bench_cli",
    "test_protocols",
    "test_encoders",
    "test_streaming",
    "test_cli",
)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        warm_python.share()


def pytest_collection_finish() -> None:
    """Look never again at what is imported: a full collection of garbage takes 0.2 s, and some tests make dozens."""
    gc.freeze()


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, since the worker with the tests on Slurm mostly waits."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker takes whole files, and one takes all that needs Slurm, so that there is one cluster."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "slurm" if "slurm" in nodeid else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with what takes long, so that no worker is left alone with it."""

    def place(item: pytest.Item) -> list[bool]:
        return [*(item.get_closest_marker(name) is None for name in LONGEST_FIRST), item.path.stem not in LONG_FILES]

    items.sort(key=place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("without a CUDA device")
    if item.get_closest_marker("compile") and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("without a C++ compiler; on Debian and Ubuntu: apt install g++")


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """That of processes which tests start, too: nothing of the user's, and compiled modules kept between processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        patch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield


@pytest.fixture
def warm_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of this machine start with a Python that has PyTorch loaded."""
    monkeypatch.setenv("XDG_CONFIG_HOME", warm_python.site())


@pytest.fixture(scope="session")
def cluster() -> Iterator[slurm.Cluster]:
    """A Slurm of ten nodes, started at its first use and shared by all tests."""
    if reason := slurm.available():
        pytest.skip(reason)
    with slurm.Cluster(num_nodes=10) as started:
        yield started


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ties, a missing seed, one seed only, a failed run, one out of memory, a target that is never reached."""
    folder = tmp_path_factory.mktemp("golden")
    study, output = records.study(folder), folder / "results"
    for seed, knn in enumerate((0.80, 0.82, 0.81)):
        curve = (0.2, 0.5, 0.7, 0.78, knn - 0.01)
        records.write(output, study, "moco", seed, knn, linear=knn + 0.05, curve=curve)
        without = ("method.in_batch_negatives=false",)
        better = knn + (0.05, 0.06, 0.055)[seed]
        records.write(output, study, "adco", seed, knn + 0.04, linear=knn + 0.04, curve=curve, epoch_seconds=11)
        curve = (0.2, 0.6, 0.82, 0.84, better - 0.01)
        records.write(output, study, "adco", seed, better, *without, linear=knn + 0.07, curve=curve, epoch_seconds=12)
        if seed < 2:
            records.write(output, study, "simclr", seed, knn, linear=knn, curve=(0.2, 0.6, 0.7, 0.75, 0.795))
    records.write(output, study, "byol", 0, 0.70, linear=0.72, curve=(0.2, 0.3, 0.5, 0.6, 0.69), negatives=0)
    records.write(output, study, "byol", 1, 0, state="failed", error="the loss is not finite from step 3 on")
    error = "out of memory: CUDA out of memory; choose ..."
    records.write(output, study, "byol", 2, 0, state="failed", error=error, kind="out_of_memory")
    return output
