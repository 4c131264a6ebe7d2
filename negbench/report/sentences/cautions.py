"""What a reader must know before trusting a comparison."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from negbench.records.crowding import FOR_RUNS, is_crowded
from negbench.report.read.comparisons import Comparison, Row, differing
from negbench.report.read.runs import Run
from negbench.report.sentences.circumstances import of_circumstances
from negbench.report.tables.diagnostics import has_collapsed
from negbench.runtime import words
from negbench.settings.cautions import cautions_of, num_training_images
from negbench.settings.keys import is_of_method

FEWEST_SEEDS = 3
FEWEST_EPOCHS = 3
NAMED = 6  # runs or rows in a sentence
REPLACED = "encoder_replaced"  # of summary.json
CONSTANT = "constant_features"
OF_SINGLE_RUNS: dict[str, Callable[[Run], object]] = {  # what is said of the runs that it applies to
    "waited for data over 5% of the time, so that times are the loader's": lambda run: run.summary.get("loader_bound"),
    "resumed with another number of processes, so not bitwise as undisturbed": (
        lambda run: len(run.summary.get("world_sizes") or ()) > 1
    ),
    "ended with nearly equal embeddings for all images, a collapse": has_collapsed,
    "skipped images that could not be decoded": lambda run: run.summary.get("skipped_files"),
    f"had fewer than {FEWEST_EPOCHS} timed epochs, so that times say little": (
        lambda run: len(run.epoch_seconds) - 1 < FEWEST_EPOCHS  # the first is left out
    ),
    "started on a machine with more work than cores, so that times may be disturbed": (
        lambda run: is_crowded(run.environment, FOR_RUNS)
    ),
}


def cautions(comparison: Comparison, baseline: str, others: Sequence[Comparison] = ()) -> list[str]:
    """Return a sentence for each thing to know; none if all is as it should be.

    `others` are all comparisons of the report.
    """
    runs = comparison.runs
    found = [*comparison.notes, *_of_baseline(comparison, baseline), *_of_seeds(comparison)]
    found += [*_of_equality(comparison), *of_circumstances(comparison, baseline, others), *_of_versions(runs)]
    found += [*_of_encoders(comparison), *_of_features(comparison), *_of_settings(comparison)]
    if runs and not any(run.curve for run in runs):
        found.append("No run has a curve on held-out images, so there is no time to a target.")
    if len(hardware := sorted({run.hardware for run in runs})) > 1:
        found.append(f"Times have a table for each kind of hardware: {'; '.join(hardware)}.")
    for told, applies in OF_SINGLE_RUNS.items():
        if names := [run.name for run in runs if applies(run)]:
            found.append(f"{words.count(len(names), 'run')} {told}: {words.some(names, NAMED)}.")
    return found


def _of_baseline(comparison: Comparison, baseline: str) -> Iterator[str]:
    methods = {row.method for row in comparison.rows}
    rows = [row for row in comparison.rows if baseline in (row.label, row.method)]
    nearest = {row.label: comparison.baselines_of(row, baseline) for row in comparison.rows}
    tied = [label for label, others in nearest.items() if len(others) > 1]
    if len(methods) == 1:
        yield f"It holds one method, {methods.pop()}: there is no other to compare it with."
    elif not rows:
        yield f"It lacks the baseline {baseline}, so no differences to it are shown."
    elif not any(row.runs for row in rows):
        yield f"The baseline {baseline} has no finished run, so no differences, ratios or targets are shown."
    elif tied:
        names = words.some([other.label for other in nearest[tied[0]]], NAMED)
        yield f"Several rows of {baseline} are equally near to {words.some(tied, NAMED)}: {names}; the first is taken."


def _of_seeds(comparison: Comparison) -> Iterator[str]:
    if few := [row.label for row in comparison.rows if 0 < len(row.runs) < FEWEST_SEEDS]:
        yield f"Fewer than {FEWEST_SEEDS} seeds: {words.some(few, NAMED)}; intervals are wide, or there are none."
    if unfinished := [row.label for row in comparison.rows if not row.runs]:
        yield f"Without any finished run: {words.some(unfinished, NAMED)}."
    everyone = {seed for row in comparison.rows for seed in _seeds(row)}
    lacking = [
        f"{row.label} lacks {words.listed([str(seed) for seed in sorted(everyone - _seeds(row))])}"
        for row in comparison.rows
        if row.runs and everyone - _seeds(row)
    ]
    if lacking:
        shared = "Seeds differ, and differences are paired over those that both rows have"
        yield f"{shared}: {words.some(lacking, NAMED)}."


def _of_equality(comparison: Comparison) -> Iterator[str]:
    rows = [row for row in comparison.rows if row.runs]
    own = [key for key in differing([row.settings for row in rows]) if not is_of_method(key)] if rows else []
    if comparison.track == "recipe" and own:
        yield f"Recipes differ in more than the method: {words.some(own, 2 * NAMED)}."
    views = {row.label: row.runs[0].summary["views_per_step"] for row in rows}
    if len(set(views.values())) > 1:
        told = words.some([f"{label} {count:,}" for label, count in views.items()], NAMED)
        yield f"Rows differ in back-propagated views a step, so equal epochs are not equal views: {told}."
    intervals = sorted({int(run.settings.get("evaluate_every_epochs", 0)) for run in comparison.runs})
    if len(intervals) > 1:
        yield (
            f"Held-out images were evaluated every {intervals[0]} to {intervals[-1]} epochs; times to a target are "
            "those of the next evaluation."
        )


def _of_versions(runs: Sequence[Run]) -> Iterator[str]:
    versions = [run.version for run in runs]
    if len(set(versions)) > 1:
        counts = [f"{version}: {words.count(versions.count(version), 'run')}" for version in sorted(set(versions))]
        yield f"Mixed versions, whose results may differ (see CHANGELOG.md): {'; '.join(counts)}."
    if changed := [run.name for run in runs if "+changes" in run.version]:
        told = "ran code with uncommitted changes, so no revision tells what ran"
        yield f"{words.count(len(changed), 'run')} {told}."


def _of_encoders(comparison: Comparison) -> Iterator[str]:
    """Name the rows whose methods trained another encoder than the study's."""
    replaced = [row for row in comparison.rows if any(run.summary.get(REPLACED) for run in row.runs)]
    kept = _parameters(run for row in comparison.rows if row not in replaced for run in row.runs)
    for row in replaced:
        own = _parameters(row.runs)
        against = f" ({own} trainable parameters, where other rows have {kept})" if own and kept else ""
        yield f"The encoder of {row.label} is not the study's, since its method made another{against}."


def _parameters(runs: Iterable[Run]) -> str:
    sizes = {int(size) for run in runs if (size := run.summary.get("parameters")) is not None}
    return " or ".join(f"{size:,}" for size in sorted(sizes))


def _of_features(comparison: Comparison) -> Iterator[str]:
    """Name the rows with encoders that have collapsed."""
    for row in comparison.rows:
        if constant := sum(bool(run.summary.get(CONSTANT)) for run in row.runs):
            yield (
                f"In {words.count(constant, 'run')} of {row.label} the encoder gives all images the same features: "
                "its accuracies are those of an encoder that tells no images apart."
            )


def _of_settings(comparison: Comparison) -> list[str]:
    """Name the rows with settings that are odd, though allowed."""
    found: dict[str, list[str]] = {}
    for row in comparison.rows:
        for run in row.runs:
            num_images = num_training_images(run.settings, run.summary["num_images"], run.summary["num_classes"])
            for clause in cautions_of(run.settings, num_images, run.steps_per_epoch):
                found.setdefault(clause, []).append(row.label)
    return [f"{words.some(list(dict.fromkeys(rows)), NAMED)}: {clause}." for clause, rows in found.items()]


def _seeds(row: Row) -> set[int]:
    return {run.seed for run in row.runs}
