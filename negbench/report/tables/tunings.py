"""Tables of a tuning: every trial, and what was chosen."""

import math
import statistics

import pandas as pd

from negbench.records.tunings import Tuning
from negbench.report.read.comparisons import shown, told
from negbench.report.tables.base import Cell, Table
from negbench.runtime import words
from negbench.settings.space import at_edges


def name_of(tuning: Tuning) -> str:
    """Return the study, the epochs, the seed and what else was set."""
    others = [t.removeprefix("method.") for t in tuning.record.settings if not t.startswith("epochs=")]
    parts = [tuning.study, words.count(tuning.record.epochs, "epoch"), f"seed {tuning.record.seed}", *others]
    return ", ".join(parts)


def tuning_cautions(tuning: Tuning) -> list[str]:
    found = []
    numbers = {method.method: len(method.trials) for method in tuning.methods}
    if len(set(numbers.values())) > 1:
        listed = words.listed([f"{name} {number}" for name, number in numbers.items()])
        found.append(f"Methods had different numbers of trials ({listed}): the one with more is favoured.")
    for method in tuning.methods:
        waiting = sum(not trial.has_ended for trial in method.trials)
        failed = [trial for trial in method.trials if trial.state == "failed"]
        if waiting:
            found.append(f"{waiting} of {len(method.trials)} trials of {method.method} have not ended.")
        if failed:
            reasons = words.some(list(dict.fromkeys(trial.reason or "without a reason" for trial in failed)), 3)
            found.append(
                f"{len(failed)} of {len(method.trials)} trials of {method.method} failed ({reasons}). They count as "
                "its budget; `negbench tune --retry-failed` makes them again where that is not the settings' fault."
            )
        for key, which in at_edges(method.space, method.best.values) if method.best else ():
            name = key.removeprefix("method.")
            found.append(f"{method.method} chose the {which} {name} on offer: beyond it may lie better.")
    return found


def tuning_table(tuning: Tuning, slug: str = "tuning") -> Table:
    """Return a table with a row for each method."""
    rows, csv_rows = [], []
    for method in tuning.methods:
        best, scores = method.best, method.scores
        lowest = min(scores) if scores else math.nan
        score = best.score if best and best.score is not None else math.nan
        ended = sum(trial.has_ended for trial in method.trials)
        counted = str(ended) if ended == len(method.trials) else f"{ended} of {len(method.trials)}"
        rows.append(
            [
                Cell(method.method),
                Cell(counted, ended),
                *(Cell(_percent(value), value) for value in (score, method.median, lowest)),
                Cell(told(best.values, best.values) if best else words.NOTHING),
                Cell(
                    "; ".join(
                        f"{key.removeprefix('method.')}: {', '.join(map(shown, values))}"
                        for key, values in method.space.items()
                    )
                ),
            ]
        )
        csv_rows.append(
            {"study": tuning.study, "method": method.method, "trials": len(method.trials), "ended": ended}
            | {"best": score, "median": method.median, "worst": lowest}
            | {"chosen": told(best.values, best.values) if best else None}
        )
    note = (
        f"kNN (k = 20) on the held-out images at the end of each trial.{_uncertainty(tuning)} The best of several is "
        "higher than the same settings would give again: it chooses settings and ranks no methods."
    )
    columns = ["method", "trials", "best, %", "median, %", "worst, %", "chosen", "drawn from"]
    return Table(slug, f"Tuning: {name_of(tuning)}", note, columns, rows, pd.DataFrame(csv_rows))


def _uncertainty(tuning: Tuning) -> str:
    """Return a sentence with the binomial standard error of the median score."""
    scores = [score for method in tuning.methods for score in method.scores]
    if not scores or not tuning.num_held_out:
        return ""
    middle = statistics.median(scores)
    error = math.sqrt(middle * (1 - middle) / tuning.num_held_out)
    return f" These are {tuning.num_held_out:,}, so that a score has a standard error of {100 * error:.1f} points."


def trials_table(tuning: Tuning, slug: str) -> Table:
    """Return a table with a row for each trial."""
    rows, csv_rows = [], []
    for method in tuning.methods:
        for number, trial in enumerate(method.trials, 1):
            chosen = trial is method.best
            score = math.nan if trial.score is None else trial.score
            rows.append(
                [
                    Cell(method.method),
                    Cell(str(number), number),
                    Cell(_percent(score), score, chosen),
                    Cell(told(trial.values, trial.values)),
                    Cell(f"{trial.state}: {trial.reason}" if trial.reason else trial.state),
                    Cell(words.number(trial.seconds) if trial.seconds is not None else words.NOTHING, trial.seconds),
                ]
            )
            csv_rows.append(
                {"study": tuning.study, "method": method.method, "trial": number, "knn_top1_validation": trial.score}
                | {"state": trial.state, "chosen": chosen, "seconds": trial.seconds, "run": trial.run_id}
                | trial.values
            )
    columns = ["method", "trial", "kNN held out, %", "settings", "state", "training, s"]
    note = "In the order of the draw; in bold what was chosen."
    title = f"All trials: {tuning.study}"
    return Table(f"{slug}-trials", title, note, columns, rows, pd.DataFrame(csv_rows))


def _percent(value: float) -> str:
    return words.NOTHING if math.isnan(value) else f"{100 * value:.1f}"
