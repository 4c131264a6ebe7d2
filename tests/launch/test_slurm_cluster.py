"""The throwaway Slurm of the tests: it runs jobs, and leaves nothing behind."""

import sys
import time

import pytest

from tests.helpers import slurm
from tests.helpers.slurm import Cluster

pytestmark = pytest.mark.slurm

NAP = f"{sys.executable} -c 'import os, time; os.fork(); time.sleep(300)'"


def test_two_tasks_and_two_gpus_a_node(cluster: Cluster) -> None:
    cluster.wait_idle(60)
    script = "echo $SLURMD_NODENAME $SLURM_PROCID $CUDA_VISIBLE_DEVICES"
    options = ["-N2", "-n4", "--ntasks-per-node=2", "--cpus-per-task=2", "--gpus-per-task=1", "--mem=4000"]
    seen = cluster.run("srun", *options, "--nodelist=t1,t2", "sh", "-c", script)
    assert sorted(seen.splitlines()) == ["t1 0 0", "t1 1 1", "t2 2 0", "t2 3 1"]


def test_tasks_are_found_and_a_lost_node_requeues_the_job(cluster: Cluster) -> None:
    job = cluster.run("sbatch", "--parsable", "-N2", "-n2", "-t5", "--wrap", f"srun {NAP}")
    cluster.wait_for(job, "RUNNING", 60)
    first = wait_for_ranks(cluster, job, 2)
    cluster.down(cluster.nodes_of(job)[0])
    cluster.wait_for(job, {"PENDING"}, 60)
    cluster.wait_for(job, {"RUNNING"}, 60)
    assert not set(first.values()) & set(wait_for_ranks(cluster, job, 2).values())
    cluster.run("scancel", job)
    assert cluster.wait_for(job, {"CANCELLED", "FAILED", "COMPLETED"}, 60) == "CANCELLED"


def test_nothing_is_left_after_stop() -> None:
    if reason := slurm.available():
        pytest.skip(reason)
    with Cluster(num_nodes=1) as own:
        daemons = list(own.daemons.values())
        job = own.run("sbatch", "--parsable", "-t5", "--wrap", f"srun {NAP}")
        tasks = wait_for_ranks(own, job, 1)
        assert set(tasks.values()) < {process.pid for process in own.orphans()}
        with pytest.raises(AssertionError, match=r"is RUNNING, not \['COMPLETED'\](.|\n)*JobId="):
            own.wait_for(job, "COMPLETED", 0)
    assert not own.folder.exists()
    assert own.orphans() == []
    assert all(daemon.poll() is not None for daemon in daemons)


def wait_for_ranks(cluster: Cluster, job: str, num_ranks: int) -> dict[int, int]:
    end = time.monotonic() + 60
    while len(pids := cluster.pids(job)) < num_ranks:
        assert time.monotonic() < end, pids
        time.sleep(0.1)
    assert sorted(pids) == list(range(num_ranks))
    return pids
