"""Published figures beside ours. The file `anchors.yaml` names the source and protocol of each."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from negbench.report import text
from negbench.report.read.comparisons import Comparison
from negbench.report.read.statistics import t_interval
from negbench.report.tables.accuracy import METRICS, PUBLISHED, selection_note
from negbench.report.tables.base import Cell, Table, about, interval_columns
from negbench.runtime import words
from negbench.settings.plugins.protocols import PROTOCOLS

IMAGES_TOLERANCE = 0.01  # of a set's training images: copies lack a few broken files


@cache
def published() -> dict[str, Any]:
    return dict(yaml.safe_load(Path(__file__).with_name("anchors.yaml").read_text()))


def anchor_table(comparison: Comparison) -> Table | None:
    """Return our rows with the published figures of their methods on the same data, or None."""
    data = _dataset(comparison)
    methods = {row.method for row in comparison.rows if row.runs}
    anchors = [a for a in published()["anchors"] if a["data"] == data and a["method"] in methods]
    if not anchors:
        return None
    metrics = ["knn_top1", "knn200_top1", *PUBLISHED, "linear_top1"]
    known = {name for anchor in anchors for name in _by_metric(anchor)}
    metrics = [name for name in metrics if name in known or any(row.by_seed(name) for row in comparison.rows)]
    columns = ["method", "by", "backbone", "epochs", "batch", *(f"{METRICS[name]}, %" for name in metrics), "protocol"]
    cells, csv_rows = [], []
    settings = comparison.settings
    for row in comparison.rows:
        if not row.runs:
            continue
        intervals = {name: t_interval(list(row.by_seed(name).values())) for name in metrics}
        own = {**settings, **row.settings}
        numbers = [_count(own.get("epochs")), _count(own.get("batch_size"))]
        results = [Cell(text.percent(figure), figure.centre) for figure in intervals.values()]
        model = Cell(str(own.get("model.name")))
        cells.append(
            [Cell(row.label, bold=True), Cell("this report"), model, *numbers, *results, Cell("this report's")]
        )
        csv_row = about(comparison, row) | {"by": "this report"}
        for name, figure in intervals.items():
            csv_row |= interval_columns(figure, name.removesuffix("_top1"))
        csv_rows.append(csv_row)
    for anchor in anchors:
        source = published()["sources"][anchor["source"]]
        label = f"{anchor['method']} ({anchor['variant']})" if "variant" in anchor else anchor["method"]
        numbers = [_count(anchor.get("epochs")), _count(anchor.get("batch_size"))]
        figures = _by_metric(anchor)
        results = [Cell(_figure(figures.get(name)), figures.get(name)) for name in metrics]
        by, protocol = Cell(source["title"]), Cell(f"theirs: {source['protocol']}")
        cells.append([Cell(label), by, Cell(anchor["model"]), *numbers, *results, protocol])
        csv_row = {key: anchor.get(key) for key in ("method", "variant", "model", "epochs", "batch_size")}
        csv_row |= {f"{name.removesuffix('_top1')}_mean": figure / 100 for name, figure in figures.items()}
        csv_rows.append(csv_row | {"by": source["title"], "url": source["url"], "protocol": source["protocol"]})
    cited = dict.fromkeys(anchor["source"] for anchor in anchors)
    sources = "; ".join(f"{source['title']}, {source['url']}" for source in map(published()["sources"].get, cited))
    note = (
        "Published figures are of others' protocols, most of one run: they tell whether ours are in the right region, "
        f"and rank nothing. {selection_note(metrics)}Sources: {sources}."
    )
    title = f"Published figures: {comparison.title}"
    return Table(f"published-{comparison.slug}", title, note, columns, cells, pd.DataFrame(csv_rows))


def _dataset(comparison: Comparison) -> str | None:
    """The published name of a comparison's data."""
    runs = comparison.runs
    if not runs:
        return None
    own = runs[0].summary
    for name, facts in published()["datasets"].items():
        same_size = own["num_classes"] == facts["classes"] and math.isclose(
            own["num_images"], facts["images"], rel_tol=IMAGES_TOLERANCE
        )
        if runs[0].settings.get("data.name") == facts["name"] and same_size:
            return str(name)
    return None


def _by_metric(anchor: dict[str, Any]) -> dict[str, float]:
    """Its figures, percent, in the columns of the protocols that they were made by; another kNN's k is in its text."""
    own = published()["sources"][anchor["source"]].get("evaluation")
    metrics = {"knn": PROTOCOLS[own].figure if own else "knn_top1", "linear": "linear_top1"}
    return {metric: anchor[name] for name, metric in metrics.items() if name in anchor}


def _count(value: int | None) -> Cell:
    return Cell(words.NOTHING if value is None else f"{value:,}", value)


def _figure(percent: float | None) -> str:
    return words.NOTHING if percent is None else f"{percent:.4g}"
