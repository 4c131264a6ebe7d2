"""Records that do not fit each other, and runs whose records are no records."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.records.checks.consistency import problems
from negbench.records.run.config import read_settings
from negbench.records.run_folder import RunFolder
from negbench.report.read.circumstances import settled
from negbench.report.read.runs import find, load
from negbench.settings.identity import make_run_id, recorded_differences
from negbench.settings.keys import flatten
from negbench.settings.plugins.code import code_digest
from negbench.settings.plugins.find import find_method, list_methods
from negbench.settings.resolve import resolve
from tests.helpers import records

WRONG = '{"attempts": 5, "settings": 5, "knn_top1": "x"}'
REFERENCE = Path(__file__).parents[2] / "results" / "reference"


def whole(output: Path, seed: int = 0, knn: float = 0.8) -> RunFolder:
    """A finished run, evaluated at its end, whose records fit each other."""
    curve = (0.1, 0.2, 0.3, 0.4, knn)
    environment = {"method_code": code_digest(find_method("moco"))}
    summary = {"knn_top1_untrained": 0.25, "steps": 28, "epoch_seconds_median": 10.0 + seed}
    study = records.study(output / "study")
    run = records.write(
        output,
        study,
        "moco",
        seed,
        knn,
        "method.temperature=0.3",
        linear=0.9,
        curve=curve,
        epoch_seconds=10.0 + seed,
        environment=environment,
        summary=summary,
    )
    run.evaluations.mkdir()
    knn_record = {"trained": {"top1": {"20": knn}}, "untrained": {"top1": {"20": 0.25}}}
    (run.evaluations / "knn.json").write_text(json.dumps(knn_record))
    (run.evaluations / "linear.json").write_text(json.dumps({"trained": {"top1": 0.9}}))
    return run


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_the_records_of_a_whole_run_fit_each_other(tmp_path: Path) -> None:
    assert problems(whole(tmp_path).path) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda run: edit(run.summary, knn_top1=91.2),
            "summary.json: knn_top1: Input should be less than or equal to",
        ),
        (lambda run: edit(run.summary, knn_top1=0.912), "summary.json: knn_top1 is 0.912, and by evaluations/ 0.8"),
        (lambda run: edit(run.summary, linear_top1=0.91), "summary.json: linear_top1 is 0.91, and by evaluations/ 0.9"),
        (
            lambda run: edit(run.summary, knn_top1_untrained=0.1),
            "summary.json: knn_top1_untrained is 0.1, and by evaluations/ 0.25",
        ),
        (
            lambda run: edit(run.summary, knn_top1_validation=0.81),
            "summary.json: knn_top1_validation is 0.81, and by metrics.jsonl 0.8",
        ),
        (lambda run: edit(run.summary, steps=27), "summary.json: steps is 27, and by metrics.jsonl 28"),
        (lambda run: edit(run.summary, status="failed"), "the run is marked done, and summary.json says failed"),
        (lambda run: edit(run.summary, train_seconds=None), "summary.json: train_seconds is None"),
        (lambda run: edit(run.summary, train_seconds=-1), "summary.json: train_seconds: Input should be greater than"),
        (lambda run: edit(run.summary, seed="x"), "summary.json: seed: Input should be a valid integer"),
        (
            lambda run: shutil.copy(whole(run.path.parent, 1).metrics, run.metrics),
            "summary.json: epoch_seconds_median is 10.0, and by metrics.jsonl 11.0",
        ),
        (lambda run: replace(run.metrics, '"step": 14', '"step": 3'), "metrics.jsonl: its steps go back"),
        (
            lambda run: replace(run.metrics, '"knn_top1": 0.4', '"knn_top1": 40'),
            "metrics.jsonl: line 10: knn_top1: Input",
        ),
        (
            lambda run: replace(run.config, "temperature: 0.3", "temperature: 0.2"),
            "config.yaml is of the run golden-moco-s0-",
        ),
        (lambda run: replace(run.config, "seed: 0", "seed: 7"), "config.yaml is of the run golden-moco-s7-"),
        (lambda run: replace(run.config, "epochs: 4", "epochs: 9"), "metrics.jsonl ends at epoch 4 of 9"),
        (lambda run: run.data.write_text('{"classes": []}'), "data.json: train: Field required"),
        (
            lambda run: edit(run.evaluations / "knn.json", trained={"top1": 5}, untrained={"top1": {"20": 0.3}}),
            "summary.json: knn_top1_untrained is 0.25, and by evaluations/ 0.3",
        ),
        (lambda run: (run.evaluations / "knn.json").write_text("[1]"), "knn.json: it holds [1], and no object"),
        (lambda run: run.summary.write_text("{}"), "summary.json is missing or empty"),
        (lambda run: run.environment.unlink(), "environment.json is missing or empty"),
    ],
)
def test_what_does_not_fit_is_damaged_and_says_so(
    change: Callable[[RunFolder], object], said: str, tmp_path: Path
) -> None:
    run = whole(tmp_path / "here")
    change(run)
    (told,) = [told for told in load([run.path]) if not told.is_used]
    assert told.state == "damaged" and told.reason.startswith(said)
    assert told.reason in problems(run.path)


def test_rows_of_training_steps_are_read_on_request(tmp_path: Path) -> None:
    run = whole(tmp_path)
    rows = run.metrics.read_text().splitlines(keepends=True)
    run.metrics.write_text("".join([rows[0], rows[4], *rows[1:4], *rows[5:]]))
    assert problems(run.path) == ["metrics.jsonl: its steps go back"]


def test_an_evaluation_after_the_end_is_not_compared(tmp_path: Path) -> None:
    run = whole(tmp_path)
    edit(run.evaluations / "linear.json", step=28, trained={"top1": 0.7})
    assert problems(run.path) == []


def test_a_run_under_another_name_does_not_stand_for_the_one_under_its_own(tmp_path: Path) -> None:
    run = whole(tmp_path / "out")
    copy = run.path.with_name("a copy of it")
    shutil.copytree(run.path, copy)
    states = {told.path: told.state for told in settled(load(find([], tmp_path / "out")))}
    assert states == {copy: "copy", run.path: "done"}
    assert problems(copy) == [f"the folder's name is not the run's id, {run.path.name}"]
    shutil.rmtree(run.path)
    assert [told.state for told in settled(load([copy]))] == ["done"]


def test_a_run_that_has_not_ended_lacks_nothing(tmp_path: Path) -> None:
    run = whole(tmp_path)
    for path in (run.done, run.summary, run.environment):
        path.unlink()
    shutil.rmtree(run.evaluations)
    replace(run.metrics, run.metrics.read_text().splitlines()[-1] + "\n", "")
    assert problems(run.path) == []


@pytest.mark.parametrize("method", ["adco", "moco", "byol", "simclr"])
def test_the_id_of_a_run_follows_from_its_config_without_its_methods_code(method: str) -> None:
    resolved = resolve(method, "quickstart", ["epochs=3", "evaluation.linear=false", "method.symmetric=true"], seed=4)
    differences = recorded_differences(flatten(resolved.config), resolved.method_file.path.read_bytes())
    assert differences is not None
    assert make_run_id("quickstart", method, 4, differences) == resolved.run_id


def test_the_published_ids_follow_from_their_configs() -> None:
    configs = sorted(REFERENCE.glob("**/config.yaml"))
    assert len(configs) > 50
    for path in configs:
        settings = read_settings(path)
        name = settings["method.name"]
        differences = recorded_differences(settings, list_methods()[name].path.read_bytes())
        assert differences is not None
        assert make_run_id(settings["study"], name, settings["seed"], differences) == path.parent.name


@pytest.mark.parametrize("name", ["summary.json", "environment.json", "run.lock", "job.json", "config.yaml"])
@pytest.mark.parametrize("content", ["null", "5", "[1]", WRONG, "\ufeff{", ""])
def test_one_record_of_another_type_is_one_row(name: str, content: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    damaged, other = (whole(output, seed) for seed in (0, 1))
    (damaged.path / name).write_text(content)
    for command in (["status", "--output", str(output)], ["report", str(output), "--tables-only"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    states = {run.path: (run.state, run.reason) for run in load(find([], output))}
    assert states[other.path] == ("done", "")
    is_needed = name not in ("run.lock", "job.json")
    assert states[damaged.path][0] == ("damaged" if is_needed else "done")
    assert states[damaged.path][1].startswith(name if is_needed else "")
