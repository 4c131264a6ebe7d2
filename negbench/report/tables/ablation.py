"""Ablations: what a setting does to accuracy while all others are equal."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from negbench.report import text
from negbench.report.read.circumstances import UNKNOWN
from negbench.report.read.comparisons import (
    CODE,
    OF_ROWS,
    RECORDED,
    Comparison,
    Row,
    differing,
    is_told,
    own_values,
    shown,
    slug_of,
    told,
)
from negbench.report.read.grouping import grouped
from negbench.report.read.statistics import Difference, paired_difference, t_interval, with_holm
from negbench.report.tables.accuracy import METRICS
from negbench.report.tables.base import Cell, Table, difference_cell, difference_columns, interval_columns, seeds
from negbench.runtime import words

_OTHER_DATA = ("data.name", "data.version", "data.image_size")  # settings whose values are of other data each


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
    own: Row | None = None  # the one with the study's own value of `key`

    @property
    def title(self) -> str:
        """The same for all ablations of one table and one figure."""
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
    """Return every setting that takes two or more values while all others are equal, within a study and a method."""
    found = []
    finished = [row for comparison in comparisons for row in comparison.rows if row.runs]
    by_method = grouped(finished, lambda row: (row.first.study, row.first.track, row.method))
    for (study, track, method), rows in by_method.items():
        groups, own = _changing_together(rows), own_values(rows)
        keys = [group[0] for group in groups]
        for key in (group[0] for group in groups if _is_one_setting(group) and group[0] not in (*RECORDED, *OF_ROWS)):
            made_of = [name for name in (*RECORDED, CODE) if name != "data" or key not in _OTHER_DATA]
            made_of = [name for name in made_of if len({row.recorded[name] for row in rows} - {UNKNOWN}) > 1]
            others = [other for other in keys if other != key]
            for members in _alike(rows, others, made_of):
                differs = told(members[0].settings, [other for other in others if is_told(members[0], other, own)])
                metric = next((m for m in METRICS if all(row.by_seed(m) for row in members)), None)
                if len(members) > 1 and metric is not None:
                    points = [(row.settings.get(key), row) for row in sorted(members, key=lambda row: _order(row, key))]
                    reference = next((row for value, row in points if key in own and value == own[key]), None)
                    found.append(Ablation(study, track, method, key, differs, metric, points, reference))
    return found


def _alike(rows: Sequence[Row], keys: Sequence[str], recorded: Sequence[str]) -> Iterable[list[Row]]:
    """Return the rows in groups that are equal in these settings, and in what is on record of them."""
    return grouped(rows, lambda row: told(row.settings, keys) + told(row.recorded, recorded)).values()


def _changing_together(rows: Sequence[Row]) -> list[list[str]]:
    """The keys that differ between rows; those that always change together are one group."""

    def pattern(key: str) -> tuple[int, ...]:
        values = [json.dumps(row.settings.get(key), sort_keys=True) for row in rows]
        return tuple(values.index(value) for value in values)

    return list(grouped(differing([row.settings for row in rows]), pattern).values())


def _is_one_setting(group: Sequence[str]) -> bool:
    """Whether a name can stand for the group: a key alone, or a view policy, which sets many."""
    return len(group) == 1 or all(key.startswith("views.") for key in group)


def ablation_table(members: Sequence[Ablation]) -> Table:
    """Return the table of the ablations of one title."""
    columns = ["method", members[0].name, "seeds", "accuracy, %", "− the study's own", "figure"]
    cells, csv_rows = [], []
    differences = _differences(members)
    for line, ablation in enumerate(members):
        for place, (value, row) in enumerate(ablation.points):
            interval = t_interval(list(row.by_seed(ablation.metric).values()))
            difference = differences.get((line, place))
            size = float(value) if isinstance(value, int | float) else shown(value)
            cells.append(
                [
                    Cell(ablation.label),
                    Cell(shown(value), size),
                    seeds(row),
                    Cell(text.percent(interval), interval.centre),
                    _difference_cell(row is ablation.own, difference),
                    Cell(METRICS[ablation.metric]),
                ]
            )
            csv_row = {name: getattr(ablation, name) for name in ("study", "method", "others", "key")}
            csv_rows.append(csv_row | {"value": value, "metric": ablation.metric} | interval_columns(interval))
            csv_rows[-1] |= difference_columns(difference) if difference else {}
    note = (
        "All other settings are equal within a method's lines. Mean ± half of the 95% t interval over seeds. "
        "Differences in points to the value that the study itself has, paired by seed, with their 95% interval; bold: "
        "beyond chance at 5% after Holm's correction over the column. To choose a setting by these figures, where they "
        "are of the test set, would be to train on it."
    )
    title = f"Ablation: {members[0].title}"
    return Table(members[0].slug, title, note, columns, cells, pd.DataFrame(csv_rows)).without_empty_columns()


def _differences(members: Sequence[Ablation]) -> dict[tuple[int, int], Difference]:
    """By the numbers of ablation and point: the difference to the study's own value, corrected over the table."""
    found = {}
    for line, ablation in enumerate(members):
        for place, (_, row) in enumerate(ablation.points):
            if ablation.own is not None and row is not ablation.own:
                own, metric = ablation.own, ablation.metric
                difference = paired_difference(row.by_seed(metric), own.by_seed(metric))
                if difference.n:
                    found[line, place] = difference
    return with_holm(found)


def _difference_cell(is_own: bool, difference: Difference | None) -> Cell:
    if is_own:
        return Cell("the study's own")
    return Cell(words.NOTHING) if difference is None else difference_cell(difference)


def _order(row: Row, key: str) -> tuple[bool, float, str]:
    value = row.settings.get(key)
    return (False, float(value), str(value)) if isinstance(value, int | float) else (True, 0.0, str(value))
