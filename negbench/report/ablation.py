"""Ablations: what a setting does to accuracy while all others are equal."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from negbench.report import text
from negbench.report.accuracy import METRICS
from negbench.report.comparisons import Comparison, Row, differing, slug_of, told
from negbench.report.statistics import t_interval
from negbench.report.table import Cell, Table, facts_of, seeds


@dataclass(frozen=True)
class Ablation:
    """Rows of one study and method that differ in `key` alone, by its value."""

    study: str
    track: str
    method: str
    key: str
    others: str  # what tells it from further ablations of that key
    metric: str
    points: Sequence[tuple[Any, Row]]

    @property
    def title(self) -> str:
        """The same for all that stand in one table and one figure."""
        track = ", recipe track" if self.track == "recipe" else ""
        return f"{self.study}{track}, {self.name}, {METRICS[self.metric]}"

    @property
    def slug(self) -> str:
        return f"ablation-{slug_of(self.title)}"

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
    for (study, track, method), rows in by_method.items():
        keys = _independent(rows)
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
                    found.append(Ablation(study, track, method, key, others, metric, points))
    return found


def _independent(rows: Sequence[Row]) -> list[str]:
    """The keys that differ between rows, but of those that always change together, as a view policy's, the first."""
    seen: dict[str, str] = {}
    for key in differing([row.settings for row in rows]):
        values = [json.dumps(row.settings.get(key), sort_keys=True) for row in rows]
        seen.setdefault(json.dumps([values.index(value) for value in values]), key)
    return list(seen.values())


def ablation_table(members: Sequence[Ablation]) -> Table:
    """Those of one title."""
    columns = ["method", members[0].name, "seeds", "accuracy, %", "figure"]
    cells, facts = [], []
    for ablation in members:
        for value, row in ablation.points:
            interval = t_interval(list(row.by_seed(ablation.metric).values()))
            shown = told({ablation.key: value}, [ablation.key]).partition("=")[2]
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
                {"study": ablation.study, "method": ablation.method, "others": ablation.others}
                | {"key": ablation.key, "value": value}
                | {"metric": ablation.metric}
                | facts_of(interval)
            )
    note = (
        "All other settings are equal within a method's lines. Mean ± half of the 95% t interval over seeds. To "
        "choose a setting by these figures, where they are of the test set, would be to train on it."
    )
    return Table(members[0].slug, f"Ablation: {members[0].title}", note, columns, cells, pd.DataFrame(facts))


def _order(value: object) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return (not is_number, float(value) if isinstance(value, int | float) else 0.0, str(value))
