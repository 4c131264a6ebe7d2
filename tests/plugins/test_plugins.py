"""A package with a data set, a backbone, a protocol, a method and a figure, and packages that are broken."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from negbench.report.figures.common.style import Style
from negbench.report.page.gallery import Gallery
from tests.helpers import benches
from tests.helpers.processes import finished

TOYS = Path(__file__).with_name("toys")
ENTRY_POINTS = {
    "negbench.datasets": "toy-data = toy_data",
    "negbench.backbones": "toy-net = toy_backbone",
    "negbench.protocols": "toy-mean = toy_protocol",
    "negbench.methods": "toy = toy_method",
    "negbench.figures": "toy-runs = toy_figure",
}
TOY = ("data.name=toy-data", "model.name=toy-net", "evaluation.protocols=toy-mean", "data.image_size=8")
SHORT = ("batch_size=16", "epochs=2", "projector.hidden=8", "projector.dim=4", "precision=fp32", "views=patterns")
LIGHT = ("evaluation.linear_epochs=2", "evaluate_every_epochs=1")
CHOSEN = [part for text in (*TOY, *SHORT, *LIGHT) for part in ("--set", text)]


def install(folder: Path, name: str, entry_points: dict[str, str]) -> None:
    """What an installer writes of the package `name`."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n{lines}\n" for group, lines in entry_points.items()))


def python(code: str, *arguments: str, path: tuple[Path, ...]) -> str:
    """What a process prints that finds packages in the folders of `path` too."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    made = subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return made.stdout


def commands(*commands: list[str], path: tuple[Path, ...]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each command."""
    return [finished(*arguments, PYTHONPATH=os.pathsep.join(map(str, path))) for arguments in commands]


@pytest.fixture
def toys(tmp_path: Path) -> tuple[Path, ...]:
    install(tmp_path / "site", "negbench_toys", ENTRY_POINTS)
    return TOYS, tmp_path / "site"


def test_a_package_adds_a_data_set_a_backbone_a_protocol_a_method_and_a_figure(
    toys: tuple[Path, ...], tmp_path: Path
) -> None:
    output = str(tmp_path / "results")
    run, report, plan, config, methods, unknown = commands(
        ["run", "--method", "toy", "--device", "cpu", "--output", output, *CHOSEN],
        ["report", output, "--output", str(tmp_path / "report")],
        ["plan", "--method", "toy", "--device", "cpu", *CHOSEN],
        ["config", "--method", "toy", "--describe", *CHOSEN],
        ["methods"],
        ["run", "--method", "toy", "--set", "data.name=toy-dta"],
        path=toys,
    )
    assert run[0] == 0, run
    (folder,) = (path.parent for path in Path(output).rglob("summary.json"))
    summary = json.loads((folder / "summary.json").read_text())
    record = json.loads((folder / "evaluations" / "toy-mean.json").read_text())
    assert summary["toy_mean_top1"] == record["trained"]["top1"] > 0.9
    assert summary["num_classes"] == 2 and "toy nearest mean" in run[1] + run[2]
    (again,) = commands(["evaluate", str(folder), "--protocol", "toy-mean", "--device", "cpu", "--json"], path=toys)
    assert again[0] == 0, again
    assert json.loads(again[1])["toy_mean_top1"] == summary["toy_mean_top1"]
    assert report[0] == 0, report
    assert "toy nearest mean, %" in (tmp_path / "report" / "tables" / "accuracy-quickstart.md").read_text()
    _assert_shows_the_toy_figure(tmp_path / "report")
    assert plan[0] == 0 and "all of toy shades" in plan[1], plan
    described = config[1]
    for listed in ("cifar10, imagefolder, patterns, toy-data", "resnet8, toy-net", "knn-lightly, toy-mean"):
        assert listed in described
    assert "toy  " in methods[1] and "Toy et al., 2020" in methods[1]
    assert unknown[0] == 2 and "unknown data set 'toy-dta', did you mean 'toy-data'?" in unknown[2]


def _assert_shows_the_toy_figure(report: Path) -> None:
    page = (report / "index.html").read_text()
    titles = re.findall(r'<img src="data:[^"]*" alt="([^:"]*)', page)
    assert titles[:4] == ["Accuracy by seed", "Toy runs", "Training curves", "Accuracy against cost"]
    assert "<figcaption>A bar for each row.</figcaption>" in page
    for kind in ("png", "svg", "pdf"):
        assert (report / "figures" / f"toy-runs-quickstart.{kind}").stat().st_size > 1000


BROKEN_FIGURES = {  # by name: the file, and the sentence of the report
    "no-drawing": (
        "FIGURE = dict(section='bench', title='A')",
        "figure file {folder}/no_drawing.py lacks drawing; see CONTRIBUTING.md",
    ),
    "no-import": (
        "import nothing\nFIGURE = nothing.Figure(section='bench', title='A')",
        "figure 'no-import' of the package broken cannot be used: No module named 'nothing'",
    ),
    "no-section": (
        "FIGURE = Figure(section='runs', title='A')",
        "figure 'no-section' of the package broken cannot be used: its section 'runs' is none of comparison, hardware, "
        "diagnostics, ablation, tuning, bench",
    ),
    "undrawn": (
        "from negbench.settings.plugins.facts import Figure\nfrom negbench.report.figures.common.style import Drawing\n"
        "FIGURE = Figure(section='bench', title='A')\n"
        "def drawing(bench, style): return Drawing('a caption', lambda: 1 / 0)",
        "figure 'undrawn' of the package broken cannot be drawn: ZeroDivisionError: division by zero",
    ),
    "unplanned": (
        "from negbench.settings.plugins.facts import Figure\nFIGURE = Figure(section='bench', title='A')\n"
        "def drawing(bench, style): return bench.none",
        "figure 'unplanned' of the package broken cannot be drawn: AttributeError: 'Bench' object has no attribute "
        "'none'",
    ),
}


