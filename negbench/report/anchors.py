"""Published figures beside ours. The file `anchors.yaml` names the source and the protocol of each."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from negbench.report import text
from negbench.report.comparisons import Comparison
from negbench.report.statistics import t_interval
from negbench.report.table import Cell, Facts, Table, about, facts_of

IMAGES_TOLERANCE = 0.01  # of a set's training images: copies lack a few broken files


@cache
def published() -> dict[str, Any]:
    return dict(yaml.safe_load(Path(__file__).with_name("anchors.yaml").read_text()))


def anchor_table(comparison: Comparison) -> Table | None:
    """Our rows and the published figures of their methods on the same data; None if nothing is published on it."""
    data = _dataset(comparison)
    methods = {row.method for row in comparison.rows if row.runs}
    anchors = [a for a in published()["anchors"] if a["data"] == data and a["method"] in methods]
    if not anchors:
        return None
    columns = ["method", "by", "backbone", "epochs", "batch", "kNN, %", "kNN, k = 200, %", "linear, %", "protocol"]
    cells, facts = [], []
    settings = comparison.settings
    for row in comparison.rows:
        if not row.runs:
            continue
        names = ("knn_top1", "knn200_top1", "linear_top1")
        knn, knn200, linear = (t_interval(list(row.by_seed(name).values())) for name in names)
        own = {**settings, **row.settings}
        numbers = [_count(own.get("epochs")), _count(own.get("batch_size"))]
        results = [Cell(text.percent(figure), figure.centre) for figure in (knn, knn200, linear)]
        model = Cell(str(own.get("model.name")))
        cells.append(
            [Cell(row.label, bold=True), Cell("this report"), model, *numbers, *results, Cell("this report's")]
        )
        facts.append(about(comparison, row) | {"by": "this report"} | facts_of(knn, "knn") | facts_of(linear, "linear"))
    for anchor in anchors:
        source = published()["sources"][anchor["source"]]
        name = f"{anchor['method']} ({anchor['variant']})" if "variant" in anchor else anchor["method"]
        numbers = [_count(anchor.get("epochs")), _count(anchor.get("batch_size"))]
        results = [Cell(_figure(anchor, metric), anchor.get(metric)) for metric in ("knn", "linear")]
        results.insert(1, Cell(text.NOTHING))  # their k is in their protocol
        by, protocol = Cell(source["title"]), Cell(f"theirs: {source['protocol']}")
        cells.append([Cell(name), by, Cell(anchor["model"]), *numbers, *results, protocol])
        facts.append(_facts(anchor) | {"by": source["title"], "url": source["url"], "protocol": source["protocol"]})
    note = (
        "Published figures are of others' protocols, most of one run: they tell whether ours are in the right region, "
        "and rank nothing. Sources: " + "; ".join(dict.fromkeys(_reference(anchor) for anchor in anchors)) + "."
    )
    title = f"Published figures: {comparison.title}"
    return Table(f"published-{comparison.slug}", title, note, columns, cells, pd.DataFrame(facts))


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


def _reference(anchor: dict[str, Any]) -> str:
    source = published()["sources"][anchor["source"]]
    return f"{source['title']}, {source['url']}"


def _facts(anchor: dict[str, Any]) -> Facts:
    kept = {key: anchor.get(key) for key in ("method", "variant", "model", "epochs", "batch_size")}
    return kept | {f"{metric}_mean": anchor[metric] / 100 for metric in ("knn", "linear") if metric in anchor}


def _count(value: int | None) -> Cell:
    return Cell(text.NOTHING if value is None else f"{value:,}", value)


def _figure(anchor: dict[str, Any], metric: str) -> str:
    return f"{anchor[metric]:.4g}" if metric in anchor else text.NOTHING
