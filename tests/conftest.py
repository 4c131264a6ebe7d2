"""One thread: the tensors are tiny, and tests that start several processes would otherwise fight over the cores."""

from collections.abc import Iterator

import pytest
import torch

from tests import slurm

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[slurm.Cluster]:
    """A Slurm of three nodes, started at its first use and shared by all tests."""
    if reason := slurm.available():
        pytest.skip(reason)
    with slurm.Cluster(num_nodes=3) as started:
        yield started
