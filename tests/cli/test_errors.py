"""What is called the user's mistake, and what a defect."""

from pathlib import Path

import pytest

from negbench.runtime.errors import UserError
from tests.cli.test_cli import invoke

STUDY = ["--config", "quickstart", "--device", "cpu"]
DEVICE, EXPORT = "negbench.runtime.device.choose_device", "negbench.models.files.export.export"
COMMANDS = [
    (["run", "--method", "moco", *STUDY], "negbench.launch.here.choose_device"),
    (["sweep", "--methods", "moco", *STUDY], "negbench.launch.sweep.make.make_missing"),
    (["tune", "--methods", "moco", *STUDY], "negbench.launch.sweep.make.make_missing"),
    (["plan", "--method", "moco", *STUDY], DEVICE),
    (["bench", *STUDY], DEVICE),
    (["evaluate", "."], DEVICE),
    (["export", ".", "--format", "onnx"], EXPORT),
    (["report", "."], "negbench.report.read.runs.find"),
    (["status", "--output", "."], "negbench.records.status.find_runs"),
]


@pytest.mark.parametrize("given", ["", ",", " , "])
@pytest.mark.parametrize("command", ["sweep", "tune", "bench"])
def test_methods_that_name_none_are_a_mistake_of_the_user(command: str, given: str) -> None:
    code, _, told = invoke(command, "--methods", given, "--device", "cpu")
    sentence = f"--methods {given!r} names none; give names with commas between them, as moco,byol"
    assert (code, told) == (2, f"negbench: {sentence}\n")


def test_spaces_in_lists_do_not_matter(tmp_path: Path) -> None:
    output = ["--output", str(tmp_path), "--dry-run"]
    code, shown, _ = invoke("sweep", "--methods", " moco, byol ,", "--seeds", " 0, 2:4,", *STUDY, *output)
    words = [line.split() for line in shown.splitlines()]
    made = [(line[line.index("--method") + 1], line[line.index("--seed") + 1]) for line in words]
    assert code == 0 and made == [(method, seed) for seed in "023" for method in ("moco", "byol")]
    partition = ["--cluster", "slurm", "--partition", "gpu, long", "--exclude", "a[1-2], b"]
    _, shown, _ = invoke("run", "--method", "moco", *STUDY, *output, *partition)
    assert "--partition=gpu,long\n" in shown and "--exclude='a[1-2],b'\n" in shown
    code, _, told = invoke("run", "--method", "moco", *STUDY, *output, "--cluster", "slurm", "--partition", ",")
    assert code == 2 and "partition" in told and "names none" in told


@pytest.mark.parametrize("error", [ValueError, UserError])
@pytest.mark.parametrize(("command", "place"), COMMANDS, ids=[command[0] for command, _ in COMMANDS])
def test_an_error_of_numpy_or_torch_is_no_mistake_of_the_user(
    command: list[str], place: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("operands could not be broadcast together")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, fail)
    code, _, told = invoke(*command)
    if error is UserError:
        assert (code, told) == (2, "negbench: operands could not be broadcast together\n")
    else:
        assert (
            code == 1
            and "Traceback" in told
            and told.endswith("ValueError: operands could not be broadcast together\n")
        )
