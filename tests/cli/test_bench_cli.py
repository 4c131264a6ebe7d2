"""`negbench bench` as a user starts it."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.cost.bench import measure, run
from negbench.records.benches import BenchFolder
from tests.helpers import benches, runs

TINY = [part for setting in runs.SHORT for part in ("--set", setting)]
QUICK = [*TINY, "--rounds", "2", "--device", "cpu"]


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_a_whole_bench(tmp_path: Path) -> None:
    sizes = ("--num-negatives", "16:64", "--batch-size", "8:16", "--methods", "adco,moco,simclr")
    code, shown, told = invoke(*QUICK, *sizes, "--output", tmp_path)
    assert code == 0
    assert [line.partition(",")[0] for line in told.splitlines() if line.startswith("group")] == [
        f"group {number} of 4" for number in range(1, 5)
    ]
    (folder,) = tmp_path.iterdir()
    record = json.loads((folder / "bench.json").read_text())
    assert record["complete"] and record["settings"]["batch_size"] == 16 and "method.name" not in record["settings"]
    assert [(group["kind"], group["value"]) for group in record["groups"]] == [
        ("study", None),
        ("num_negatives", 16),
        ("num_negatives", 64),
        ("batch_size", 8),
    ]
    names = ["adco", "moco", "simclr", "bare 2+2", "bare 2+0", "matrices"]
    assert [subject["name"] for subject in record["groups"][0]["subjects"]] == names
    adco = record["groups"][2]["subjects"][0]
    assert (adco["num_negatives"], adco["negatives_per_query"], adco["passes"]) == (64, 64 + 15, [2, 2])
    assert adco["source_state_bytes"] == 2 * 64 * 8 * 4  # vectors and velocity, D = 8, fp32
    assert {"views", "key_forward", "refresh", "rest"} <= set(adco["parts"]) and len(adco["seconds"]) == 2
    assert adco["flops"] > record["groups"][1]["subjects"][0]["flops"]
    for title in ("Cost of a step", "Parts of a step", "A step by the number of negatives", "A step by batch size"):
        assert title in shown
    page = (folder / "report" / "index.html").read_text()
    assert page.count("<figure>") == 3 and "runs, 0 of them" not in page


def test_traces_name_the_parts_of_a_step(tmp_path: Path) -> None:
    sizes = ("--num-negatives", "16", "--batch-size", "16", "--methods", "adco")
    code, _, _ = invoke(*QUICK, *sizes, "--trace", "--output", tmp_path)
    assert code == 0
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.glob("trace-*")} == {
        f"trace-{name}.{kind}" for name in ("adco", "bare-2+2") for kind in ("json.gz", "txt")
    }
    events = json.loads(gzip.decompress((folder / "trace-adco.json.gz").read_bytes()))["traceEvents"]
    marked = Counter(event["name"] for event in events if event.get("cat") == "user_annotation")
    assert marked["views"] == marked["backward"] == marked["momentum_update"] == marked["refresh"] == 2
    assert "aten::mkldnn_convolution" in (folder / "trace-adco.txt").read_text()


def test_a_second_bench_has_a_folder_of_its_own(tmp_path: Path) -> None:
    first = BenchFolder(tmp_path, "golden", "cpu")
    first.write({"num_groups": 1}, [], num_timed=0)
    second = BenchFolder(tmp_path, "golden", "cpu")
    second.write({"num_groups": 1}, [], num_timed=0)
    assert first.path != second.path and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("after", [0, 1])
def test_ctrl_c_keeps_the_groups_that_are_done(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    measured = measure.timed

    def timed(*arguments: Any) -> list[benches.Facts]:
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(1)
        return measured(*arguments)

    monkeypatch.setattr(run, "timed", timed)
    sizes = ("--num-negatives", "16:32", "--batch-size", "16")
    code, _, told = invoke(*QUICK, "--methods", "moco", *sizes, "--output", tmp_path)
    assert code == 130
    (folder,) = tmp_path.iterdir()
    assert f"interrupted; memory of 3 groups and times of {after}, of 3, are kept in {folder}" in told
    record = json.loads((folder / "bench.json").read_text())
    assert not record["complete"] and len(record["groups"]) == 3
    shown = CliRunner().invoke(app, ["report", str(folder)])
    assert shown.exit_code == 0 and f"times of {after} of its 3 groups are here" in shown.output
    assert "not timed" in shown.output and "damaged" not in shown.output


def test_ctrl_c_before_any_group_is_done_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def examined(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "examined", examined)
    code, _, told = invoke(*QUICK, "--methods", "moco", "--output", tmp_path)
    assert code == 130
    assert "no group was done, so nothing is kept" in told and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--methods", "mocco"], "unknown method 'mocco', did you mean 'moco'?"),
        (["--methods", "moco,byol,moco"], "--methods names moco twice"),
        (["--methods", ","], "--methods ',' names none"),
        (["--methods", ""], "--methods '' names none"),
        (["--num-negatives", "4096:256"], "--num-negatives 4096:256: give one number N, or LOW:HIGH"),
        (["--num-negatives", "0"], "--num-negatives 0: give one number N"),
        (["--num-negatives", "1:2:3"], "--num-negatives 1:2:3: give one number N"),
        (["--num-negatives", str(2**63 - 1)], "a size is at most 2**40, which is 1,099,511,627,776"),
        (["--num-negatives", "256:99999999999999999999"], "a size is at most 2**40"),
        (["--batch-size", "many"], "--batch-size many: give one number N"),
        (["--batch-size", ""], "--batch-size : give one number N"),
        (["--methods", "simclr,byol", "--num-negatives", "256"], "none of the methods (simclr, byol) has the setting"),
        (["--batch-size", "15"], "choose batch_size (and batch_norm_splits)"),
        (["--batch-size", "15:30"], "choose batch_size (and batch_norm_splits)"),
        (["--model", "resnet9"], "model.name (--set)"),
        (["--set", "batch_norm=shuffled"], "use batch_norm: split"),
        (["--config", "quikstart"], "unknown study 'quikstart'"),
        (["--device", "tpu"], "--device must be one of auto, cpu, cuda"),
        (["--set", "precision=fp16"], "precision fp16 needs a GPU"),
        (["--output", "FILE"], "FILE is a file; choose another folder with --output"),
    ],
)
def test_mistakes(arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    code, shown, told = invoke(*QUICK, *arguments)
    assert code == 2 and shown == ""
    assert len(told.strip().splitlines()) == 1 and sentence in told
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


def test_methods_that_differ_in_more_than_their_own_settings_are_refused(tmp_path: Path) -> None:
    study = tmp_path / "paper.yaml"
    study.write_text("track: recipe\nper_method: {byol: {optimizer: {name: lars}}}\n")
    code, _, told = invoke("--config", study, "--methods", "moco,byol", "--device", "cpu")
    assert code == 2
    assert "optimizer.name is sgd for moco and lars for byol; a bench compares methods that share all" in told


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, told = invoke("--device", "cpu")
    assert code == 2 and "measures one process on one device; start it without torchrun or srun" in told


def test_a_method_of_ones_own_is_stepped(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(Path(runs.short("moco").method_file.path).read_text())
    sizes = ("--num-negatives", "16", "--batch-size", "16", "--methods", f"moco,{mine}")
    code, shown, _ = invoke(*QUICK, *sizes, "--output", tmp_path / "results")
    assert code == 0 and "mine" in shown
