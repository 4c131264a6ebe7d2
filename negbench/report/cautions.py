"""What a reader must know before trusting a comparison."""

from collections.abc import Sequence

from negbench.report import text
from negbench.report.comparisons import Comparison, Row
from negbench.report.runs import Run

FEWEST_SEEDS = 3
FEWEST_EPOCHS = 3


def cautions(comparison: Comparison, baseline: str) -> list[str]:
    """Sentences; none where all is as it should be."""
    found = [*comparison.notes]
    methods = {row.method for row in comparison.rows}
    if len(methods) == 1:
        found.append(f"It holds one method, {methods.pop()}: there is no other to compare it with.")
    elif not any(baseline in (row.label, row.method) for row in comparison.rows):
        found.append(f"It lacks the baseline {baseline}, so no differences to it are shown.")
    found += _of_seeds(comparison)
    found += _of_versions(comparison.runs)
    hardware = sorted({run.hardware for run in comparison.runs})
    if len(hardware) > 1:
        found.append(f"Its runs were made on different hardware, so times have a table each: {'; '.join(hardware)}.")
    for told, runs in {
        "waited for data over 5% of the time; their times are the loader's": _loader_bound(comparison.runs),
        "went on with another number of processes, so not bitwise as undisturbed": _on_other_ranks(comparison.runs),
        "skipped images that could not be decoded": [r for r in comparison.runs if r.summary.get("skipped_files")],
        f"have fewer than {FEWEST_EPOCHS} timed epochs, so their times say little": _short(comparison.runs),
    }.items():
        if runs:
            found.append(f"{_runs(len(runs))} {told}: {_some([run.name for run in runs])}.")
    return found


def _of_seeds(comparison: Comparison) -> list[str]:
    found = []
    few = [row.label for row in comparison.rows if 0 < len(row.runs) < FEWEST_SEEDS]
    if few:
        found.append(f"Fewer than {FEWEST_SEEDS} seeds: {_some(few)}; intervals are wide, or there are none.")
    unfinished = [row.label for row in comparison.rows if not row.runs]
    if unfinished:
        found.append(f"Without any finished run: {_some(unfinished)}.")
    everyone = {seed for row in comparison.rows for seed in _seeds(row)}
    lacking = [
        f"{row.label} lacks {text.listed([str(seed) for seed in sorted(everyone - _seeds(row))])}"
        for row in comparison.rows
        if row.runs and everyone - _seeds(row)
    ]
    if lacking:
        found.append(f"Seeds differ, and differences are paired over those that both rows have: {_some(lacking)}.")
    return found


def _of_versions(runs: Sequence[Run]) -> list[str]:
    found = []
    versions = [run.version for run in runs]
    if len(set(versions)) > 1:
        counts = [f"{version}: {_runs(versions.count(version))}" for version in sorted(set(versions))]
        found.append(f"Mixed versions, whose results may differ (see CHANGELOG.md): {'; '.join(counts)}.")
    if changed := [run.name for run in runs if "+changes" in run.version]:
        found.append(f"{_runs(len(changed))} ran code with uncommitted changes, so no revision tells what ran.")
    return found


def _loader_bound(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.summary.get("loader_bound")]


def _short(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if len(run.epoch_seconds) - 1 < FEWEST_EPOCHS]  # the first is left out


def _on_other_ranks(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if len(run.summary.get("world_sizes") or ()) > 1]


def _seeds(row: Row) -> set[int]:
    return {run.seed for run in row.runs}


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"


def _some(names: list[str]) -> str:
    return text.listed(names if len(names) <= 6 else [*names[:5], f"{len(names) - 5} more"])
