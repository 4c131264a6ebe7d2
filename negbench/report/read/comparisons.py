"""Group runs into rows and comparisons.

A row is what its seeds share: study, method, and every setting that can change a result. A comparison is the rows that
are equal in everything that is not the method's own: in the controlled track all but `method.*` and `optimizer.lr`; in
the recipe track data, batch, precision and evaluation. What a row differs in is its label, what a comparison differs in
its title.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from negbench.records import earlier
from negbench.records.summary import changed_in
from negbench.report.read.runs import Run
from negbench.settings.keys import Flat, is_own, leaves, plain
from negbench.settings.schema import RunConfig

RECIPE_KEYS = ("data.", "evaluation.", "batch_size")
_OPERATIONAL = {
    key for key, field in leaves(RunConfig) if field.json_schema_extra and not field.json_schema_extra["scientific"]
}
_DEFAULTS = {  # for records of earlier versions, which lack what has been added since
    key: plain(field.default) for key, field in leaves(RunConfig) if key not in ("method", *_OPERATIONAL)
}


@dataclass(frozen=True)
class Row:
    """Runs that differ in the seed alone; `unused` are those without a result."""

    method: str
    label: str
    settings: Flat  # that can change a result, the seed aside, with the precision and the number of processes
    runs: tuple[Run, ...]
    unused: tuple[Run, ...] = ()

    @property
    def key(self) -> str:
        return (self.runs or self.unused)[0].digest

    def by_seed(self, metric: str) -> dict[int, float]:
        """Return a figure of `summary.json` by seed, if it is known."""
        values = {run.seed: run.summary.get(metric) for run in self.runs}
        return {seed: float(value) for seed, value in values.items() if value is not None}

    @property
    def seeds(self) -> str:
        """Return `3`, or `2 of 3: 1 failed`."""
        if not self.unused:
            return str(len(self.runs))
        states = [run.state for run in self.unused]
        told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        return f"{len(self.runs)} of {len(self.runs) + len(self.unused)}: {told}"


@dataclass(frozen=True)
class Comparison:
    """Rows that may be compared, best figure first."""

    study: str
    track: str
    title: str
    slug: str  # for file names
    settings: Flat  # that all rows share
    rows: tuple[Row, ...]
    hardware: str = ""  # where it is of one kind

    @property
    def runs(self) -> list[Run]:
        return [run for row in self.rows for run in row.runs]

    @property
    def notes(self) -> list[str]:
        """What the study says to readers of its results."""
        return list(dict.fromkeys(note for run in self.runs if (note := str(run.settings.get("note") or ""))))

    def by_hardware(self) -> "list[Comparison]":
        """Return a comparison for each kind of hardware and torch version, within which times may be compared."""
        parts = []
        kinds = sorted({run.hardware for run in self.runs})
        for number, hardware in enumerate(kinds, 1):
            rows = []
            for row in self.rows:
                runs = tuple(run for run in row.runs if run.hardware == hardware)
                unused = tuple(run for run in row.unused if run.hardware == hardware or run.hardware not in kinds)
                if runs or unused:
                    rows.append(dataclasses.replace(row, runs=runs, unused=unused))
            slug = f"{self.slug}-hardware-{number}" if len(kinds) > 1 else self.slug
            parts.append(dataclasses.replace(self, slug=slug, rows=tuple(rows), hardware=hardware))
        return parts

    def baseline_of(self, row: Row, baseline: str) -> Row | None:
        """Return the first of `baselines_of`, or None."""
        return next(iter(self.baselines_of(row, baseline)), None)

    def baselines_of(self, row: Row, baseline: str) -> list[Row]:
        """Return the rows of method or label `baseline` that share most settings, then seeds, with `row`.

        Empty for a row of the baseline itself. Results play no part in the choice.
        """
        candidates = [other for other in self.rows if baseline in (other.label, other.method)]
        if any(other.label == row.label for other in candidates):
            return []
        shared = {other.label: sum(row.settings.get(k) == v for k, v in other.settings.items()) for other in candidates}
        nearest = [other for other in candidates if shared[other.label] == max(shared.values())]
        seeds = {run.seed for run in row.runs}
        in_common = {other.label: len(seeds & {run.seed for run in other.runs}) for other in nearest}
        most = [other for other in nearest if in_common[other.label] == max(in_common.values())]
        return sorted(most, key=lambda other: other.label)


def compare(runs: Iterable[Run]) -> list[Comparison]:
    """Return comparisons by study. Runs without readable settings are in none."""
    rows: dict[str, list[Run]] = {}
    place_of: dict[str, str] = {}  # of each row's first run, for those of it whose circumstances are unknown
    placed = [run for run in runs if run.settings and run.digest]
    for run in sorted(placed, key=lambda run: not run.environment):
        row = json.dumps([run.study, run.track, run.method, run.digest])
        place = json.dumps([row, _circumstances(run)])
        if not run.environment:
            place = place_of.get(row, place)
        place_of.setdefault(row, place)
        rows.setdefault(place, []).append(run)
    groups: dict[str, list[Row]] = {}
    for members in rows.values():
        made = _row(members)
        settings = _DEFAULTS | made.settings
        shared = {key: value for key, value in settings.items() if not _may_differ(key, members[0].track)}
        group = json.dumps([members[0].study, members[0].track, shared], sort_keys=True)
        groups.setdefault(group, []).append(made)
    return _named(list(groups.values()))


def differing(settings: Sequence[Flat]) -> list[str]:
    """Return the keys in which the settings are not all equal."""
    keys = dict.fromkeys(key for flat in settings for key in flat)
    return [key for key in keys if any(flat.get(key) != settings[0].get(key) for flat in settings[1:])]


def told(settings: Flat, keys: Iterable[str]) -> str:
    """Return `num_negatives=256, lr=0.1`, with the method's own keys without their group."""
    return ", ".join(f"{key.removeprefix('method.')}={_value(settings.get(key))}" for key in keys)


