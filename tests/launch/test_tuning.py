"""Trials: what is drawn, what is chosen, and what is kept."""

import itertools
import json
import multiprocessing
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.data.load import load_splits
from negbench.launch.sweep.tuning import joined, plan_trials, tuned_study, write_joined
from negbench.records.tunings import Trial, Tuned, load
from negbench.settings.plugins.find import list_studies
from negbench.settings.resolve import resolve
from negbench.settings.space import at_edges, draw, read_space
from negbench.settings.study import read_study
from tests.helpers import records, runs, tunings
from tests.helpers.processes import fork_runs


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tunings.study_file(
        tmp_path, "  optimizer.lr: [0.1, 0.2, 0.4, 0.8]\n", "per_method: {moco: {method.temperature: 0.3}}\n"
    )


SPACE = {
    "optimizer.lr": [0.1, 0.2, 0.4, 0.8],
    "method.temperature": [0.1, 0.2],
    "method.key_momentum": [0.9, 0.95, 0.99],
}


@pytest.mark.parametrize("num_trials", [1, 4, 6, 12, 24])
def test_trials_differ_and_cover_each_key_evenly(num_trials: int) -> None:
    trials = draw(SPACE, num_trials, 0, "moco")
    assert len({json.dumps(trial) for trial in trials}) == len(trials) == num_trials
    for key, values in SPACE.items():
        counts = Counter(trial[key] for trial in trials)
        assert counts.keys() <= set(values)
        if num_trials <= len(values):
            assert max(counts.values()) == 1, key


def test_all_combinations_can_be_drawn_and_no_more() -> None:
    trials = draw(SPACE, 24, 0, "moco")
    assert {tuple(trial.values()) for trial in trials} == set(itertools.product(*SPACE.values()))
    with pytest.raises(ValueError, match="25 trials are more than the 24 combinations that there are for moco"):
        draw(SPACE, 25, 0, "moco")


def test_more_trials_begin_with_those_of_fewer_and_depend_on_seed_and_method() -> None:
    assert draw(SPACE, 12, 0, "moco")[:5] == draw(SPACE, 5, 0, "moco")
    others = [draw(SPACE, 12, *names) for names in ((0, "moco"), (1, "moco"), (0, "adco"))]
    assert len({json.dumps(trials) for trials in others}) == 3


def test_the_draw_stays_what_it_was() -> None:
    """Trials are found again by their settings: another draw would make all of them anew."""
    assert [tuple(trial.values()) for trial in draw(SPACE, 3, 0, "moco")] == GOLDEN_DRAW


