"""Group runs into rows and comparisons.

A row is what its seeds share: study, method, and every setting that can change a result. A comparison is the rows that
are equal in everything that is not the method's own: in the controlled track all but `method.*` and `optimizer.lr`; in
the recipe track data, batch, precision and evaluation. In both tracks its runs are of equal data and of one
RESULTS_VERSION. What a row differs in is its label, what a comparison differs in its title.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from negbench.records.run import earlier
from negbench.records.run.summary import changed_in
from negbench.report.read.circumstances import FOLDER, MACHINE, Labels, assumed, data_labels, fact
from negbench.report.read.grouping import grouped
from negbench.report.read.runs import Run
from negbench.settings.keys import Flat, is_own, leaves, plain
from negbench.settings.schema import RunConfig

RECIPE_KEYS = ("data.", "evaluation.", "batch_size")
RECORDED = ("data", "results_version")  # no settings, but what must be equal in a comparison where it is known
USED = ("precision", "processes")  # as above, and among the settings of every row
CODE = "code"
OF_ROWS = (CODE, FOLDER, *MACHINE)  # no settings, but what may tell rows of a comparison apart
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
    settings: Flat  # that can change a result, the seed aside, and what is none and tells rows apart
    runs: tuple[Run, ...]
    unused: tuple[Run, ...] = ()
    recorded: Flat = field(default_factory=dict)  # what is known of its data, results version and method's code

    @property
    def first(self) -> Run:
        return (self.runs or self.unused)[0]

    def may_meet(self, other: "Row") -> bool:
        """Return whether the rows may be compared: not if they are of other code of one method."""
        return self.method != other.method or self.recorded.get(CODE) == other.recorded.get(CODE)

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
    group: str = ""  # the same for comparisons that differ in `RECORDED` and `USED` alone

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
        named = [other for other in self.rows if baseline in (other.label, other.method)]
        candidates = [other for other in named if row.may_meet(other)]
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
    groups = grouped(rows.values(), lambda members: _group_of(members[0], _settings(members)))
    labels = data_labels(placed)
    return _named([part for group in groups.values() for part in _parts(group, labels)])


def differing(settings: Sequence[Flat]) -> list[str]:
    """Return the keys in which the settings are not all equal."""
    keys = dict.fromkeys(key for flat in settings for key in flat)
    return [key for key in keys if any(flat.get(key) != settings[0].get(key) for flat in settings[1:])]


def told(settings: Flat, keys: Iterable[str]) -> str:
    """Return `num_negatives=256, lr=0.1`, with the method's own keys without their group."""
    return ", ".join(f"{key.removeprefix('method.')}={shown(settings.get(key))}" for key in keys)


def _circumstances(run: Run) -> Flat:
    """What can change a result and is no setting."""
    precision = run.environment.get("precision", run.settings.get("precision"))
    return {"precision": precision, "processes": run.environment.get("world_size") or 1}


def _parts(group: Sequence[Sequence[Run]], labels: Labels) -> Iterator[list[Row]]:
    """Yield the rows of each part of a group that is of equal data and of one RESULTS_VERSION."""
    runs = [run for members in group for run in members]
    known = {
        "data": assumed(runs, lambda run: labels.get(run.data)),
        "results_version": assumed(runs, lambda run: fact(run, "results_version")),
    }
    differ = [name for name in RECORDED if len(set(known[name].values())) > 1]
    recorded = {run: {name: known[name][run] for name in RECORDED} for run in runs}
    for part in _split(group, lambda run: [recorded[run][name] for name in differ]):
        made = [row for rows in _split(part, lambda run: run.method) for row in _rows(rows, recorded, differ)]
        machine = [key for key in MACHINE if any(key in row.settings for row in made)]
        yield [dataclasses.replace(row, settings=_machine(row, machine) | row.settings) for row in made]


def _machine(row: Row, keys: Sequence[str]) -> Flat:
    """Return what all runs of a row have, so that its baseline is one of the same machine."""
    values = {key: {fact(run, key) for run in (*row.runs, *row.unused)} for key in keys}
    return {key: known.pop() for key, known in values.items() if len(known) == 1}