def test_a_report_leaves_out_figures_that_fail_and_names_them(tmp_path: Path) -> None:
    folder, output = tmp_path / "broken", tmp_path / "report"
    install(folder, "broken", {"negbench.figures": "\n".join(f"{n} = {n.replace('-', '_')}" for n in BROKEN_FIGURES)})
    for name, (text, _) in BROKEN_FIGURES.items():
        (folder / f"{name.replace('-', '_')}.py").write_text(text)
    steps = [benches.subject("moco", [0.1, 0.2], num_negatives=256), benches.subject("bare 2+2", [0.1, 0.1], "bare")]
    bench = benches.write(tmp_path / "bench", [("study", None, steps)])
    ((code, _, errors),) = commands(["report", str(bench), "--output", str(output)], path=(folder,))
    assert code == 0, errors
    page = html.unescape((output / "index.html").read_text())
    for _, sentence in BROKEN_FIGURES.values():
        assert f"<p>{sentence.format(folder=folder)}</p>" in page
        assert f"! {sentence.format(folder=folder)}\n" in errors
    assert page.count("<figure>") == 1 and len(list((output / "figures").iterdir())) == 3


def test_a_figure_of_negbench_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(drawing=lambda comparison, style: 1 / 0)
    monkeypatch.setattr("negbench.report.page.gallery.import_plugin", lambda file: module)
    with pytest.raises(ZeroDivisionError):
        Gallery(Style([])).plan("bench", None, "*", "")


FIND = """
import json, sys
from negbench.settings.plugins.find import {kind}, find_plugin, import_plugin, list_plugins
from negbench.runtime.errors import UserError
assert 'torch' not in sys.modules
try:
    print(import_plugin(find_plugin({kind}, {name!r})).__name__)
except UserError as error:
    print(list(list_plugins({kind})), error)
"""


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("BACKBONE", "toy-net", "toy_backbone"),
        (
            "BACKBONE",
            "toynet",
            "unknown backbone 'toynet', did you mean 'toy-net'?; known: resnet18, resnet34, resnet50",
        ),
        ("BACKBONE", "no-module", "backbone 'no-module' of the package broken cannot be used: there is no module none"),
        ("BACKBONE", "raises", "backbone 'raises' of the package broken cannot be used: no luck"),
        ("BACKBONE", "no-facts", "toy_method.py lacks BACKBONE = Backbone(...)"),
        ("BACKBONE", "other-facts", "'other-facts' of the package broken cannot be used: Backbone.__init__() got an"),
        ("BACKBONE", "no-build", "backbone file {folder}/no_build.py lacks build; see CONTRIBUTING.md"),
        (
            "BACKBONE",
            "no-import",
            "backbone 'no-import' of the package broken cannot be used: No module named 'nothing'",
        ),
        ("PROTOCOL", "no-figure", "'no-figure' of the package broken cannot be used: its facts lack figure or title"),
        ("DATASET", "cifar10", "both negbench and broken have a data set 'cifar10'; uninstall or rename one"),
        ("METHOD", "toy", "both negbench_toys and broken have a method 'toy'; uninstall or rename one"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence_when_it_is_asked_for(
    kind: str, name: str, sentence: str, toys: tuple[Path, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    backbones = ("no-module = none", "raises = raising.net", "no-facts = toy_method", "other-facts = other_facts")
    files = {
        "raising/__init__.py": "raise RuntimeError('no luck')",
        "raising/net.py": "",
        "other_facts.py": "BACKBONE = Backbone(feature_dim=3, size=2)",
        "no_build.py": "BACKBONE = dict(feature_dim=3)",
        "no_import.py": "import nothing\nBACKBONE = nothing.Backbone(feature_dim=3)",
        "no_figure.py": "PROTOCOL = Protocol(place=3)",
    }
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    broken = {
        "negbench.backbones": "\n".join((*backbones, "no-build = no_build", "no-import = no_import")),
        "negbench.protocols": "no-figure = no_figure",
        "negbench.datasets": "cifar10 = toy_data",
        "negbench.methods": "toy = toy_method",
    }
    install(folder, "broken", broken)
    said = python(FIND.format(kind=kind, name=name), path=(*toys, folder))
    assert sentence.format(folder=folder) in said
    assert said.count("\n") == 1


def test_a_run_ends_before_its_first_step_if_the_imports_of_a_protocol_fail(
    toys: tuple[Path, ...], tmp_path: Path
) -> None:
    folder, output = tmp_path / "broken", tmp_path / "results"
    install(folder, "broken", {"negbench.protocols": "no-import = no_import"})
    (folder / "no_import.py").write_text(
        "import nothing\nPROTOCOL = Protocol(figure='nothing_top1', title='nothing')\n"
    )
    arguments = ["--method", "toy", "--device", "cpu", *CHOSEN, "--set", "evaluation.protocols=no-import"]
    (run,) = commands(["run", *arguments, "--output", str(output)], path=(*toys, folder))
    assert run[0] == 2
    assert "protocol 'no-import' of the package broken cannot be used: No module named 'nothing'" in run[2]
    assert not list(output.rglob("metrics.jsonl"))