GOLDEN_DRAW = [(0.1, 0.1, 0.95), (0.8, 0.2, 0.99), (0.4, 0.2, 0.9)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "says nothing of what may be tuned for moco"),
        ("  optimizer.rl: [0.1]", "names the unknown key optimizer.rl, did you mean 'optimizer.lr'?"),
        ("  batch_size: [64, 128]", "draws batch_size, but in a controlled study"),
        ("  optimizer.lr: 0.1", "optimizer.lr must be a list of values to draw from, not 0.1"),
        ("  optimizer.lr: []", "optimizer.lr must be a list of values"),
        ("  optimizer.lr: [0.1, 0.2, 0.1]", "optimizer.lr holds a value twice"),
        ("  optimizer.lr: [0.1, 1e-1]", "tuning draws values for moco that mean the same"),
        ("  optimizer.lr: [2020-01-01]", "holds something else than numbers and words"),
        ("  epochs: [1, 2]", "must not draw epochs"),
        ("  evaluation.test: [true, false]", "must not draw evaluation.test"),
        ("  log_every_steps: [1, 2]", "must not draw log_every_steps"),
        ("  optimizer.lr: [0.1]\n  per_method: {mocco: {method.temperature: [1]}}", "did you mean 'moco'?"),
        ("  per_method: [1]\n  optimizer.lr: [0.1]", "per_method must map method names to settings"),
        ("  optimizer.lr: [0.1, -1]", "optimizer.lr (--set): input should be greater than 0"),
    ],
)
def test_mistakes_in_a_space_are_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    study = tunings.study_file(tmp_path, text)
    output = tmp_path / "out"
    trials = "2" if "-1" in text else "1"  # so that both values are drawn
    command = ["tune", "--methods", "moco", "--config", str(study), "--trials", trials, "--output", str(output)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr and result.stderr.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--set", "optimizer.lr=0.3"], "--set optimizer.lr fixes what the study's tuning draws"),
        (["--set", "evaluation.test=true"], "settings are chosen without the test set, always"),
        (["--set", "data.validation=0"], "data.validation is 0, so there is no accuracy on held-out images"),
        (["--set", "evaluate_every_epochs=0"], "evaluate_every_epochs is 0, so"),
        (["--trials", "99"], "99 trials are more than the 16 combinations that there are for moco"),
        (["--within", "soon"], "--within: a time must look like"),
        (["--set", "seed=3"], "--set seed: --seed is that of the draw"),
        (["--within", "9m", "--cluster", "local"], "--within is for runs here"),
        (["--wait"], "--wait belongs to jobs"),
        (["--methods", "moco,moco"], "--methods names moco twice"),
        (["--methods", ","], "--methods ',' names none"),
    ],
)
def test_mistakes_in_a_call_are_one_sentence(options: list[str], sentence: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tune", "--methods", "moco", "--output", str(tmp_path / "out"), *options])
    assert result.exit_code == 2, result.output
    assert sentence in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_methods_own_space_comes_before_the_common_one(tmp_path: Path) -> None:
    study = tunings.study_file(tmp_path, "  optimizer.lr: [0.1, 0.2]\n  per_method:\n    byol: {optimizer.lr: [0.5]}")
    assert read_space(resolve("byol", str(study)), ["byol"]) == {"optimizer.lr": [0.5]}
    assert read_space(resolve("moco", str(study)), ["moco"]) == {"optimizer.lr": [0.1, 0.2]}


def test_every_study_that_can_be_tuned_gives_all_its_methods_as_many_trials() -> None:
    tunable = {name: path for name, path in list_studies().items() if read_study(path).tuning}
    assert tunable.keys() >= {"quickstart", "cifar10", "cifar10-small"}
    for name, path in tunable.items():
        methods = list(read_study(path).per_method)
        record, planned = plan_trials(methods, name, [], 6, 0)
        assert len(planned) == 6 * len(methods)
        assert [run.resolved.config.method.name for run in planned[: len(methods)]] == methods
        assert all(run.resolved.config.evaluation.test is False for run in planned)
        for method in record.methods.values():
            assert len({trial.run_id for trial in method.trials}) == 6


def _trial(score: float | None, state: str = "done", **values: Any) -> Trial:
    return Trial("r", values or {"optimizer.lr": 0.1}, state, "", score, 1.0, 1000)


def test_the_highest_score_is_chosen_the_first_of_equals() -> None:
    trials = (_trial(None, "failed"), _trial(0.5, a=1), _trial(0.7, a=2), _trial(0.7, a=3), _trial(0.6, a=4))
    tuned = Tuned("moco", {}, trials)
    assert tuned.best is trials[2] and tuned.has_ended
    assert tuned.median == statistics.median([0.5, 0.7, 0.7, 0.6])
    assert Tuned("moco", {}, (_trial(None, "failed"),)).best is None
    assert not Tuned("moco", {}, (_trial(0.5), _trial(None, "dead"))).has_ended


def test_what_lies_at_an_edge_of_the_space() -> None:
    space: dict[str, list[Any]] = {"a": [3, 1, 2], "b": [0.1, 0.2], "c": ["x", "y", "z"], "d": [1, 2, 4]}
    assert list(at_edges(space, {"a": 1, "b": 0.1, "c": "x", "d": 4})) == [("a", "lowest"), ("d", "highest")]
    assert list(at_edges(space, {"a": 2, "b": 0.2, "c": "z", "d": 2})) == []


def test_the_tuned_study_differs_in_the_chosen_settings_alone(tmp_path: Path, study: Path) -> None:
    tuning = load(tunings.finished(tmp_path / "results", study, {"moco": [0.5, 0.7], "byol": [0.3, 0.2]}))
    text = tuned_study(study, tuning)
    path = tmp_path / "chosen.yaml"
    path.write_text(text)
    before, after = read_study(study), read_study(path)
    assert after.base == before.base and after.tuning == before.tuning
    moco, byol = (method.best.values for method in tuning.methods if method.best)
    assert after.per_method == {"moco": {"method.temperature": 0.3} | moco, "byol": byol}
    assert "# moco: trial 2 of 2, 70.0%" in text and yaml.safe_load(text)["per_method"]["moco"]["optimizer"]


TUNE = ["tune", "--device", "cpu", "--methods", "moco,byol", *(p for text in runs.SHORT for p in ("--set", text))]


def _files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_trials_are_made_kept_extended_and_never_see_the_test_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_runs(monkeypatch)
    output = tmp_path / "out"
    tune = [*TUNE, "--output", str(output), "--max-parallel", "2"]
    made = CliRunner().invoke(app, [*tune, "--trials", "1"])
    assert made.exit_code == 0, made.output
    folder = output / "quickstart-tuning"
    (following,) = [line for line in made.stdout.splitlines() if line.startswith("next: negbench sweep")]
    assert "--set batch_size=16" in following and "--set epochs=" not in following
    assert "batch_size=16" in (folder / "quickstart-tuned.yaml").read_text()
    first = load(folder)
    assert first.has_ended and [len(method.trials) for method in first.methods] == [1, 1]
    held_out = load_splits(resolve("moco", "quickstart", runs.SHORT).config.data).validation
    assert held_out is not None and first.num_held_out == len(held_out)
    for method in first.methods:
        (trial,) = method.trials
        assert trial.score is not None and 0 < trial.score <= 1
        assert not list((folder / trial.run_id).glob("evaluations/*"))
    chosen = resolve("moco", str(folder / "quickstart-tuned.yaml"))
    best = first.methods[0].best
    assert best is not None and chosen.config.optimizer.lr == best.values["optimizer.lr"]

    before = _files(folder)
    again = CliRunner().invoke(app, [*tune, "--trials", "1"])
    assert again.exit_code == 0 and "starts" not in again.stdout
    changed = {path for path, written in _files(folder).items() if before.get(path) != written}
    assert {Path(path).name for path in changed} <= {"tuning.json", "quickstart-tuned.yaml", ".lock"}

    refused = CliRunner().invoke(app, [*tune, "--trials", "1", "--set", "epochs=2"])
    assert refused.exit_code == 2 and "choose another --output" in refused.stderr

    more = CliRunner().invoke(app, [*tune, "--trials", "2", "--methods", "moco"])
    assert more.exit_code == 0, more.output
    moco, byol = load(folder).methods
    assert moco.trials[0] == first.methods[0].trials[0] and len(moco.trials) == 2
    assert byol == first.methods[1]

    (folder / moco.trials[0].run_id / "done").unlink()
    other = CliRunner().invoke(app, [*tune, "--trials", "1", "--methods", "byol"])
    assert other.exit_code == 1
    assert "not ended: 1 of moco; the same command, with --methods moco --trials 2, resumes them" in other.stdout


def test_a_tuning_is_joined_only_by_trials_of_the_same_study(tmp_path: Path, study: Path) -> None:
    folder = tunings.finished(tmp_path, study, {"moco": [0.5, 0.7]})
    same, _ = plan_trials(["byol"], str(study), [], 3, 0)
    both = joined(folder, same)
    assert list(both.methods) == ["moco", "byol"] and len(both.methods["moco"].trials) == 2
    study.write_text(study.read_text().replace("batch_size: 100", "batch_size: 50"))
    for method in ("moco", "byol"):
        other, _ = plan_trials([method], str(study), [], 2, 0)
        with pytest.raises(ValueError, match="holds trials of another version of the study tuned; choose another"):
            joined(folder, other)
    study.write_text(study.read_text().replace("batch_size: 50", "batch_size: 100").replace("0.3", "0.4"))
    other, _ = plan_trials(["moco"], str(study), [], 2, 0)
    with pytest.raises(ValueError, match="holds trials of moco by another version of the study"):
        joined(folder, other)
    study.write_text(study.read_text().replace("temperature: 0.4", "temperature: 0.3"))
    seed, _ = plan_trials(["moco"], str(study), [], 2, 1)
    with pytest.raises(ValueError, match="holds trials of seed 0, not 1"):
        joined(folder, seed)


def test_where_the_data_lies_is_no_part_of_a_tuning(tmp_path: Path, study: Path) -> None:
    here, _ = plan_trials(["moco"], str(study), ["data.root=a", "epochs=2"], 2, 0)
    there, _ = plan_trials(["moco"], str(study), ["data.root=b", "epochs=2"], 2, 0)
    assert here == there and here.settings == ["epochs=2"]


def test_trials_that_diverge_count_as_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork_runs(monkeypatch)
    study = tmp_path / "wild.yaml"
    study.write_text("tuning: {optimizer.lr: [1.0e+30, 0.1]}\n")
    short = [part for text in runs.SHORT for part in ("--set", text)]
    command = ["tune", "--device", "cpu", "--methods", "simclr", "--config", str(study), *short, "--trials", "2"]
    command += ["--max-parallel", "2"]
    result = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    (method,) = load(tmp_path / "out" / "wild-tuning").methods
    assert sorted(trial.state for trial in method.trials) == ["done", "failed"]
    assert method.best is not None and method.best.values == {"optimizer.lr": 0.1}
    assert "! 1 of 2 trials of simclr failed (" in result.stdout


def test_a_tuning_that_failed_everywhere_writes_no_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork_runs(monkeypatch)
    study = tmp_path / "wild.yaml"
    study.write_text("tuning: {optimizer.lr: [1.0e+30]}\n")
    short = [part for text in runs.SHORT for part in ("--set", text)]
    command = ["tune", "--device", "cpu", "--methods", "simclr", "--config", str(study), *short, "--trials", "1"]
    result = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "out")])
    assert result.exit_code == 1 and "every trial of simclr failed" in result.stdout
    assert not list((tmp_path / "out").rglob("*-tuned.yaml"))


