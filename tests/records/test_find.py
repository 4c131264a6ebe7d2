"""Runs are found at any depth, each once."""

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.records.benches import BENCHES
from negbench.records.find import PUBLISHED, _warn
from negbench.records.status import find_runs
from negbench.records.tunings import TUNINGS
from tests.helpers import records


def run(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("study: deep\n")
    return path


def test_runs_are_found_at_any_depth_but_in_checkpoints_tunings_and_what_is_published(tmp_path: Path) -> None:
    expected = [run(tmp_path / name) for name in ("a", "b/c/d", "b/e", "checkpoints/run", "z")]
    submitted = ("submissions/1/results/run", "a/submissions/1/results/run")
    for passed_over in ("a/checkpoints/x", "a/code/x", ".hidden/x", "tuning/trial", "theirs/run", *submitted):
        run(tmp_path / passed_over)
    (tmp_path / "tuning" / TUNINGS.record).touch()
    (tmp_path / "theirs" / PUBLISHED).touch()
    assert find_runs(tmp_path) == expected
    assert find_runs(tmp_path / "tuning") == [tmp_path / "tuning" / "trial"]  # named
    assert find_runs(tmp_path / "theirs") == [tmp_path / "theirs" / "run"]
    assert TUNINGS.inside(tmp_path) == [tmp_path / "tuning"] and BENCHES.inside(tmp_path) == []


def test_runs_inside_of_what_looks_like_a_run_are_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("epochs: 3\n")  # a study file of the user's
    inside = run(tmp_path / "a" / "deeper" / "run")
    assert inside in find_runs(tmp_path)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    outside = run(tmp_path / "outside" / "run").parent
    inside = run(tmp_path / "results" / "sub" / "own")
    (inside.parent / "up").symlink_to(tmp_path / "results")
    (inside.parent / "further_up").symlink_to(tmp_path)
    (inside.parent / "self").symlink_to("self")
    (inside.parent / "broken").symlink_to("nowhere")
    (tmp_path / "results" / "linked").symlink_to(outside)
    (tmp_path / "results" / "zz").symlink_to(inside)  # again
    found = find_runs(tmp_path / "results")
    assert found == [tmp_path / "results" / "linked" / "run", inside]


def test_each_folder_is_listed_once_and_checkpoints_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run(tmp_path / "deep" / str(number)) for number in range(3)]
    for path in runs:
        (path / "checkpoints").mkdir()
    listed: list[Path] = []
    scandir = os.scandir

    def list_folder(path: Path) -> Any:
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", list_folder)
    assert find_runs(tmp_path) == runs
    assert sorted(listed) == [tmp_path, tmp_path / "deep", *runs]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = [run(tmp_path / "a")]
    closed = run(tmp_path / "closed")
    closed.chmod(0)
    _warn.cache_clear()
    assert find_runs(tmp_path) == expected
    assert capsys.readouterr().err == f"negbench: {closed} cannot be read and is left out: Permission denied\n"
    closed.chmod(0o755)


def test_report_and_status_find_runs_at_any_depth(tmp_path: Path) -> None:
    study = records.study(tmp_path)
    for place, method in (("x/a", "moco"), ("x/y/b", "adco")):
        records.write(tmp_path / "results" / place, study, method, 0, 0.8)
    shown = CliRunner().invoke(app, ["report", str(tmp_path / "results")])
    assert shown.exit_code == 0 and "+0.0 over moco" in shown.output
    assert (tmp_path / "results" / "report" / "index.html").exists()
    status = CliRunner().invoke(app, ["status", "--output", str(tmp_path / "results")])
    assert status.exit_code == 0 and "adco" in status.output and "moco" in status.output
