"""What stands in a command's environment: outer allocations, steps and launchers, leftovers, empty variables."""

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from negbench.records.run_folder import RunFolder
from negbench.runtime import distributed
from negbench.runtime.errors import UserError
from negbench.runtime.place import Place, find_place, was_launched
from negbench.runtime.variables import outside
from negbench.settings.cluster import resolve_cluster
from tests.cli.test_cli import arguments, invoke
from tests.helpers.fake_slurm import FakeSlurm

STEP = {
    "JOB_ID": "77",
    "PROCID": "0",
    "LOCALID": "0",
    "STEP_NUM_TASKS": "4",
    "STEP_ID": "0",
    "STEP_NODELIST": "localhost",
}
STEP = {f"SLURM_{name}": value for name, value in STEP.items()}
LEFT_OVER = {"RANK": "0", "WORLD_SIZE": "2"}
ALLOCATION = {
    "SLURM_JOB_ID": "5",
    "SLURM_MEM_PER_CPU": "1000",
    "SLURM_GPUS": "2",
    "SLURM_RESTART_COUNT": "12",
    "SBATCH_TIMELIMIT": "1",
    "SRUN_CPUS_PER_TASK": "2",
    "SQUEUE_PARTITION": "debug",
    "SUBMITIT_EXECUTOR": "slurm",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "MASTER_PORT": "29500",
    "LOCAL_RANK": "0",
    "NEGBENCH_JOB": "slurm",
}
SWEEP = ["sweep", "--methods", "moco", "--config", "quickstart", "--device", "cpu"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*STEP, *LEFT_OVER, *ALLOCATION):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "slurm", monkeypatch)


def setenv(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_job_inherits_nothing_of_the_allocation_that_its_submitter_stands_in(
    command: str, slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"SLURM_CONF": "/etc/other.conf", "MY_DATA": "/data"}
    setenv(monkeypatch, ALLOCATION | kept | {"CUDA_VISIBLE_DEVICES": "3"})
    options = ["--cluster", "slurm", "--time", "1h", "--then", f"status --output {tmp_path}"]
    words = arguments(tmp_path / "out")
    words = words if command == "run" else ["sweep", "--methods", *words[2:]]
    code, _, stderr = invoke(*words, *options[: 4 if command == "run" else 6])
    assert code == 0, stderr
    assert slurm.submitted() == (1 if command == "run" else 2)
    for program in ("sbatch", "squeue", "scontrol"):
        seen = slurm.environment(program) if slurm.calls(program) else {}
        assert not seen.keys() & (ALLOCATION.keys() | ({"CUDA_VISIBLE_DEVICES"} if program == "sbatch" else set()))
        assert not seen or kept.items() <= seen.items()


def test_what_is_started_outside_is_hidden_only_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, ALLOCATION | STEP | LEFT_OVER)
    assert find_place().world_size == 2
    with outside():
        assert find_place().world_size == 1 and not was_launched()
    assert find_place().world_size == 2


def test_the_shells_account_is_the_lowest_layer_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("SBATCH_ACCOUNT", "mylab")
    assert resolve_cluster({}, {}, {}).account == "mylab"
    assert resolve_cluster({}, {}, {"account": "other"}).account == "other"


@pytest.mark.parametrize(
    ("variables", "remedy"),
    [(STEP, "unset SLURM_STEP_NUM_TASKS or use srun -n1"), (LEFT_OVER, "unset RANK WORLD_SIZE")],
)
@pytest.mark.parametrize("command", ["run", "sweep", "tune"])
def test_one_process_of_several_submits_nothing(
    command: str,
    variables: dict[str, str],
    remedy: str,
    slurm: FakeSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setenv(monkeypatch, variables)
    method = "--method" if command == "run" else "--methods"
    code, stdout, stderr = invoke(command, method, "moco", "--cluster", "slurm", "--output", str(tmp_path / "out"))
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1 and "--cluster slurm: one process submits" in stderr and remedy in stderr
    assert not slurm.calls("sbatch") and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["sweep", "tune"])
def test_a_sweep_or_a_tuning_is_one_process(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, LEFT_OVER)
    code, _, stderr = invoke(command, "--methods", "moco", "--output", str(tmp_path / "out"))
    assert code == 2 and stderr.count("\n") == 1
    assert "RANK=0 and WORLD_SIZE=2 tells: unset RANK WORLD_SIZE" in stderr
    assert not (tmp_path / "out").exists()


