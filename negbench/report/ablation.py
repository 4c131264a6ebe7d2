"""Ablations: what a setting does to accuracy while all others are equal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from negbench.report import text
from negbench.report.accuracy import METRICS
from negbench.report.comparisons import Comparison, Row, differing, told
from negbench.report.statistics import t_interval
from negbench.report.table import Cell, Table, facts_of, seeds


@dataclass(frozen=True)
class Ablation:
    """Rows of one study and method that differ in `key` alone, by its value."""

    study: str
    method: str
    key: str
    others: str  # what tells it from further ablations of that key
    metric: str
    points: Sequence[tuple[Any, Row]]

    @property
    def label(self) -> str:
        return f"{self.method} ({self.others})" if self.others else self.method

    @property
    def name(self) -> str:
        return self.key.removeprefix("method.")


def ablations(comparisons: Sequence[Comparison]) -> list[Ablation]:
    """Every setting that takes two or more values while all others are equal, within a study and a method."""
    found = []
    by_method: dict[tuple[str, str, str], list[Row]] = {}
    for comparison in comparisons:
        for row in comparison.rows:
            if row.runs:
                by_method.setdefault((comparison.study, comparison.track, row.method), []).append(row)
    for (study, _, method), rows in by_method.items():
        keys = differing([row.settings for row in rows])
        for key in keys:
            slices: dict[str, list[Row]] = {}
            for row in rows:
                slices.setdefault(told(row.settings, [other for other in keys if other != key]), []).append(row)
            for others, members in slices.items():
                metric = next((m for m in METRICS if all(row.by_seed(m) for row in members)), None)
                if len(members) > 1 and metric is not None:
                    points = sorted(
                        ((row.settings.get(key), row) for row in members), key=lambda point: _order(point[0])
                    )
                    found.append(Ablation(study, method, key, others, metric, points))
    return found


def ablation_table(study: str, key: str, members: Sequence[Ablation]) -> Table:
    """All ablations of one key in one study."""
    columns = ["method", members[0].name, "seeds", "accuracy, %", "figure"]
    cells, facts = [], []
    for ablation in members:
        for value, row in ablation.points:
            interval = t_interval(list(row.by_seed(ablation.metric).values()))
            shown = told({key: value}, [key]).partition("=")[2]
            size = float(value) if isinstance(value, int | float) else shown
            cells.append(
                [
                    Cell(ablation.label),
                    Cell(shown, size),
                    seeds(row),
                    Cell(text.percent(interval), interval.centre),
                    Cell(METRICS[ablation.metric]),
                ]
            )
            facts.append(
                {"study": study, "method": ablation.method, "others": ablation.others, "key": key, "value": value}
                | {"metric": ablation.metric}
                | facts_of(interval)
            )
    note = "All other settings are equal within a method's lines. Mean ± half of the 95% t interval over seeds."
    slug = f"ablation-{study}-{members[0].name}"
    return Table(slug, f"Ablation: {study}, {members[0].name}", note, columns, cells, pd.DataFrame(facts))


def _order(value: object) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return (not is_number, float(value) if isinstance(value, int | float) else 0.0, str(value))
