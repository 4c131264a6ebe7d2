"""The page: one file that holds everything, for a browser without a network."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

import negbench
from negbench.report.figures.common.style import Style
from negbench.report.page.gallery import Gallery
from negbench.report.read.comparisons import told
from negbench.report.tables.tunings import name_of
from negbench.settings.keys import is_own

if TYPE_CHECKING:
    from negbench.report.sections import Report


ENVIRONMENT = (
    *("device", "device_type", "world_size", "precision", "cpu", "num_threads", "load_average", "power_limit_watts"),
    *("python_version", "torch_version", "torchvision_version", "cuda_version", "cudnn_version", "nccl_version"),
    *("driver_version", "negbench_version", "git_revision", "results_version", "method_code"),
    *("decoders", "data_filesystem", "time"),
)


def write_page(report: "Report", folder: Path, tell: Callable[[str], None]) -> list[str]:
    """Draw all figures into `folder/figures` and write `folder/index.html`. Return a sentence for each that failed."""
    benched = [method for section in report.benches for method in section.subject.methods]
    tuned = [method.method for section in report.tunings for method in section.subject.methods]
    gallery = Gallery(Style([run.method for run in report.runs if run.method] + benched + tuned))
    sections = [
        {
            "section": section,
            "figures": gallery.plan_comparison(section.comparison),
            "diagnostic_figures": gallery.plan(
                "diagnostics", section.comparison, f"*-{section.comparison.slug}", section.comparison.title
            ),
            "runs": [
                (row.label, run, told(run.settings, filter(is_own, run.settings)))
                for row in section.comparison.rows
                for run in (*row.runs, *row.unused)
            ],
        }
        for section in report.sections
    ]
    ablations = [
        (table, gallery.plan("ablation", members, table.slug.replace("ablation", "*", 1), members[0].title))
        for table, members in report.swept
    ]
    tunings = [
        (
            section,
            gallery.plan("tuning", section.subject, section.slug.replace("tuning", "*", 1), name_of(section.subject)),
        )
        for section in report.tunings
    ]
    benches = [
        {
            "section": section,
            "figures": gallery.plan("bench", section.subject, f"{section.slug}-*", section.subject.study),
            "methods": [(s.name, told(s.settings, s.settings)) for s in section.subject.main.rows if s.is_method],
        }
        for section in report.benches
    ]
    gallery.draw(folder / "figures", tell)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("negbench.report", "page"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["command"] = shlex.join
    page = environment.get_template("page.html.j2").render(
        sections=sections,
        ablations=ablations,
        benches=benches,
        tunings=tunings,
        report=report,
        facts=ENVIRONMENT,
        version=negbench.__version__,
        problems=gallery.problems,
    )
    (folder / "index.html").write_text(page, encoding="utf-8")
    return gallery.problems