def test_a_rank_alone_is_no_launch(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    assert invoke(*arguments(tmp_path / "out"), "--cluster", "slurm", "--time", "1h")[0] == 0
    assert slurm.submitted() == 1 and "RANK" not in slurm.environment("sbatch")


NAMES = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR", "OMP_NUM_THREADS", "NEGBENCH_AGAIN"]
NAMES += ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_RESTART_COUNT", "SLURM_JOB_ID", "SUBMITIT_LOCAL_NTASKS"]


def test_empty_variables_are_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    assert find_place() == Place(0, 0, 1, "127.0.0.1", 0) and not was_launched()
    code, _, stderr = invoke(*arguments(tmp_path, "moco", "epochs=1", "evaluation.test=false"))
    assert code == 0, stderr
    (path,) = tmp_path.iterdir()
    assert "slurm_job_id" not in RunFolder(path).read_lock()
    setenv(monkeypatch, LEFT_OVER)
    assert find_place() == Place(0, 0, 2, "127.0.0.1", 29500, ("RANK", "WORLD_SIZE"))


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (LEFT_OVER | {"RANK": "first"}, "RANK must be a whole number"),
        (LEFT_OVER | {"RANK": "-1"}, "RANK must be a whole number"),
        (LEFT_OVER | {"RANK": "2"}, "RANK=2 and WORLD_SIZE=2: there is no such rank; unset RANK WORLD_SIZE"),
        (LEFT_OVER | {"WORLD_SIZE": "0"}, "there is no such rank"),
        (LEFT_OVER | {"WORLD_SIZE": "2.0"}, "WORLD_SIZE must be a whole number"),
        (LEFT_OVER | {"LOCAL_RANK": "x"}, "LOCAL_RANK must be a whole number"),
        (LEFT_OVER | {"MASTER_PORT": "123456"}, "MASTER_PORT must be a whole number from 0 to 65535"),
        (STEP | {"SLURM_STEP_NUM_TASKS": "4(x2)"}, "SLURM_STEP_NUM_TASKS must be a whole number"),
        (STEP | {"SLURM_PROCID": "9" * 5000}, "SLURM_PROCID must be a whole number"),
        (STEP | {"SLURM_JOB_ID": ""}, "SLURM_STEP_NUM_TASKS=4, but SLURM_JOB_ID is not set"),
        (STEP | {"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST is not set"),
        (
            {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_NTASKS": "2"},
            "SUBMITIT_LOCAL_NTASKS=2, but SUBMITIT_LOCAL_GLOBALID is not set",
        ),
        ({"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "once"}, "SLURM_RESTART_COUNT must be a whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_odd_variables_get_one_sentence(
    variables: dict[str, str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setenv(monkeypatch, variables)
    code, _, stderr = invoke(*arguments(tmp_path, "moco"), "--quiet")
    assert code == 2
    assert sentence in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            STEP,
            "rank 0 of 4 waits for 3 others at localhost:{port}, since SLURM_STEP_NUM_TASKS=4; started by srun --pty? "
            "unset SLURM_STEP_NUM_TASKS or use srun -n1 to run alone",
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "2"},
            "rank 1 of 2 waits for 1 other at 127.0.0.1:{port}, since RANK=1 and WORLD_SIZE=2; unset RANK WORLD_SIZE "
            "to run alone",
        ),
    ],
)
def test_a_rank_that_waits_says_for_whom_and_why_and_how_to_run_alone(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setenv(monkeypatch, variables)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, variables.get(name, ""))  # so that they are put back
    monkeypatch.setattr(distributed, "TOLD_AFTER_SECONDS", 0.0)
    port = find_place().master_port
    seen: list[Any] = []

    def rendezvous(url: str, timeout: Any) -> Any:
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
        seen.append(signal.getsignal(signal.SIGINT))
        raise ConnectionError

    monkeypatch.setattr(dist, "rendezvous", rendezvous)
    with pytest.raises(ConnectionError), distributed.process_group(torch.device("cpu")):
        pass
    assert capsys.readouterr().err == f"negbench: {sentence.format(port=port)}\n"
    assert seen == [signal.SIG_DFL] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_node_without_an_address_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setenv(monkeypatch, STEP | {"SLURM_STEP_NODELIST": "no-such-node[1-4]"})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_place().rank == 0
    with pytest.raises(UserError, match="the address of node no-such-node1 is unknown"):
        _ = find_place().master_addr
