"""Several processes on this machine, through torch's elastic launcher."""

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence

from negbench.runtime.errors import UserError
from negbench.runtime.variables import text
from negbench.settings.cluster import ClusterConfig

CHECKPOINT_SECONDS = 600  # that a stopped run's processes have to save before they are killed


def check_gpus(cluster: ClusterConfig) -> None:
    """UserError if this machine has fewer GPUs than the launch needs."""
    if not cluster.num_gpus:
        return
    import torch

    if (present := torch.cuda.device_count()) < cluster.num_gpus:
        raise UserError(
            f"--gpus-per-node {cluster.gpus_per_node}: PyTorch sees {present} GPUs here; "
            "--processes-per-node starts processes on CPUs"
        )


def threads(num_processes: int) -> dict[str, str]:
    """Return the environment in which `num_processes` share this machine's cores, unless the user has set it."""
    share = max(1, len(os.sched_getaffinity(0)) // num_processes)
    return {"OMP_NUM_THREADS": text("OMP_NUM_THREADS", str(share))}


def devices(slot: int, each: int) -> list[str]:
    """Return the GPUs of the `slot`-th of runs beside each other, `each` a run. Too few are shared."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = named.split(",") if named else [str(number) for number in range(count)]
    return [known[(slot * each + number) % count] for number in range(each)] if count else []


def launch(num_processes: int, arguments: Sequence[str]) -> int:
    """Run `negbench ARGUMENTS` in `num_processes` ranks and return the exit code of the first that failed, or 0."""
    os.environ |= threads(num_processes)
    timeout = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
    os.environ[timeout] = text(timeout, str(CHECKPOINT_SECONDS))
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.CRITICAL)  # in this process, which only waits: the ranks print themselves why they fail
    with tempfile.TemporaryDirectory(prefix="negbench-") as logs:  # torch makes one in any case, and leaves it
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_processes,
            run_id=str(uuid.uuid4()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "negbench.cli", *arguments)
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        except SignalException as error:
            return 128 + int(error.sigval)
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    return 0
