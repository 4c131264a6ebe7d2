"""The page: one file that holds everything, for a browser without a network."""

import base64
import itertools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

import negbench
from negbench.report.figures.accuracy import ablation_drawing, drawings
from negbench.report.figures.bench import bench_drawings
from negbench.report.figures.diagnostics import diagnostic_drawings
from negbench.report.figures.style import Drawing, Style
from negbench.report.figures.style import write as write_figure
from negbench.report.figures.tuning import tuning_drawings
from negbench.report.read.comparisons import told
from negbench.report.read.runs import Run
from negbench.settings.keys import is_own

if TYPE_CHECKING:
    from negbench.report.sections import Report


LARGEST_SVG = 400_000  # bytes; beyond that the page holds the PNG
ENVIRONMENT = (
    *("device", "device_type", "world_size", "precision", "cpu", "num_threads", "load_average", "power_limit_watts"),
    *("python_version", "torch_version", "torchvision_version", "cuda_version", "cudnn_version", "nccl_version"),
    *("driver_version", "negbench_version", "git_revision", "data_filesystem", "time"),
)


def write_page(report: "Report", folder: Path, tell: Callable[[str], None]) -> None:
    """Draw all figures into `folder/figures` and write `folder/index.html`."""
    benched = [method for section in report.benches for method in section.bench.methods]
    tuned = [method.method for section in report.tunings for method in section.tuning.methods]
    style = Style([run.method for run in report.runs if run.method] + benched + tuned)
    of_section = [drawings(section.comparison, style) for section in report.sections]
    described = [diagnostic_drawings(section.comparison, style) for section in report.sections]
    swept = [ablation_drawing(members, style) for _, members in report.swept]
    of_bench = [bench_drawings(section.bench, style, section.slug) for section in report.benches]
    of_tuning = [tuning_drawings(section.tuning, style, section.slug) for section in report.tunings]
    waiting = [*itertools.chain(*of_section, *described), *swept, *itertools.chain(*of_tuning, *of_bench)]
    pictures: dict[str, str] = {}
    for number, drawing in enumerate(waiting, 1):
        tell(f"figure {number} of {len(waiting)}")
        pictures[drawing.slug] = _embedded(write_figure(drawing, folder / "figures"))

    def shown(drawing: Drawing) -> dict[str, str]:
        return {"title": drawing.title, "caption": drawing.caption, "source": pictures[drawing.slug]}

    sections = [
        {
            "title": section.comparison.title,
            "id": section.comparison.slug,
            "track": section.comparison.track,
            "findings": section.findings,
            "cautions": section.cautions,
            "tables": section.tables,
            "figures": [shown(drawing) for drawing in figures],
            "diagnostics": section.diagnostics,
            "diagnostic_figures": [shown(drawing) for drawing in diagnostic_figures],
            "settings": sorted(section.comparison.settings.items()),
            "runs": [_run(run, row.label) for row in section.comparison.rows for run in (*row.runs, *row.unused)],
        }
        for section, figures, diagnostic_figures in zip(report.sections, of_section, described, strict=True)
    ]
    ablations = [
        {"title": table.title, "table": table, "figure": shown(drawing)}
        for (table, _), drawing in zip(report.swept, swept, strict=True)
    ]
    benches = [
        {
            "section": section,
            "figures": [shown(drawing) for drawing in figures],
            "settings": sorted(section.bench.settings.items()),
            "environment": _told(section.bench.environment),
            "command": shlex.join(section.bench.environment.get("command") or []),
            "methods": [(s.name, told(s.settings, s.settings)) for s in section.bench.main.rows if s.is_method],
        }
        for section, figures in zip(report.benches, of_bench, strict=True)
    ]
    tunings = [
        {"section": section, "figures": [shown(drawing) for drawing in figures]}
        for section, figures in zip(report.tunings, of_tuning, strict=True)
    ]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("negbench.report", "page"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html.j2").render(
        sections=sections,
        ablations=ablations,
        benches=benches,
        tunings=tunings,
        unused=report.unused,
        num_runs=len(report.runs),
        baseline=report.baseline,
        version=negbench.__version__,
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _run(run: Run, label: str) -> dict[str, Any]:
    own = [key for key in run.settings if is_own(key)]
    return {
        "name": run.name,
        "label": label,
        "seed": run.seed,
        "state": run.state,
        "reason": run.reason,
        "settings": told(run.settings, own),
        "environment": _told(run.environment),
        "command": shlex.join(run.environment.get("reproduce") or []),
    }


def _told(environment: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, environment[name]) for name in ENVIRONMENT if environment.get(name) is not None]


def _embedded(paths: dict[str, Path]) -> str:
    kind, path = ("svg+xml", paths["svg"]) if paths["svg"].stat().st_size <= LARGEST_SVG else ("png", paths["png"])
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
