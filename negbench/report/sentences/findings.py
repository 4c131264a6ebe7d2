"""What the numbers say. Every sentence is computed, and none says more than its interval."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from negbench.report import text
from negbench.report.read.comparisons import Comparison, Row
from negbench.report.read.runs import Run, cumulative
from negbench.report.read.statistics import Difference, paired_difference, t_interval, with_holm
from negbench.report.tables.accuracy import METRICS, main_metric
from negbench.report.tables.cost import time_ratio
from negbench.report.tables.diagnostics import told
from negbench.runtime import words

SHOWN = 6  # rows that a sentence names
NEARLY_EQUAL = 1.02  # ratio up to which what rows spend counts as equal


@dataclass(frozen=True)
class Finding:
    question: str
    answer: str


def findings(comparison: Comparison, baseline: str) -> list[Finding]:
    """Return the best at equal epochs, views and cost, whether negatives were needed, and each source's time."""
    metric = main_metric(comparison)
    if metric is None:
        return [Finding("Which source is best?", "No run of this comparison is finished, so nothing can be said.")]
    equal = "epochs" in comparison.settings
    question = "Which source is best at equal epochs?" if equal else "Which row is best at the end?"
    figures = {row.label: row.by_seed(metric) for row in comparison.rows}
    found = [Finding(question, _ranking(comparison.rows, figures, f"After {_epochs(comparison)}", METRICS[metric]))]
    if answer := _at_equal(comparison, "views"):
        found.append(Finding("Which source is best at equal views?", answer))
    parts = comparison.by_hardware()
    places = {f" on {part.hardware}" if len(parts) > 1 else "": part for part in parts}
    for where, part in places.items():
        if answer := _at_equal(part, "device_hours"):
            found.append(Finding(f"Which source is best at equal cost{where}?", answer))
    if answer := _without_negatives(comparison, metric):
        found.append(Finding("Were negatives needed?", answer))
    for where, part in places.items():
        if answer := _time(part, baseline):
            found.append(Finding(f"What does each source cost{where}?", answer))
    sentences = [sentence for row in comparison.rows[:SHOWN] for sentence in told(row)]
    if sentences:
        found.append(Finding("What are the negatives like at the end?", " ".join(sentences)))
    return found


def _at_equal(comparison: Comparison, resource: Literal["views", "device_hours"]) -> str:
    """Rank at the smallest median of what a row spends in all. Empty where all rows back-propagate as many views."""
    runs = {row.label: [run for run in row.runs if run.curve] for row in comparison.rows}
    spent = {
        label: float(np.median([cumulative(run, resource)[-1] for run in some])) for label, some in runs.items() if some
    }
    if len(spent) < 2:
        return ""
    cheapest = min(spent, key=lambda label: spent[label])
    budget = spent[cheapest]
    is_equal = max(spent.values()) <= NEARLY_EQUAL * budget
    if resource == "device_hours":
        start = f"After {words.number(60 * budget)} device-minutes, all that {cheapest} took (median)"
    elif is_equal:
        return ""
    else:
        start = f"After {words.number(budget / 1e6)} million back-propagated views, all that {cheapest} made"

    def interpolated(run: Run) -> float:  # one that spends less counts at its end
        return float(np.interp(budget, cumulative(run, resource), run.curve["knn_top1"]))

    figures = {label: {run.seed: interpolated(run) for run in some} for label, some in runs.items()}
    answer = _ranking(comparison.rows, figures, start, METRICS["knn_top1_validation"])
    return answer + ("" if is_equal else _READ_OFF)


_READ_OFF = (
    " Rows that spend more are read off before the end of their learning rate schedule, which may hold them back; "
    "accuracy between two evaluations is interpolated."
)


def _without_negatives(comparison: Comparison, metric: str) -> str:
    """Compare each row with negatives to each without. Rows whose number is unknown are in neither."""
    known = {row.label: count for row in comparison.rows if (count := _num_negatives(row)) is not None}
    without = [row for row in comparison.rows if known.get(row.label) == 0]
    others = [row for row in comparison.rows if known.get(row.label, 0) > 0]
    pairs = [(row, alone) for alone in without for row in others if row.may_meet(alone)]
    leads = _corrected(pairs, {row.label: row.by_seed(metric) for row in comparison.rows})
    sentences = []
    for alone in without:
        against = {label: lead for (label, second), lead in leads.items() if second == alone.label}
        if not against:
            continue
        better = [label for label, lead in against.items() if lead.is_beyond_chance and lead.centre > 0]
        worse = [label for label, lead in against.items() if lead.is_beyond_chance and lead.centre < 0]
        who = f"{alone.label}, which has none"
        if all(math.isnan(lead.p_holm) for lead in against.values()):
            verdict = f"The seeds do not tell: differences to {who}, cannot be tested"
        elif better and worse:
            verdict = (
                f"It depends on the source: beyond chance {_are(better)} ahead of {who}, and {_are(worse)} behind it"
            )
        elif better:
            verdict = f"They helped: {_are(better)} beyond chance ahead of {who}"
        elif worse and all(lead.centre <= 0 for lead in against.values() if lead.n):
            verdict = f"No: no source is ahead of {who}, and {_are(worse)} beyond chance behind it"
        elif worse:
            verdict = f"Not shown: {_are(worse)} beyond chance behind {who}, and none ahead of it"
        else:
            verdict = f"That is not settled: no row differs beyond chance from {who}"
        shown = [f"{label} {text.points(lead)}" for label, lead in list(against.items())[:SHOWN]]
        more = f", and {len(against) - SHOWN} more in the table" if len(against) > SHOWN else ""
        sentences.append(
            f"{verdict}. Differences in {METRICS[metric]}, points: {', '.join(shown)}{more}. Methods without negatives "
            "have a loss of their own, so this compares methods, not negatives alone."
        )
    return " ".join(sentences)


