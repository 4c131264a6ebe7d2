"""Runs whose records were changed, and what an earlier run lacks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from negbench.data.reuse import Reuse
from negbench.records.checks.manifest import MANIFEST, write_manifest
from negbench.records.checks.same import check_records
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from tests.helpers import runs
from tests.helpers.recorded import edit, negbench


def test_a_run_as_it_was_written_verifies(run: Path) -> None:
    assert negbench("verify", run) == (0, f"{run}: verified 1 of 1 runs verified")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: edit(run / "summary.json", lambda s: s | {"knn_top1": 0.9}), "summary.json was changed"),
        (
            lambda run: edit(run / "evaluations" / "knn.json", lambda e: e | {"x": 1}),
            "evaluations/knn.json was changed",
        ),
        (lambda run: (run / "metrics.jsonl").write_text(""), "metrics.jsonl was changed after the run's end"),
        (lambda run: (run / "data.json").unlink(), "data.json is missing"),
        (lambda run: (run / "code" / "methods" / "moco.py").write_text("x = 1"), "code/methods/moco.py was changed"),
        (lambda run: (run / "evaluations" / "voc07.json").write_text("{}"), "voc07.json is not in manifest.json"),
        (lambda run: (run / MANIFEST).write_text("[1]"), "manifest.json is damaged"),
        (lambda run: next(run.glob("checkpoints/*.pt")).write_bytes(b"x"), "does not have its checksum"),
    ],
)
def test_what_was_changed_after_the_end_is_named(run: Path, change: Callable[[Path], Any], said: str) -> None:
    change(run)
    code, output = negbench("verify", run)
    assert code == 1 and said in output
    assert "0 of 1 runs verified" in output


@pytest.mark.parametrize(
    ("name", "rewrite"),
    [
        ("summary.json", lambda text: json.dumps(json.loads(text))),
        ("summary.json", lambda text: "\ufeff" + text.replace("\n", "\r\n")),
        ("metrics.jsonl", lambda text: text.replace("\n", "\r\n")),
        ("config.yaml", lambda text: text.replace("\n", "\r\n")),
    ],
)
def test_other_white_space_of_a_record_is_told_and_no_problem(
    run: Path, name: str, rewrite: Callable[[str], str]
) -> None:
    (run / name).write_text(rewrite((run / name).read_text()), newline="")
    code, output = negbench("verify", run)
    assert code == 0 and f"? {name} differs in bytes from what the run wrote, not in content" in output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda run: edit(run / "summary.json", lambda s: s | {"knn_top1": 0.9}),
            "its summary.json is damaged (summary",
        ),
        (lambda run: edit(run / "summary.json", lambda s: {"knn_top1": 0.9}), "its summary.json is damaged (summary"),
        (lambda run: edit(run / "summary.json", lambda s: s | {"label": "x"}), "was changed after the run's end"),
        (lambda run: (run / "summary.json").unlink(), "its summary.json is damaged (summary.json is missing"),
        (lambda run: (run / "metrics.jsonl").write_text(""), None),
        (lambda run: (run / "evaluations" / "knn.json").unlink(), None),
        (lambda run: (run / "config.yaml").write_text("[1]"), None),
    ],
)
def test_a_finished_run_is_not_reported_from_a_changed_summary(
    run: Path, change: Callable[[Path], Any], said: str | None
) -> None:
    change(run)
    notes: list[str] = []
    if said is None:
        check_records(RunFolder(run), notes.append)
        assert len(notes) == 1 and notes[0].startswith(f"caution: {run} does not verify: ")
        return
    with pytest.raises(UserError) as error:
        Reuse(notes.append).check(RunFolder(run), runs.short("moco"))
    assert said in str(error.value) and "put the file back, or make the run anew with --fresh" in str(error.value)


def test_a_manifest_that_cannot_be_read_is_kept(run: Path) -> None:
    (run / MANIFEST).write_text("[1]")
    write_manifest(RunFolder(run), ["evaluations/knn.json"])
    assert (run / MANIFEST).read_text() == "[1]"


@pytest.mark.parametrize("content", ["", "null", "{}", "epochs: 3"])
def test_settings_that_are_not_whole_are_not_filled_up_to_evaluate(run: Path, content: str) -> None:
    (run / "config.yaml").write_text(content)
    (run / "data.json").unlink()
    code, output = negbench("evaluate", run, "--protocol", "knn", "--device", "cpu")
    assert code == 2 and f"{run / 'config.yaml'} is damaged" in output


def test_what_an_earlier_run_lacks_is_unknown(run: Path) -> None:
    for name in (MANIFEST, "data.json"):
        (run / name).unlink()
    code, output = negbench("verify", run)
    assert code == 0
    assert f"? it has no {MANIFEST}" in output and "? its data is not on record" in output


def test_a_later_evaluation_enters_the_manifest(run: Path) -> None:
    assert negbench("evaluate", run, "--protocol", "knn", "--device", "cpu")[0] == 0
    assert negbench("verify", run)[0] == 0


def test_a_setting_that_is_on_record_twice_is_damage(run: Path) -> None:
    with (run / "config.yaml").open("a") as file:
        file.write("epochs: 9\n")
    code, output = negbench("verify", run)
    assert code == 1 and "sets epochs a second time; keep one" in output
