"""The report's section on a bench, from records with known answers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.records.benches import BENCHES
from negbench.report import build
from negbench.report.page import tables as table_files
from negbench.report.page import write as report_files
from negbench.report.read.benches import load_benches
from negbench.report.read.runs import find, load
from negbench.report.sections import Report
from tests.helpers import benches, records, reports

BARE, MOCO, ADCO = (0.2, 0.1, 0.4), (0.3, 0.2, 0.4), (0.6, 0.5, 0.4)


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """Ratios to the bare step: moco 1.5, 2, 1, adco 3, 5, 1; adco to moco 2, 2.5, 1."""
    main = [
        benches.subject("adco", ADCO, num_negatives=256, flops=2 * 10**9),
        benches.subject("moco", MOCO, num_negatives=256),
        benches.subject("simclr", MOCO, passes=[2, 0]),
        benches.subject("bare 2+2", BARE, "bare"),
        {"kind": "matrices", "name": "matrices", "flops": 10**10, "seconds": [0.1, 0.5, 1.0], "parts": {}},
    ]
    main[-1]["parts"] = {"rest": main[-1]["seconds"]}
    large = [
        benches.lost("adco", num_negatives=65536),
        benches.subject("moco", [1.0, 2.0, 3.0], num_negatives=65536, peak_memory_bytes=8 * 2**20),
        benches.subject("bare 2+2", [1.0, 1.0, 1.0], "bare"),
    ]
    larger = [
        benches.subject("adco", [1.28] * 3, batch_size=128, num_negatives=256),
        benches.subject("moco", [0.64] * 3, batch_size=128, num_negatives=256),
        benches.subject("bare 2+2", [0.32] * 3, "bare", batch_size=128),
    ]
    groups = [("study", None, main), ("num_negatives", 65536, large), ("batch_size", 128, larger)]
    return benches.write(tmp_path / "results" / "bench-golden-cuda-1", groups)


def _built(*folders: Path, baseline: str | None = None) -> Report:
    used, unused = load_benches(BENCHES.find([str(folder) for folder in folders], Path("nowhere")))
    return build.build(unused, baseline, (), used)


def test_known_medians_and_ratios(bench: Path) -> None:
    report = _built(bench)
    table = reports.table(report, "bench-golden-cuda-cost")
    adco = reports.cells(table, "adco")
    assert adco["step, ms"] == "500 [450, 550]"
    assert adco["/ bare"] == "3.00 [1.00, 5.00]"  # every resample of three rounds: their range
    assert adco["/ moco"] == "2.00 [1.00, 2.50]"
    assert adco["images/s"] == "128" and adco["peak memory, MiB"] == "1.00"
    assert adco["share of matrix rate"] == "20%"  # 2 GFLOP in 0.5 s, of 10 GFLOP in 0.5 s
    assert reports.cells(table, "moco")["/ moco"] == "baseline"
    assert reports.cells(table, "simclr")["/ bare"] == "–"  # the bare step with its passes is not there
    assert reports.cells(table, "bare 2+2")["/ moco"] == "0.67 [0.50, 1.00]"
    assert "reserved, MiB" not in adco and "matrices" not in [line[0].text for line in table.rows]
    fact = table.data.set_index("step").loc["adco"]
    assert fact["ratio_to_bare_median"] == pytest.approx(3) and fact["ratio_to_bare_n"] == 3
    parts = reports.cells(reports.table(report, "bench-golden-cuda-parts"), "adco")
    assert (parts["query forward"], parts["backward"], parts["rest"], parts["step"]) == ("125", "250", "125", "500")
    assert "refresh" not in parts  # no step has it


def test_sweeps_compare_within_their_own_group(bench: Path) -> None:
    report = _built(bench)
    lines = {(line[0].text, line[1].text): line for line in reports.table(report, "bench-golden-cuda-num").rows}
    assert list(lines) == [("adco", "256"), ("adco", "65,536"), ("moco", "256"), ("moco", "65,536")]
    assert lines["adco", "65,536"][2].text == "out of memory"
    assert lines["moco", "65,536"][3].text == "2.00 [1.00, 3.00]"  # over that group's bare step
    assert "adco: can't allocate memory" in reports.table(report, "bench-golden-cuda-num").note
    lines = {(line[0].text, line[1].text): line for line in reports.table(report, "bench-golden-cuda-batch").rows}
    assert lines["adco", "128"][3].text == "10,000"  # microseconds an image
    assert lines["adco", "128"][5].text == "2.00 [2.00, 2.00]"


def test_another_baseline(bench: Path) -> None:
    cells = reports.cells(reports.table(_built(bench, baseline="adco"), "bench-golden-cuda-cost"), "moco")
    assert cells["/ adco"] == "0.50 [0.40, 1.00]"
    with pytest.raises(ValueError, match="--baseline mocco: there is no such row; there are adco, moco, simclr"):
        _built(bench, baseline="mocco")


def test_the_page_of_a_bench_alone(bench: Path, tmp_path: Path) -> None:
    page = report_files.write(_built(bench), tmp_path / "report", lambda text: None)
    html = page.read_text()
    assert html.count("<figure>") == 3 and "Cost of a step: golden, Test GPU" in html
    assert "1 bench; baseline: moco" in html and "negbench bench --rounds 3" in html and "No run has" not in html
    written = {path.name for path in (page.parent / "figures").iterdir()}
    assert written == {
        f"bench-golden-cuda-{name}.{kind}"
        for name in ("parts", "num-negatives", "batch-size")
        for kind in ("png", "svg", "pdf")
    }
    told = json.loads((page.parent / "report.json").read_text())
    assert told["benches"][0]["folder"] == bench.name
    again = report_files.write(_built(bench), tmp_path / "again", lambda text: None)
    for path in page.parent.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again.parent / path.relative_to(page.parent)).read_bytes(), path


def test_runs_and_benches_in_one_folder(bench: Path, tmp_path: Path) -> None:
    output = bench.parent
    records.write(output, records.study(tmp_path), "moco", 0, 0.8)
    alone = "\n".join(table_files.to_markdown(table) for table in build.build(load(find([str(output)], output))).tables)
    result = CliRunner().invoke(app, ["report", str(output)])
    assert result.exit_code == 0, result.output
    assert "Accuracy: golden" in result.output and "Cost of a step: golden, Test GPU" in result.output
    page = (output / "report" / "index.html").read_text()
    assert "1 run, 1 of them finished and used" in page and "#bench-golden-cuda" in page
    assert (output / "report" / "tables" / "accuracy-golden.md").read_text() in alone


def test_benches_are_found_by_folder_and_by_study(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in ([], ["results"], ["golden"], [str(bench)]):
        result = CliRunner().invoke(app, ["report", *arguments, "--tables-only"])
        assert result.exit_code == 0 and "Parts of a step, ms: golden" in result.output, arguments
    assert CliRunner().invoke(app, ["report", str(bench)]).exit_code == 0
    assert (bench / "report" / "index.html").exists() and not (tmp_path / "results" / "report").exists()
    result = CliRunner().invoke(app, ["report", "gold"])
    assert result.exit_code == 2 and "gold is neither a folder nor a study in results; it has golden" in result.output


def test_damaged_records_are_listed_with_the_reason(bench: Path) -> None:
    output = bench.parent
    groups = json.loads((bench / "bench.json").read_text())["groups"]
    listed = [(group["kind"], group["value"], group["subjects"]) for group in groups]
    benches.write(output / "b-other", listed, schema_version=99)
    benches.write(output / "b-short", listed, rounds=4)
    lacking = benches.write(output / "b-lacking", listed)
    content = json.loads((lacking / "bench.json").read_text())
    del content["rounds"]
    (lacking / "bench.json").write_text(json.dumps(content))
    (benches.write(output / "b-cut", listed) / "bench.json").write_text('{"schema')
    groups[0]["subjects"][0]["seconds"][0] = None
    benches.write(output / "b-nothing", [(group["kind"], group["value"], group["subjects"]) for group in groups])
    report = _built(output)
    assert [section.subject.path for section in report.benches] == [bench]
    assert {run.name: (run.state, run.reason) for run in report.unused} == {
        "b-other": ("other version", "its record is of schema 99, this negbench reads 1"),
        "b-short": ("damaged", "bench.json: adco has 3 rounds, not 4"),
        "b-lacking": ("damaged", "bench.json: rounds: Field required"),
        "b-cut": ("damaged", "bench.json: Invalid JSON: EOF while parsing a string at line 1 column 8"),
        "b-nothing": ("damaged", "bench.json: groups.0.subjects.0.seconds.0: Input should be a valid number"),
    }


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every dictionary or list in `content` with each of its keys, at all levels."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])


def test_a_record_with_any_one_field_damaged_hides_nothing_else(bench: Path, tmp_path: Path) -> None:
    main = [
        benches.subject("moco", [0.1, 0.2], num_negatives=256, source_state_bytes=8, settings={"optimizer.lr": 1.0})
    ]
    main += [benches.subject("bare 2+2", [0.1, 0.1], "bare"), benches.subject("matrices", [0.1, 0.1], "matrices")]
    large = [benches.lost("moco", num_negatives=512)]
    small = benches.write(tmp_path / "small", [("study", None, main), ("num_negatives", 512, large)])
    whole = small / "bench.json"
    damages: list[Any] = [None, "x", [], {}, 3, -1, float("nan"), "deleted"]
    count = 0  # of records that can still be used
    for number in range(len(list(_places(json.loads(whole.read_text()))))):
        for damage in damages:
            content = json.loads(whole.read_text())
            holder, key = list(_places(content))[number]
            holder[key] = damage
            if damage == "deleted":
                del holder[key]
            folder = tmp_path / "damaged"
            folder.mkdir(exist_ok=True)
            (folder / "bench.json").write_text(json.dumps(content))
            used, unused = load_benches([bench, folder])
            assert len(used) + len(unused) == 2 and all(run.reason for run in unused)
            if len(used) == 2:
                made = build.build(unused, None, (), used[1:])
                report_files._facts(made)
                count += 1
                if count % 40 == 0:
                    report_files.write(made, tmp_path / "report", lambda text: None)
    assert count > 80


def test_two_benches_have_sections_of_their_own(bench: Path, tmp_path: Path) -> None:
    groups = json.loads((bench / "bench.json").read_text())["groups"]
    listed = [(group["kind"], group["value"], group["subjects"]) for group in groups]
    benches.write(bench.parent / "bench-golden-cuda-2", listed)
    report = _built(bench.parent)
    assert [section.slug for section in report.benches] == ["bench-golden-cuda-1", "bench-golden-cuda-2"]
    assert len({table.slug for table in report.tables}) == len(report.tables) == 8
    assert report_files.write(report, tmp_path / "report", lambda text: None).exists()


def test_a_bench_of_nothing_but_failures_can_be_drawn(tmp_path: Path) -> None:
    sized = [benches.lost("moco", num_negatives=16)]
    folder = benches.write(tmp_path / "b", [("study", None, [benches.subject("moco", [1.0, 1.0]), *sized])])
    content = json.loads((folder / "bench.json").read_text())
    content["groups"][0]["subjects"] = sized
    (folder / "bench.json").write_text(json.dumps(content))
    report = _built(folder)
    assert reports.cells(report.tables[0], "moco")["step, ms"] == "out of memory"
    assert "<figure>" not in report_files.write(report, tmp_path / "report", lambda text: None).read_text()


def test_a_report_of_a_bench_loads_no_torch(bench: Path) -> None:
    done = subprocess.run([sys.executable, "-c", reports.LOADED, "report", str(bench)], capture_output=True, text=True)
    assert "torch" not in done.stdout.rpartition("loaded:")[2].split()
    assert (bench / "report" / "index.html").exists()