def test_calls_beside_each_other_lose_nothing(tmp_path: Path, study: Path) -> None:
    records_ = [plan_trials([method], str(study), [], 2, 0)[0] for method in ("moco", "byol", "simclr", "adco")]
    folder = tmp_path / "tuned-tuning"
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    calls = [context.Process(target=write_joined, args=(folder, record)) for record in records_]
    for call in calls:
        call.start()
    for call in calls:
        call.join(60)
    assert {method.method for method in load(folder).methods} == {"moco", "byol", "simclr", "adco"}


def test_a_users_method_is_tuned_beside_others(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(Path(resolve("moco").method_file.path).read_text())
    study = tunings.study_file(
        tmp_path, "  per_method:\n    mine: {optimizer.lr: [0.1, 0.2]}\n    moco: {optimizer.lr: [0.3]}"
    )
    record, planned = plan_trials(["moco", str(mine)], str(study), [], 1, 0)
    assert list(record.methods) == ["moco", "mine"] and len(planned) == 2
    folder = tmp_path / "tuned-tuning"
    for run in planned:
        records.write(folder, study, run.method, 0, 0, *run.overrides, curve=[0.5] * 5, summary={"knn_top1": None})
    write_joined(folder, record)
    tuned = folder / "tuned-tuned.yaml"
    tuned.write_text(tuned_study(study, load(folder)))
    assert resolve("moco", str(tuned)).config.optimizer.lr == 0.3
    chosen = record.methods["mine"].trials[0].values["optimizer.lr"]
    assert resolve(str(mine), str(tuned)).config.optimizer.lr == chosen
    namesake = tmp_path / "moco.py"
    namesake.write_text(mine.read_text())
    with pytest.raises(ValueError, match="--methods names moco twice"):
        plan_trials(["moco", str(namesake), str(mine)], str(study), [], 1, 0)
