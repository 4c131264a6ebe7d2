"""What the report writes: the page, figures and files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from negbench.report.figures.common.style import Style
from negbench.report.figures.curves import POINTS, _along
from negbench.report.figures.pareto import pareto_front
from negbench.report.page import tables
from negbench.report.page import write as report_files
from negbench.report.page.gallery import Gallery
from negbench.report.read.comparisons import Row, compare
from negbench.report.read.runs import Run, find, load
from negbench.report.sentences.findings import findings
from negbench.report.tables.base import Cell, Table
from tests.helpers import records, reports, runs


def test_what_is_written(golden: Path, tmp_path: Path) -> None:
    report = reports.build(golden)
    told: list[str] = []
    page = report_files.write(report, tmp_path / "report", told.append)
    assert told[-1] == "figure 4 of 4"
    names = {str(path.relative_to(page.parent)) for path in page.parent.rglob("*") if path.is_file()}
    assert names >= {"index.html", "report.json", "runs.csv"}
    for table in ("accuracy-golden", "cost-golden", "targets-golden", "ablation-golden-in-batch-negatives-kNN"):
        assert names >= {f"tables/{table}.{kind}" for kind in ("csv", "md", "tex")}
    for figure in ("accuracy-golden", "curves-golden", "pareto-golden", "ablation-golden-in-batch-negatives-kNN"):
        assert names >= {f"figures/{figure}.{kind}" for kind in ("png", "svg", "pdf")}
    lines = pd.read_csv(page.parent / "runs.csv")
    assert len(lines) == 14 and set(lines["state"]) == {"done", "failed", "out of memory"}
    assert not [path for path in tmp_path.iterdir() if path.name != "report"]
    html = page.read_text()
    assert "http" not in html.replace("http://www.w3.org", "") and "src=" in html  # needs no network
    assert "negbench run --method byol" in html and "out of memory" in html
    (page.parent / "stale").touch()
    report_files.write(report, tmp_path / "report", told.append)  # replaces the earlier one whole
    assert not (page.parent / "stale").exists()


def test_the_same_records_give_the_same_bytes(golden: Path, tmp_path: Path) -> None:
    pages = [
        report_files.write(reports.build(golden), tmp_path / name, lambda text: None).parent for name in ("a", "b")
    ]
    for path in pages[0].rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (pages[1] / path.relative_to(pages[0])).read_bytes(), path


def test_odd_names_can_be_drawn_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "negbench.settings.plugins.find._is_plain", lambda name: True
    )  # as records of earlier versions have
    method = tmp_path / "a&b_$x^{<i>}%#~.py"
    method.write_text(Path(runs.short("moco").method_file.path).read_text())
    study, output = records.study(tmp_path), tmp_path / "results"
    for value in (0.1, 0.2):
        records.write(
            output, study, str(method), 0, 0.8, f"method.temperature={value}", curve=(0.1, 0.2, 0.3, 0.4, 0.5)
        )
    page = report_files.write(reports.build(output), tmp_path / "report", lambda text: None)
    assert "a&amp;b_$x^{&lt;i&gt;}%#~" in page.read_text() and "<i>" not in page.read_text()
    picture = (page.parent / "figures" / "accuracy-golden.svg").read_text()
    assert "<!-- a&amp;b_$x^{&lt;i&gt;}%#~ (temperature=0.1) -->" in picture  # drawn as it stands, not as mathematics
    latex = (page.parent / "tables" / "accuracy-golden.tex").read_text()
    assert r"a\&b\_\$x\textasciicircum \{<i>\}\%\#\textasciitilde" in latex


def test_names_are_escaped(tmp_path: Path) -> None:
    text = 'note: "<script>alert(1)</script> 50% & {x_y} $5 #1 | [link](x)"\n'
    study, output = records.study(tmp_path, text=text), tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8, "views=byol", "data.root=/a_b/<b>&50%")
    failed = records.write(output, study, "moco", 1, 0, state="failed", error="<img src=x> 50% & more")
    report = reports.build(output)
    page = report_files.write(report, tmp_path / "report", lambda text: None).read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "<img src=x>" not in page and failed.path.name in page and "<b>&50" not in page
    odd = Table("t", "50% & <b>", "a_b #1 $x {y} ~ ^ \\", ["a_b", "x|y"], [[Cell("<i>_&%"), Cell("−1 ± ∞", bold=True)]])
    markdown, latex = tables.to_markdown(odd), tables.to_latex(odd)
    assert r"\<i\>_" in markdown
    assert r"x\|y" in markdown and "**−1 ± ∞**" in markdown
    assert r"\textbf{$-$1 $\pm$ $\infty$}" in latex and r"<i>\_\&\%" in latex
    assert r"\caption{50\% \& <b>}" in latex
    assert r"\footnotesize a\_b \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}" in latex
    assert "\\toprule" in latex and "\\bottomrule" in latex


def test_a_spreadsheet_makes_no_formulas_of_csv_files(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    records.write(output, study, "moco", 0, 0.5, summary={"=1+1": '=HYPERLINK("x")', "label": "@SUM(1)", "low": -2})
    records.write(output, study, "moco", 1, 0, state="failed", error="=cmd|' /C calc'!A0")
    page = report_files.write(reports.build(output), tmp_path / "report", lambda text: None)
    lines = pd.read_csv(page.parent / "runs.csv")
    assert lines["'=1+1"][0] == '\'=HYPERLINK("x")' and lines["label"][0] == "'@SUM(1)"
    assert lines["reason"][1] == "'=cmd|' /C calc'!A0"
    assert lines["low"][0] == -2
    texts = {"text": ["-x", "+1", "−1", "\t=1", "a=b", None, 1], "number": [-1.5, 2, 3, 4, 5, 6, float("nan")]}
    tables.write_csv(pd.DataFrame(texts), tmp_path / "t.csv")
    shown = (tmp_path / "t.csv").read_text().splitlines()
    assert shown == ["text,number", "'-x,-1.5", "+1,2.0", "−1,3.0", "'\t=1,4.0", "a=b,5.0", ",6.0", "1,"]


def test_the_pareto_front() -> None:
    points = [(1.0, 0.5), (2.0, 0.4), (3.0, 0.7), (3.0, 0.6), (4.0, 0.7), (5.0, 0.9)]
    assert pareto_front(points) == [(1.0, 0.5), (3.0, 0.7), (5.0, 0.9)]


def test_a_method_has_one_colour_and_rows_differ_in_more_than_that() -> None:
    style = Style(["moco", "adco", "a method of my own"])
    assert Style(["adco"]).colours["moco"] == style.colours["moco"]
    rows = [Row("adco", "adco (a)", {}, ()), Row("adco", "adco (b)", {}, ())]
    first, second = [look for _, *look in style.of(rows)]
    assert first[0] == second[0] and first[1] != second[1] and first[2] != second[2]


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    run = Run(tmp_path, "done", curve={"knn_top1": np.linspace(0, 1, 10_000)})
    drawn = _along(run, "knn_top1")
    assert len(drawn) <= POINTS == 500 and drawn[0] == 0 and drawn[-1] == 1


def test_one_seed_and_one_row_can_be_drawn(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    records.write(output, study, "moco", 0, 0.8, curve=(0.1, 0.2, 0.3, 0.4, 0.5))
    (comparison,) = compare(load(find([], output)))
    gallery = Gallery(Style(["moco"]))
    figures = gallery.plan_comparison(comparison)
    assert [figure.slug for figure in figures] == ["accuracy-golden", "curves-golden", "pareto-golden"]
    gallery.draw(tmp_path, lambda text: None)
    for figure in figures:
        assert all((tmp_path / f"{figure.slug}.{kind}").stat().st_size > 1000 for kind in ("png", "svg", "pdf"))
    answer = findings(comparison, "moco")[0].answer
    assert answer.endswith("it is the only row, so there is nothing to compare it with.")


def test_a_study_without_a_finished_run(tmp_path: Path) -> None:
    study, output = records.study(tmp_path), tmp_path / "results"
    records.write(output, study, "moco", 0, 0, state="failed", error="the loss is not finite")
    report = reports.build(output)
    assert "nothing can be said" in report.sections[0].findings[0].answer
    assert reports.cells(reports.table(report, "accuracy"), "moco")["seeds"] == "0 of 1: 1 failed"
    assert report_files.write(report, tmp_path / "report", lambda text: None).exists()


def test_a_real_run_has_all_that_a_report_reads(tmp_path: Path) -> None:
    for method in ("adco", "byol"):
        runs.start(runs.short(method), tmp_path)
    report = reports.build(tmp_path)
    assert not report.unused and len(report.sections) == 1
    table = reports.table(report, "cost")
    assert (
        reports.cells(table, "byol")["negatives a query"] == "0"
        and reports.cells(table, "adco")["negatives a query"] == "55.0"
    )
    assert set(reports.table(report, "targets").data["row"]) == {"adco", "byol"}
    page = report_files.write(report, tmp_path / "report", lambda text: None)
    assert "Were negatives needed?" in page.read_text()