def _rows(rows: Sequence[Sequence[Run]], recorded: Mapping[Run, Flat], shown: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of one method, each of one code."""
    codes = assumed([run for members in rows for run in members], lambda run: fact(run, "method_code"))
    shown = [*shown, CODE] if len(set(codes.values())) > 1 else shown
    for members in (row for some in _split(rows, lambda run: [codes[run], run.apart]) for row in some):
        first = members[0]
        known = recorded[first] | {CODE: codes[first][:8]}
        settings = _settings(members) | {name: known[name] for name in shown} | first.apart
        used = sorted((run for run in members if run.is_used), key=lambda run: run.seed)
        unused = sorted((run for run in members if not run.is_used), key=lambda run: run.seed)
        yield Row(first.method, first.method, settings, tuple(used), tuple(unused), known)


def _split(rows: Iterable[Sequence[Run]], key: Callable[[Run], object]) -> list[list[list[Run]]]:
    """Return the rows in parts of equal `key`; one whose runs differ in it is in several, divided."""
    parts: dict[str, dict[int, list[Run]]] = {}
    for number, members in enumerate(rows):
        for run in members:
            parts.setdefault(repr(key(run)), {}).setdefault(number, []).append(run)
    return [list(part.values()) for part in parts.values()]


def _settings(runs: Sequence[Run]) -> Flat:
    """Return what can change a result and is equal in all runs of a row, the seed aside."""
    flats = [run.settings for run in runs]
    left_out = {*_OPERATIONAL, *differing(flats), "seed", "study", "track"}
    return {key: value for key, value in flats[0].items() if key not in left_out} | _circumstances(runs[0])


def _group_of(run: Run, settings: Flat) -> str:
    shared = {key: value for key, value in (_DEFAULTS | settings).items() if not _may_differ(key, run.track)}
    return json.dumps([run.study, run.track, shared], sort_keys=True)


def _may_differ(key: str, track: str) -> bool:
    """Whether rows of one comparison may differ in `key`."""
    if key in OF_ROWS:
        return True
    if track == "controlled":
        return is_own(key)
    return not key.startswith(RECIPE_KEYS) and key not in (*RECORDED, *USED)


def _named(groups: Sequence[list[Row]]) -> list[Comparison]:
    comparisons: list[Comparison] = []
    studies = grouped(groups, lambda group: (group[0].first.study, group[0].first.track))
    for (study, track), members in sorted(studies.items()):
        shared = [_shared([row.settings for row in group]) for group in members]
        keys = [key for key in differing(shared) if not _may_differ(key, track)]
        for group, settings in sorted(zip(members, shared, strict=True), key=lambda pair: told(pair[1], keys)):
            both_tracks = sum(name == study for name, _ in studies) > 1
            parts = [study, *(["recipe track"] if track == "recipe" or both_tracks else []), told(settings, keys)]
            title = ", ".join(part for part in parts if part)
            slug = _unique(slug_of(title), [comparison.slug for comparison in comparisons])
            compared = {key: value for key, value in group[0].settings.items() if key not in (*RECORDED, *USED)}
            rows, alike = tuple(_labelled(group)), _group_of(group[0].first, compared)
            comparisons.append(Comparison(study, track, title, slug, settings, rows, group=alike))
    return comparisons


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """Label each row by what it differs in from the others of its method, and sort by the best known figure."""
    labelled = []
    for peers in grouped(rows, lambda row: row.method).values():
        own = own_values(peers)
        labels = [_label(row, differing([row.settings for row in peers]), own) for row in peers]
        if len(set(labels)) < len(labels):  # files of one name with different content
            labels = [f"{label} [{row.first.digest}]" for label, row in zip(labels, peers, strict=True)]
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
    differs = [key for key in keys if is_told(row, key, own)]
    return f"{row.method} ({told(row.settings, differs)})" if differs else row.method


def _figure(row: Row) -> float:
    for metric in ("knn_top1", "knn_top1_validation"):
        if values := row.by_seed(metric):
            return sum(values.values()) / len(values)
    return -1.0


def _shared(settings: Sequence[Flat]) -> Flat:
    varying = set(differing(settings))
    return {key: value for key, value in settings[0].items() if key not in varying}


def shown(value: object) -> str:
    """Return a setting's value as labels show it."""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)


def slug_of(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", title).strip("-")[:80] or "study"


def _unique(slug: str, taken: Sequence[str]) -> str:
    numbered = itertools.chain([slug], (f"{slug}-{number}" for number in itertools.count(2)))
    return next(candidate for candidate in numbered if candidate not in taken)