def _circumstances(run: Run) -> Flat:
    """What can change a result and is no setting."""
    precision = run.environment.get("precision", run.settings.get("precision"))
    return {"precision": precision, "processes": run.environment.get("world_size") or 1}


def _row(runs: Sequence[Run]) -> Row:
    flats = [run.settings for run in runs]
    left_out = {*_OPERATIONAL, *differing(flats), "seed", "study", "track"}
    settings = {key: value for key, value in flats[0].items() if key not in left_out} | _circumstances(runs[0])
    used = sorted((run for run in runs if run.is_used), key=lambda run: run.seed)
    unused = sorted((run for run in runs if not run.is_used), key=lambda run: run.seed)
    return Row(runs[0].method, runs[0].method, settings, tuple(used), tuple(unused))


def _may_differ(key: str, track: str) -> bool:
    """Whether rows of one comparison may differ in `key`."""
    if track == "controlled":
        return is_own(key)
    return not key.startswith(RECIPE_KEYS) and key not in ("precision", "processes")


def _named(groups: Sequence[list[Row]]) -> list[Comparison]:
    comparisons: list[Comparison] = []
    studies: dict[tuple[str, str], list[list[Row]]] = {}
    for group in groups:
        first = (group[0].runs or group[0].unused)[0]
        studies.setdefault((first.study, first.track), []).append(group)
    for (study, track), members in sorted(studies.items()):
        shared = [_shared([row.settings for row in group]) for group in members]
        keys = [key for key in differing(shared) if not _may_differ(key, track)]
        for group, settings in sorted(zip(members, shared, strict=True), key=lambda pair: told(pair[1], keys)):
            both_tracks = sum(name == study for name, _ in studies) > 1
            parts = [study, *(["recipe track"] if track == "recipe" or both_tracks else []), told(settings, keys)]
            title = ", ".join(part for part in parts if part)
            slug = _unique(slug_of(title), [comparison.slug for comparison in comparisons])
            comparisons.append(Comparison(study, track, title, slug, settings, tuple(_labelled(group))))
    return comparisons


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """Label each row by what it differs in from the others of its method, and sort by the best known figure."""
    labelled = []
    for method in dict.fromkeys(row.method for row in rows):
        peers = [row for row in rows if row.method == method]
        own = own_values(peers)
        labels = [_label(row, differing([row.settings for row in peers]), own) for row in peers]
        if len(set(labels)) < len(labels):  # files of one name with different content
            labels = [f"{label} [{row.key}]" for label, row in zip(labels, peers, strict=True)]
        labelled += [dataclasses.replace(row, label=label) for label, row in zip(labels, peers, strict=True)]
    return sorted(labelled, key=lambda row: (-_figure(row), row.label))


def own_values(rows: Sequence[Row]) -> Flat:
    """Return the study's own value of each key in which rows of a method differ: that of rows that did not set it.

    Keys without such a value, or with several, are left out.
    """
    found: Flat = {}
    for key in differing([row.settings for row in rows]):
        values = [row.settings.get(key) for row in rows if (given := _given(row)) is not None and key not in given]
        if values and all(value == values[0] for value in values):
            found[key] = values[0]
    return found


def _given(row: Row) -> Flat | None:
    """Return what the user set, by the records of the runs. None if no record says so."""
    for run in (*row.runs, *row.unused):
        if (changed := changed_in(run.summary, run.environment)) is not None:
            return changed
        if (changed := earlier.changed_by_command(run.environment)) is not None:
            return changed
    return None


def is_told(row: Row, key: str, own: Flat) -> bool:
    """Return whether the row's value differs from the study's own."""
    return key not in own or row.settings.get(key) != own[key]


def _label(row: Row, keys: Sequence[str], own: Flat) -> str:
    """Return the method, and what differs from the study's own values."""
    shown = [key for key in keys if is_told(row, key, own)]
    return f"{row.method} ({told(row.settings, shown)})" if shown else row.method


def _figure(row: Row) -> float:
    for metric in ("knn_top1", "knn_top1_validation"):
        if values := row.by_seed(metric):
            return sum(values.values()) / len(values)
    return -1.0


def _shared(settings: Sequence[Flat]) -> Flat:
    varying = set(differing(settings))
    return {key: value for key, value in settings[0].items() if key not in varying}


def _value(value: object) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)


def slug_of(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", title).strip("-")[:80] or "study"


def _unique(slug: str, taken: Sequence[str]) -> str:
    numbered = itertools.chain([slug], (f"{slug}-{number}" for number in itertools.count(2)))
    return next(candidate for candidate in numbered if candidate not in taken)
