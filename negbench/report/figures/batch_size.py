"""Time of a step for an image, by the batch size."""

import math
from collections.abc import Sequence
from functools import partial

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from negbench.report.figures.common import steps
from negbench.report.figures.common.style import LINES, Drawing, Style, add_legend, logarithmic
from negbench.report.read.benches import Bench
from negbench.report.read.statistics import quartiles
from negbench.settings.plugins.facts import Figure

FIGURE = Figure(section="bench", title="Cost by batch size", place=30)


def drawing(bench: Bench, style: Style) -> Drawing | None:
    sized = [row for _, row in bench.by_batch_size]
    if len({row.images for row in sized if row.is_timed}) < 2:
        return None
    caption = (
        "Time a step takes for each image of its batch, with quartiles of the rounds, and its ratio to the bare "
        "step of the same rounds, with the 95% bootstrap interval, cut at the axis. K is the study's."
        f"{steps.where_sentence(bench, sized)}"
    )
    return Drawing(caption, partial(_draw, bench, style))


def _draw(bench: Bench, style: Style) -> Canvas:
    canvas, (time, ratio) = plt.subplots(1, 2, figsize=(12, 4.6))
    groups = [group for group in bench.groups if group.kind in ("study", "batch_size")]
    stepped = [(g, s) for g in groups for s in g.rows if s.kind != "matrices"]
    stepped.sort(key=lambda pair: pair[1].images)
    bares = [row.name for row in bench.main.rows if row.kind == "bare"]
    names = [*bench.methods, *bares]
    for place, name in enumerate(names):
        mine = [(g, s, s.images) for g, s in stepped if s.name == name]
        aside = 2 ** (0.05 * (place - (len(names) - 1) / 2))  # so that bars do not cover each other
        if name in bares:
            line = LINES[1 + bares.index(name) % (len(LINES) - 1)]
            look = {"color": steps.GREY, "marker": "", "linestyle": line, "label": name}
        else:
            look = steps.method_look(style, name)
        steps.errorbar_line(time, [(aside * size, quartiles(1e6 / size * s.times)) for _, s, size in mine], look)
        steps.errorbar_line(ratio, [(aside * size, g.ratio_to_bare(s)) for g, s, size in mine], look)
    for axes, title in ((time, "µs an image"), (ratio, "step / bare step")):
        axes.set_ylabel(title)
        steps.size_axis(axes, sorted({row.images for _, row in stepped}), "batch size, images a step")
    logarithmic(time)
    _around_medians(ratio, [group.ratio_to_bare(row).centre for group, row in stepped])
    add_legend(canvas, time, len(names))
    return canvas


def _around_medians(axes: Axes, medians: Sequence[float]) -> None:
    """Limit the vertical axis by the medians, so that one disturbed row's interval does not stretch it."""
    known = [median for median in medians if math.isfinite(median)]
    if known:
        margin = 0.05 + 2 * (max(known) - min(known))
        axes.set_ylim(min(known) - margin, max(known) + margin)
