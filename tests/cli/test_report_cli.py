"""`negbench report` as a user starts it."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from negbench.cli.main import app
from tests.helpers import records
from tests.helpers.processes import finished
from tests.helpers.reports import LOADED


@pytest.fixture
def output(tmp_path: Path) -> Path:
    study = records.study(tmp_path)
    for seed in range(3):
        for method, knn in (("moco", 0.80), ("adco", 0.85)):
            curve = (0.1, 0.3, 0.5, 0.7, knn + 0.01 * seed)
            records.write(tmp_path / "results", study, method, seed, knn + 0.01 * seed, curve=curve)
    return tmp_path / "results"


def _report(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "loaded"), [(["--help"], set()), (["RUNS", "--tables-only"], {"pandas"}), (["RUNS"], {"matplotlib"})]
)
def test_it_loads_no_torch_and_no_plotting_before_it_plots(
    output: Path, arguments: list[str], loaded: set[str]
) -> None:
    command = [sys.executable, "-c", LOADED, "report", *(str(output) if a == "RUNS" else a for a in arguments)]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    names = set(shown.rpartition("loaded:")[2].split())
    assert "torch" not in names
    assert names >= loaded and ("matplotlib" in names) == ("matplotlib" in loaded)


def test_it_shows_tables_and_writes_a_page_beside_the_runs(output: Path) -> None:
    code, shown = _report(output)
    assert code == 0
    assert "Which source is best at equal epochs?" in shown and "86.0 ± 2.5" in shown
    assert (output / "report" / "index.html").exists()
    assert _report(output)[0] == 0  # again: the report itself is no run, and is replaced


def test_runs_and_studies_are_named(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(output.parent)
    assert "6 of" not in _report("golden", "--tables-only")[1]
    code, shown = _report(next(output.glob("golden-moco-s1-*")), "--tables-only")
    assert code == 0 and "It holds one method, moco" in shown
    assert _report("--tables-only", "--baseline", "adco")[1].count("adco") > 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "nowhere is neither a folder nor a study in results; it has golden"),
        (["empty"], "empty is no run folder and holds none; `negbench run` or `sweep` makes them"),
        (["golden.yaml"], "golden.yaml is a file; name run folders, folders of runs, or studies"),
        (["--target", "80"], "--target 80: an accuracy is a fraction above 0 and at most 1, as 0.8"),
        (["--baseline", "mocco"], "--baseline mocco: there is no such row; there are adco, moco"),
        (["--output", "results"], "--output results holds something else than a report; choose a new folder"),
        (["--output", "golden.yaml"], "--output golden.yaml is a file; choose a new folder"),
        (["--output", "golden.yaml/x"], "cannot write to golden.yaml/x: Not a directory; choose another --output"),
    ],
)
def test_mistakes(output: Path, arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(output.parent)
    (output.parent / "empty").mkdir()
    before = sorted(output.parent.rglob("*"))
    code, _, told = finished("report", *arguments)
    assert code == 2
    assert told.strip().splitlines()[-1] == f"negbench: {sentence}"
    assert sorted(output.parent.rglob("*")) == before  # nothing lost, nothing left
