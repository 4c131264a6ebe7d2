"""Launching without Slurm: layers, the batch script, sweeps and background jobs."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.records.run_folder import RunFolder
from negbench.runtime.place import _first_node, find_place, was_launched
from negbench.settings import cluster as layers
from negbench.settings.grid import combinations, parse_seeds, plan
from tests.helpers.processes import ARGUMENTS, finished

GOLDEN = Path(__file__).parent / "golden" / "two_nodes.sh"


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


def test_a_background_job_is_the_same_job(tmp_path: Path, warm_jobs: None) -> None:
    arguments = ["run", "--method", "moco", "--device", "cpu", "--output", str(tmp_path / "out"), *ARGUMENTS]
    code, out, err = finished(
        *arguments, "--cluster", "local", "--processes-per-node", "2", "--wait", "--smoke", python=sys.executable
    )
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