def _time(comparison: Comparison, baseline: str) -> str:
    ratios = {row.label: time_ratio(comparison, row, baseline) for row in comparison.rows}
    known = sorted((ratio.centre, label, text.ratio(ratio)) for label, ratio in ratios.items() if ratio and ratio.n)
    if not known:
        return ""
    shown = known if len(known) <= SHOWN else [*known[: SHOWN // 2], *known[-SHOWN // 2 :]]
    more = f" (the fastest and slowest of {len(known)})" if len(known) > SHOWN else ""
    parts = words.listed([f"{label} {ratio}" for _, label, ratio in shown])
    return f"Seconds an epoch, as a multiple of {baseline}'s: {parts}{more}."


def _ranking(rows: Sequence[Row], figures: Mapping[str, Mapping[int, float]], start: str, title: str) -> str:
    """Describe the best row and its leads, corrected over all pairs: which row is best was not known beforehand."""
    known = [row for row in rows if figures[row.label]]
    means = {row.label: t_interval(list(figures[row.label].values())) for row in known}
    known.sort(key=lambda row: -means[row.label].centre)
    best = known[0]
    missing = f", {len(best.unused)} more without a result" if best.unused else ""
    start = f"{start}, {best.label} has {text.percent(means[best.label])}% {title}"
    start = f"{start} ({words.count(means[best.label].n, 'seed')}{missing})"
    if len(known) == 1:
        return f"{start}; it is the only row, so there is nothing to compare it with."
    pairs = [(a, b) for a, b in itertools.combinations(known, 2) if a.may_meet(b)]
    corrected = _corrected(pairs, figures)
    leads = {behind: lead for (ahead, behind), lead in corrected.items() if ahead == best.label}
    paired = {behind: lead for behind, lead in leads.items() if lead.n}
    if not paired:
        return f"{start}. No other row that may be compared with it shares a seed, so no difference can be paired."
    shown = [f"{text.points(lead)} over {behind}" for behind, lead in list(paired.items())[:SHOWN]]
    more = f" and {words.count(len(leads) - len(shown), 'more row')} (see the table)" if len(leads) > len(shown) else ""
    sentence = f"{start}: {', '.join(shown)}{more} (points, paired by seed)."
    sure = [behind for behind, lead in paired.items() if lead.is_beyond_chance]
    untested = [behind for behind, lead in paired.items() if math.isnan(lead.p_holm)]
    unsure = [behind for behind in paired if behind not in (*sure, *untested)]
    verdicts = [
        *([f"the lead{_s(sure)} over {_are(sure)} beyond chance at 5%"] if sure else []),
        *([f"{'those' if len(unsure) > 1 else 'that'} over {_are(unsure)} not"] if unsure and sure else []),
        *([f"no lead over {_some(unsure)} is beyond chance at 5%"] if unsure and not sure else []),
    ]
    if verdicts:
        of_pairs = f"After Holm's correction over {words.count(len(pairs), 'pair')} of rows"
        sentence = f"{sentence} {of_pairs}, {'; '.join(verdicts)}."
    if untested:
        why = "one shared seed, or the same difference in all"
        sentence = f"{sentence} The lead{_s(untested)} over {_some(untested)} cannot be tested ({why})."
    return sentence


def _corrected(
    pairs: Sequence[tuple[Row, Row]], figures: Mapping[str, Mapping[int, float]]
) -> dict[tuple[str, str], Difference]:
    """Return by labels how far the first row of each pair is ahead, corrected over all pairs."""
    labels = [(first.label, second.label) for first, second in pairs]
    return with_holm({(a, b): paired_difference(figures[a], figures[b]) for a, b in labels})


def _are(labels: list[str]) -> str:
    return f"{_some(labels)} {'is' if len(labels) == 1 else 'are'}"


def _s(labels: list[str]) -> str:
    return "s" if len(labels) > 1 else ""


def _some(labels: list[str]) -> str:
    return words.some(labels, SHOWN)


def _num_negatives(row: Row) -> float | None:
    counts = [run.summary["negatives_per_query"] for run in row.runs]
    return max(counts) if counts and None not in counts else None


def _epochs(comparison: Comparison) -> str:
    epochs = sorted({int(run.settings["epochs"]) for run in comparison.runs})
    return words.count(epochs[0], "epoch") if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]} epochs"
