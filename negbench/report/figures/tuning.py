"""Every trial of a tuning, and what a smaller budget would have found."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from negbench.records.tunings import Tuned, Tuning
from negbench.report.figures.common.style import LINES, MARKERS, Drawing, Style, round_numbers
from negbench.settings.plugins.facts import Figure

FIGURE = Figure(section="tuning", title="Tuning")
COMMON = "optimizer.lr"  # what every method tunes


def expected_best(scores: Sequence[float], num_trials: int) -> float:
    """Return the mean, over all choices of `num_trials` of the trials, of the highest score among them.

    Dodge et al. 2019, arXiv:1909.03004, section 3, drawn without replacement.
    """
    total = math.comb(len(scores), num_trials)
    ranked = enumerate(sorted(scores))
    return sum(score * math.comb(below, num_trials - 1) for below, score in ranked) / total


def drawing(tuning: Tuning, style: Style) -> Drawing | None:
    if not any(method.scores for method in tuning.methods):
        return None
    place = "by its learning rate" if _has_rates(tuning) else "in the order of the draw"
    caption = (
        f"Left: every trial {place}, a ring around what was chosen, crosses for trials that failed. "
        "Right: the best held-out accuracy that n of these trials would have found on average, a failed one counting "
        "as 0 (arXiv:1909.03004): where lines cross, the order depends on the budget."
    )
    return Drawing(caption, partial(_draw, tuning, style))


def _draw(tuning: Tuning, style: Style) -> Canvas:
    canvas, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), sharey=True)
    shown = [method for method in tuning.methods if method.trials]
    scores = [100 * score for method in shown for score in method.scores]
    bottom = min(scores) - 0.08 * (max(scores) - min(scores) or 1.0)
    by_rate = _has_rates(tuning)
    for number, method in enumerate(shown):
        colour = style.colours[method.method]
        marker, line = MARKERS[number % len(MARKERS)], LINES[number % len(LINES)]
        _each(left, method, by_rate, bottom, colour, marker)
        ended = [trial.score or 0.0 for trial in method.trials if trial.has_ended]
        sizes = range(1, len(ended) + 1)
        best = [100 * expected_best(ended, size) for size in sizes]
        right.plot(sizes, best, linestyle=line, marker=marker, color=colour, markersize=5, label=method.method)
    if by_rate:
        left.set_xscale("log")
        round_numbers(left.xaxis)
        left.set_xlabel("learning rate")
    else:
        left.set_xlabel("trial")
    left.set_ylabel("kNN on held-out images, %")
    right.set_ylim(bottom=bottom - 0.04 * (max(scores) - bottom or 1.0))
    right.set_xlabel("trials")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend()
    return canvas


def _has_rates(tuning: Tuning) -> bool:
    """Whether every method draws its learning rate, from positive numbers."""
    spaces = [method.space.get(COMMON, [None]) for method in tuning.methods]
    return all(isinstance(rate, int | float) and rate > 0 for rates in spaces for rate in rates)


def _each(axes: Axes, method: Tuned, by_rate: bool, bottom: float, colour: Any, marker: str) -> None:
    for number, trial in enumerate(method.trials, 1):
        place = float(trial.values[COMMON]) if by_rate else number
        if trial.score is not None:
            axes.plot(place, 100 * trial.score, marker, color=colour, alpha=0.75, markersize=6)
        elif trial.state == "failed":
            axes.plot(place, bottom, "x", color=colour, markersize=7)
        if trial is method.best and trial.score is not None:
            axes.plot(place, 100 * trial.score, "o", color=colour, markersize=13, fillstyle="none")
