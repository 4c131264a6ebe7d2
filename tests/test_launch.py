"""Launching without Slurm: layers, the batch script, several processes on this machine, background jobs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from negbench import failure
from negbench.cli import app
from negbench.display import Quiet
from negbench.evaluate import test_set
from negbench.evaluate.protocol import Features
from negbench.launch import cluster as layers
from negbench.launch.here import run_here
from negbench.launch.place import _first_node, find_place, was_launched
from negbench.launch.smoke import smoke
from negbench.launch.sweep import Planned, combinations, missing, parse_seeds, plan
from negbench.monitor import Monitor
from negbench.records import RunFolder
from negbench.report.runs import find, load
from negbench.status import find_runs, status_of
from negbench.study import Resolved
from tests import runs

GOLDEN = Path(__file__).parent / "golden" / "two_nodes.sh"
ARGUMENTS = [part for text in runs.SHORT for part in ("--set", text)]
FAULTY = '''"""A method with a defect on one rank."""
import os
from negbench.methods.moco import Config, Method, Queue

class Faulty(Method):
    def after_step(self, output, step):
        super().after_step(output, step)
        if step == 4 and os.environ["RANK"] == "1":
            raise KeyError("a defect")

def build(config, encoder, facts):
    queue = Queue(config.num_negatives, facts.dim, facts.seed)
    return Faulty(encoder, config.pairs, [queue], config.temperature, config.momentum(facts.num_steps))
'''


def start(*arguments: str, new_group: bool = False, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "negbench.cli", *arguments]
    pipe = subprocess.PIPE
    group = 0 if new_group else None
    return subprocess.Popen(command, env=os.environ | env, stdout=pipe, stderr=pipe, text=True, process_group=group)


def finished(*arguments: str, **env: str) -> tuple[int, str, str]:
    with start(*arguments, **env) as process:
        out, err = process.communicate(timeout=180)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90m", 90), ("24h", 1440), ("2d", 2880), ("1.5h", 90), ("2:30:00", 150), ("1-02:00:00", 1560), ("0:00:30", 1)],
)
def test_times(time: str, minutes: int) -> None:
    assert layers.minutes_of(time) == minutes


@pytest.mark.parametrize("time", ["", "24", "h", "1 day", "-1h", "0m", "1:99:00", "2w"])
def test_times_that_are_none(time: str) -> None:
    with pytest.raises(ValueError, match="time must look like"):
        layers.minutes_of(time)


def test_layers_of_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    site = tmp_path / "negbench" / "cluster.yaml"
    site.parent.mkdir()
    site.write_text("launcher: slurm\npartition: a\ntime: 1h\nsetup: [module load cuda]\nenvironment: {A: 1, B: 1}\n")
    study = {"partition": "b", "qos": "q", "setup": ["source env"], "environment": {"B": 2}}
    joined = layers.resolve_cluster(study, {"environment.C": 3, "qos": "r"}, {"gpus_per_node": "h100:8", "time": None})
    assert (joined.launcher, joined.partition, joined.qos, joined.time_min) == ("slurm", "b", "r", 60)
    assert joined.setup == ["module load cuda", "source env"]
    assert joined.environment == {"A": 1, "B": 2, "C": 3}
    assert (joined.num_gpus, joined.world_size) == (8, 8)
    site.write_text("partitoin: a\n")
    with pytest.raises(ValueError, match=rf"cluster.partitoin \({site}\), did you mean"):
        layers.resolve_cluster({}, {}, {})


def test_a_run_here_has_the_size_that_was_asked_for_not_the_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "negbench").mkdir()
    (tmp_path / "negbench" / "cluster.yaml").write_text("nodes: 2\ngpus_per_node: h100:8\nqos: q\n")
    here = layers.resolve_cluster({}, {}, {})
    assert (here.nodes, here.world_size, here.qos) == (1, 1, "q")
    assert layers.resolve_cluster({}, {}, {"launcher": "slurm"}).world_size == 16
    assert layers.resolve_cluster({"launcher": "slurm"}, {}, {}).world_size == 16
    assert layers.resolve_cluster({"gpus_per_node": 2}, {}, {}).world_size == 2
    assert layers.resolve_cluster({}, {}, {"gpus_per_node": "4"}).world_size == 4


def test_the_batch_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs no Slurm. After a change that is meant: NEGBENCH_GOLDEN=1 writes the golden file."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    options = ["--cluster", "slurm", "--nodes", "2", "--gpus-per-node", "h100:8", "--time", "1-12:00:00"]
    options += ["--partition", "P", "--account", "A", "--qos", "Q", "--constraint", "C", "--mem", "200G"]
    options += ["--cpus-per-gpu", "8", "--exclude", "bad[1-2]", "--slurm", "mail-type=END", "--slurm", "exclusive"]
    options += ["--set", "cluster.setup=[module load cuda]", "--set", "cluster.environment.NCCL_SOCKET_IFNAME=ib0"]
    options += ["--output", "/shared/results", "--dry-run"]
    result = CliRunner().invoke(app, ["run", "--method", "adco", "--set", "batch_size=64", *options])
    assert result.exit_code == 0, result.output
    run_id, stamp = result.output.split("/shared/results/")[1].split("/")[0:3:2]
    shown = result.output.replace(sys.executable, "PYTHON").replace(run_id, "RUN").replace(stamp, "STAMP")
    if os.environ.get("NEGBENCH_GOLDEN"):
        GOLDEN.write_text(shown)
    assert shown == GOLDEN.read_text()


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SUBMITIT_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    assert find_place().world_size == 1 and not was_launched()
    step = {"PROCID": "3", "STEP_NUM_TASKS": "4", "LOCALID": "1", "STEP_NODELIST": "localhost", "JOB_ID": "7"}
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    place = find_place()
    assert (place.rank, place.local_rank, place.world_size, place.master_addr) == (3, 1, 4, "localhost")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert find_place().master_port != place.master_port  # a fresh rendezvous
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert find_place().world_size == 2 and was_launched()
    assert [_first_node(text) for text in ("gpu[3-5,8],cpu1", "a1,a2", "n007")] == ["gpu3", "a1", "n007"]


def test_seeds_and_grids() -> None:
    assert parse_seeds("0:3") == [0, 1, 2]
    assert parse_seeds("4,0:2,1") == [4, 0, 1]
    for text in ("", "a", "3:1", "-1"):
        with pytest.raises(ValueError, match="--seeds"):
            parse_seeds(text)
    assert combinations(["optimizer.lr=0.1,0.2", "views=a,b"])[1] == ("optimizer.lr=0.1", "views=b")
    assert combinations(["views.crop_scale=[0.2, 1.0],[0.08, 1.0]"])[1] == ("views.crop_scale=[0.08, 1.0]",)
    assert combinations([]) == [()]
    with pytest.raises(ValueError, match="--grid lr must"):
        combinations(["lr"])
    planned = plan(["moco", "byol"], "quickstart", ["epochs=2"], ["optimizer.lr=0.1,0.2"], [0, 1])
    assert [(p.method, p.resolved.config.seed, p.resolved.config.optimizer.lr) for p in planned][:3] == [
        ("moco", 0, 0.1),
        ("byol", 0, 0.1),
        ("moco", 1, 0.1),
    ]
    with pytest.raises(ValueError, match="twice"):
        plan(["moco"], "quickstart", [], ["optimizer.lr=0.1,0.10"], [0])


def test_processes_end_together_and_the_failing_one_speaks_once(tmp_path: Path) -> None:
    method = tmp_path / "faulty.py"
    method.write_text(FAULTY)
    out = ["--output", str(tmp_path / "out"), "--device", "cpu"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    arguments = ["run", "--method", str(method), "--processes-per-node", "2", *out, *ARGUMENTS]
    code, _, err = finished(*arguments, TMPDIR=str(temporary))
    assert code == 1
    assert not list(temporary.iterdir())
    assert err.count("Traceback") == 1 and "negbench: rank 1: Traceback" in err and "KeyError: 'a defect'" in err
    (path,) = (tmp_path / "out").iterdir()
    assert RunFolder(path).read_summary()["status"] == "failed"
    assert RunFolder(path).read_summary()["error"] == "KeyError: 'a defect'"


def test_a_killed_process_or_a_signal_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """kill -9 of rank 1, then SIGINT to the launcher, then to the end: as an undisturbed run with as many ranks."""
    settings = ["--set", "epochs=80", "--set", "checkpoint_every_min=0.01", "--set", "evaluation.linear=false"]
    settings += ["--set", "evaluate_every_epochs=80", "--set", "log_every_steps=20"]
    arguments = ["run", "--method", "moco", "--processes-per-node", "2", "--device", "cpu", *ARGUMENTS, *settings]
    code, _, err = finished(*arguments, "--output", str(tmp_path / "undisturbed"))
    assert code == 0, err
    output = tmp_path / "disturbed"
    output.mkdir()
    for signum, ending, step in ((signal.SIGKILL, 137, 60), (signal.SIGINT, 130, 120)):
        with start(*arguments, "--output", str(output)) as process:
            _wait_for_step(output, step)
            os.kill(_ranks(process.pid)[1] if signum == signal.SIGKILL else process.pid, signum)
            _, err = process.communicate(timeout=120)
        assert process.returncode == ending, err
        assert "the same command goes on" in err
        assert not _ranks(process.pid)
    code, _, err = finished(*arguments, "--output", str(output))
    assert code == 0 and "resumed" in err
    (one,), (other,) = (list(path.glob("*-s0-*")) for path in (output, tmp_path / "undisturbed"))
    runs.assert_same(runs.outcome(RunFolder(one)), runs.outcome(RunFolder(other)))


def _wait_for_step(output: Path, step: int) -> None:
    end = time.monotonic() + 90
    while max((row["step"] for path in output.iterdir() for row in RunFolder(path).read_metrics()), default=0) < step:
        assert time.monotonic() < end
        time.sleep(0.05)


def _ranks(launcher: int) -> list[int]:
    """Process ids of the launcher's ranks, in the order of their start."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children")
    pids = map(int, children.read_text().split()) if children.exists() else ()
    return [pid for pid in pids if "negbench.cli" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_torchrun_starts_a_run_and_restarts_it_after_a_kill(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    settings = ["epochs=80", "checkpoint_every_min=0.01", "evaluate_every_epochs=80", "evaluation.test=false"]
    arguments = [*ARGUMENTS, *(part for text in settings for part in ("--set", text))]
    command = [
        sys.executable,
        *torchrun,
        "-m",
        "negbench.cli",
        "run",
        "--method",
        "moco",
        "--device",
        "cpu",
        *arguments,
    ]
    (tmp_path / "out").mkdir()
    with subprocess.Popen([*command, "--output", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True) as process:
        _wait_for_step(tmp_path / "out", 60)
        os.kill(_ranks(process.pid)[1], signal.SIGKILL)
        _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    (path,) = (tmp_path / "out").iterdir()
    summary = RunFolder(path).read_summary()
    assert (summary["status"], summary["world_size"], summary["restarts"]) == ("done", 2, 1)
    steps = [row["step"] for row in RunFolder(path).read_metrics() if row["kind"] == "train"]
    assert steps == list(range(2, 4 * 80 + 1, 2))


NO_BUILD = '''"""A method that one rank cannot build."""
import os
from negbench.methods import moco

Config = moco.Config

def build(config, encoder, facts):
    if os.environ.get("RANK", "1") == "1":
        raise KeyError("not built")
    return moco.build(config, encoder, facts)
'''


@pytest.fixture
def unbuildable(tmp_path: Path) -> Resolved:
    (tmp_path / "faulty.py").write_text(NO_BUILD)
    return runs.short(str(tmp_path / "faulty.py"))


def test_what_fails_before_the_first_write_is_recorded_where_there_is_a_folder(
    unbuildable: Resolved, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with pytest.raises(KeyError):
        run_here(unbuildable, output, "cpu", quiet=True)
    assert not output.exists()
    path = output / unbuildable.run_id
    for with_smoke in (False, True):
        path.mkdir(parents=True)
        (path / "run.log").touch()
        with pytest.raises(KeyError):
            run_here(unbuildable, output, "cpu", quiet=True, smoke=with_smoke)
        assert find_runs(output) == [path]
        run = status_of(path, {})
        assert (run.state, run.detail) == ("failed", "KeyError: 'not built'")
        assert (run.study, run.method, run.seed) == ("quickstart", unbuildable.label, 0)
        planned = [Planned(unbuildable, "", "", ())]
        assert missing(planned, output, retry_failed=False) == ([], {"failed": 1})
        assert missing(planned, output, retry_failed=True)[0] == planned
        (read,) = load(find([], output))
        assert (read.state, read.study, read.seed) == ("failed", "quickstart", 0)
        assert {entry.name for entry in path.iterdir()} == {"run.log", "summary.json"}
        shutil.rmtree(output)


def test_a_failure_on_another_rank_before_the_first_write_is_recorded(unbuildable: Resolved, tmp_path: Path) -> None:
    path = tmp_path / "out" / unbuildable.run_id
    path.mkdir(parents=True)
    method = str(unbuildable.method_file.path)
    out = ["--output", str(path.parent), "--device", "cpu"]
    code, _, err = finished("run", "--method", method, "--processes-per-node", "2", *out, *ARGUMENTS)
    assert code == 1 and "rank 1" in err
    assert RunFolder(path).read_summary()["error"] == "KeyError: 'not built'"


FAILS_LATER = """
class Faulty(moco.Method):
    def after_step(self, output, step):
        if step == 12 and os.environ.get("RANK", "1") == "1":
            raise KeyError("in the second half")
        super().after_step(output, step)

def build(config, encoder, facts):
    queue = moco.Queue(config.num_negatives, facts.dim, facts.seed)
    return Faulty(encoder, config.pairs, [queue], config.temperature, config.momentum(facts.num_steps))
"""


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_smoke_test_that_fails_leaves_its_error_alone(num_ranks: int, tmp_path: Path) -> None:
    method = tmp_path / "faulty.py"
    method.write_text(NO_BUILD + FAILS_LATER)
    settings = ["epochs=6", "checkpoint_every_min=0.001"]
    resolved = runs.short(str(method), *settings)
    path = tmp_path / "out" / resolved.run_id
    path.mkdir(parents=True)
    arguments = ["--method", str(method), "--output", str(path.parent), "--device", "cpu", *ARGUMENTS]
    arguments += ["--processes-per-node", str(num_ranks), *(part for text in settings for part in ("--set", text))]
    code, _, err = finished("run", "--smoke", *arguments)
    assert code == 1 and "in the second half" in err
    assert [entry.name for entry in path.iterdir()] == ["summary.json"]
    assert RunFolder(path).read_summary()["error"] == "KeyError: 'in the second half'"


@pytest.mark.parametrize("validation", ["data.validation=0", "data.validation=0.1"])
def test_a_smoke_test_evaluates_as_the_end_of_the_run_does(
    validation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(train: Features, *others: Any) -> None:
        raise KeyError(f"{len(train.labels_N)} training images")

    monkeypatch.setattr(test_set, "linear_protocol", fail)
    resolved = runs.short("simclr", validation, "data.num_images=600", "epochs=20")
    with pytest.raises(KeyError, match="512 training images"):
        smoke(resolved, tmp_path, runs.CPU, Quiet())


def test_a_smoke_test_of_a_run_without_a_test_makes_none(tmp_path: Path) -> None:
    notes = runs.Notes()
    smoke(runs.short("simclr", "evaluation.test=false"), tmp_path, runs.CPU, notes)
    assert "smoke test passed" in notes.texts[-1]


def test_a_failure_does_not_touch_a_run_that_is_done_or_held_by_another_process(tmp_path: Path) -> None:
    resolved = runs.short()
    folder = runs.folder(resolved, tmp_path)
    folder.open()
    with pytest.raises(ValueError, match="in use by process"):
        run_here(resolved, tmp_path, "cpu", quiet=True)
    assert not folder.summary.exists()
    folder.close()
    folder.done.touch()
    with pytest.raises(ValueError, match="is damaged"):
        run_here(resolved, tmp_path, "cpu", quiet=True)
    assert not folder.summary.exists()


def test_a_background_job_is_the_same_job(tmp_path: Path) -> None:
    arguments = ["run", "--method", "moco", "--device", "cpu", "--output", str(tmp_path / "out"), *ARGUMENTS]
    code, out, err = finished(*arguments, "--cluster", "local", "--processes-per-node", "2", "--wait", "--smoke")
    assert code == 0, out + err
    (path,) = (tmp_path / "out").iterdir()
    run = RunFolder(path)
    assert run.done.exists() and run.read_summary()["world_size"] == 2
    assert "smoke test passed" in out and not (path / "smoke").exists()
    note: dict[str, Any] = json.loads((path / "job.json").read_text())
    assert (Path(note["folder"]) / "code" / "negbench" / "methods" / "moco.py").exists()
    code, out, _ = finished("status", "--output", str(tmp_path / "out"))
    assert code == 0 and "done" in out


def test_a_sweep_here(tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["sweep", "--methods", "moco,byol", "--device", "cpu", "--output", str(output), *ARGUMENTS]
    code, out, err = finished(*arguments, "--max-parallel", "2", "--then", f"status --output {output}")
    assert code == 0, out + err
    assert out.count(" done after ") == 2 and "left  node" in out
    assert all((path / "run.log").exists() for path in output.iterdir())
    code, out, err = finished(*arguments)
    assert code == 0 and "2 of 2 runs are done" in err and "starts" not in out
    code, _, err = finished(*arguments, "--then", "reprot")
    assert code == 2 and "no command 'reprot'" in err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--output", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["--set", "data.name=imagefolder", "--set", "data.root=/nowhere"], "/nowhere"),
        (["--grid", "batch_size=16,100000"], "batch_size 100000 exceeds"),
        (["--processes-per-node", "3"], "batch_size 16 is not divisible by the 3 processes"),
        (["--gpus-per-node", "99"], "--gpus-per-node 99: PyTorch sees"),
        (["--device", "tpu"], "--device must be one of"),
    ],
)
def test_a_sweep_here_is_checked_before_its_first_run(options: list[str], sentence: str, tmp_path: Path) -> None:
    arguments = ["sweep", "--methods", "moco,byol", "--device", "cpu", "--output", str(tmp_path / "out"), *ARGUMENTS]
    code, out, err = finished(*arguments, *options)
    assert (code, out) == (2, "")
    assert sentence in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_stall_is_told_with_its_stack(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(tmp_path / "stalled")
    with pytest.MonkeyPatch.context() as patch, monitor.running():
        patch.setattr("negbench.monitor.SHORTEST_STALL_SECONDS", 0.2)
        for _ in range(30):
            monitor.step_done()
        with monitor.paused():
            time.sleep(1.5)
        assert not (tmp_path / "stalled").exists()
        end = time.monotonic() + 20
        while not (tmp_path / "stalled").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "no step since" in (tmp_path / "stalled").read_text()
        patch.setattr("negbench.monitor.SHORTEST_STALL_SECONDS", 60)
        while (tmp_path / "stalled").exists():
            assert time.monotonic() < end
            monitor.step_done()
            time.sleep(0.05)
    assert "test_a_stall_is_told_with_its_stack" in capfd.readouterr().err


def test_endings() -> None:
    for error, code in (
        (failure.Interrupted(signal.SIGTERM), 143),
        (failure.Interrupted(signal.SIGUSR2), 75),
        (KeyboardInterrupt(), 130),
        (SystemExit(3), 3),
        (ValueError("x"), 2),
        (failure.StorageError("x"), 1),
        (FloatingPointError("x"), 1),
        (RuntimeError("[pair.cc] gloo: Connection closed by peer"), 75),
        (KeyError("x"), 1),
    ):
        assert failure.ending_of(error).code == code
    assert failure.ending_of(KeyError("x")).reason == "KeyError: 'x'"


def test_an_earlier_incarnation_of_a_slurm_job_loses_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that Slurm has given up may still write: its job, requeued elsewhere, takes the run from it."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    old = RunFolder(tmp_path / "run")
    old.open()
    with pytest.raises(ValueError, match="in use by process"):
        RunFolder(tmp_path / "run").open()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    new = RunFolder(tmp_path / "run")
    new.open()
    new.append({"step": 1})
    assert new.attempt == old.attempt + 1 and not old.is_ours()
    with pytest.raises(RuntimeError, match="was taken over by attempt 2"):
        old.append({"step": 2})
    assert [row["step"] for row in new.read_metrics()] == [1]
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    with pytest.raises(ValueError, match="in use by process"):
        RunFolder(tmp_path / "run").open()
    new.close()
    old.close()
