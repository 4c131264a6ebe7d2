"""The reference study's stages: every command is one, and the whole of it runs at a tiny size."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import reference
from benchmarks.reference import SIZES, STAGES, Size, commands, main, run, tuned_study
from negbench.cli.main import app
from negbench.report.read.runs import find, load
from negbench.settings.study import read_study
from tests.helpers.processes import fork_runs

TINY = """
data: {image_size: 8, num_images: 70}
views: patterns
model: {name: resnet8}
projector: {hidden: 16, dim: 8}
epochs: 9
batch_size: 16
batch_norm: split
batch_norm_splits: 2
evaluate_every_epochs: 1
precision: fp32
evaluation: {linear_epochs: 2}
per_method:
  adco: {method.num_negatives: 40}
  moco: {method.num_negatives: 40}
tuning: {optimizer.lr: [0.05, 0.1]}
"""


def _options(output: Path, **changed: object) -> argparse.Namespace:
    known = {"data": ".", "output": output, "device": "cpu", "max_parallel": 2, "dry_run": False}
    return argparse.Namespace(**known | changed)


@pytest.mark.parametrize("name", SIZES)
def test_the_commands_of_all_stages_are_understood(name: str, tmp_path: Path) -> None:
    size = SIZES[name]
    for folder in (tmp_path, tmp_path / "alone"):
        tuned = tuned_study(size, folder)
        tuned.parent.mkdir(parents=True)
        tuned.write_bytes((Path(reference.__file__).parents[1] / "configs" / f"{size.study}.yaml").read_bytes())
    planned: dict[str, int] = {}
    for stage in STAGES:
        for command in commands(stage, size, tmp_path):
            if command[0] in ("sweep", "tune"):
                shown = CliRunner().invoke(app, [*command, "--dry-run"])
                assert shown.exit_code == 0, shown.output
                planned[stage] = planned.get(stage, 0) + shown.stdout.count("--method")
    expected = {"tuning": 24, "comparison": 15, "more-seeds": 10, "alone": 6 + 3, "why": 9, "why-with-batch": 9}
    expected |= {"one-way": 6, "long": 4}
    expected["num-negatives"] = 2 * len(size.num_negatives.split(","))
    assert planned == expected | ({"anchors": 1} if size.anchors else {})
    own = {block.get("method.num_negatives") for block in read_study(tuned).per_method.values()}
    assert not own & {int(value) for value in size.num_negatives.split(",")}  # the comparison has that already


def in_this_process(arguments: Sequence[str]) -> int:
    """The exit code of `negbench ARGUMENTS`."""
    with pytest.raises(SystemExit) as ending:
        app(list(arguments))
    return int(ending.value.code or 0)


def test_the_study_from_tuning_to_reports(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_runs(monkeypatch)
    in_its_own = reference._negbench
    monkeypatch.setattr(reference, "_negbench", in_this_process)
    study = tmp_path / "tiny.yaml"
    study.write_text(TINY)
    size = Size(
        study=str(study),
        tuning_epochs=1,
        epochs=2,
        long_epochs=3,
        num_negatives="24",
        bench_num_negatives="24:96",
        bench_minutes=8,
        methods="adco,moco",
        num_trials=1,
        seeds="0",
    )
    output = tmp_path / "out"
    assert run(["tuning", "comparison", "report"], size, _options(output), None) == 0
    comparison = load(find([str(output / "comparison")], output))
    assert sorted(one.method for one in comparison) == ["adco", "adco", "moco"] and all(r.is_used for r in comparison)
    assert (output / "report" / "index.html").exists()
    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(reference, "_negbench", in_its_own)
        assert run(["long"], size, _options(output), 0.5) == 124
    assert run(["bench", "comparison"], size, _options(output), 60.0) == 124  # a bench is not cut, and stops nothing
    told = capfd.readouterr()
    assert "bench is left: 60 s are too little" in told.out and " starts\n" not in told.out
    assert "2 of 2 runs are done" in told.err and "1 of 1 runs are done" in told.err
    assert not (output / "long").exists()
    for content, code in (('{"complete": false}', 124), ('{"complete": true}', 0)):
        (output / "bench-x").mkdir(exist_ok=True)
        (output / "bench-x" / "bench.json").write_text(content)
        assert run(["bench"], size, _options(output), 60.0) == code


def test_stages_after_tuning_wait_for_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["comparison"], SIZES["small"], _options(tmp_path), None) == 2
    assert "comparison needs a finished tuning" in capfd.readouterr().err


def test_unknown_stages_and_times_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, sentence in (
        (["tunning"], "no stage 'tunning'"),
        (["--within", "soon"], "--within: a time must look"),
    ):
        with pytest.raises(SystemExit) as ending:
            main([*arguments, "--data", "."])
        assert ending.value.code == 2 and sentence in capsys.readouterr().err
