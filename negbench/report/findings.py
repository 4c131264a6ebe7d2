"""What the numbers say, in plain words. Every sentence is computed; none says more than its interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from negbench.report import text
from negbench.report.accuracy import METRICS, is_beyond_chance, main_metric
from negbench.report.comparisons import Comparison, Row
from negbench.report.cost import time_ratio
from negbench.report.runs import cumulative
from negbench.report.statistics import Difference, holm, paired_difference, t_interval

SHOWN = 6  # rows that a sentence names


@dataclass(frozen=True)
class Finding:
    question: str
    answer: str


@dataclass(frozen=True)
class Lead:
    """One row against another, with p after Holm's correction over what it stands among."""

    other: Row
    difference: Difference
    p_holm: float

    @property
    def is_beyond_chance(self) -> bool:
        return is_beyond_chance(self.difference, self.p_holm)


def findings(comparison: Comparison, baseline: str) -> list[Finding]:
    """Best at equal epochs, best at equal cost, whether negatives were needed, and the time that each source takes."""
    metric = main_metric(comparison)
    if metric is None:
        return [Finding("Which source is best?", "No run of this comparison is finished, so nothing can be said.")]
    found = [Finding("Which source is best at equal epochs?", _at_equal_epochs(comparison, metric))]
    for part in comparison.by_hardware():
        where = f" on {part.hardware}" if part.hardware and len(comparison.by_hardware()) > 1 else ""
        if answer := _at_equal_cost(part):
            found.append(Finding(f"Which source is best at equal cost{where}?", answer))
    if answer := _without_negatives(comparison, metric):
        found.append(Finding("Were negatives needed?", answer))
    for part in comparison.by_hardware():
        where = f" on {part.hardware}" if len(comparison.by_hardware()) > 1 else ""
        if answer := _time(part, baseline):
            found.append(Finding(f"What does each source cost{where}?", answer))
    return found


def _at_equal_epochs(comparison: Comparison, metric: str) -> str:
    figures = {row.label: row.by_seed(metric) for row in comparison.rows}
    return _ranking(comparison.rows, figures, f"After {_epochs(comparison)}", METRICS[metric])


def _at_equal_cost(comparison: Comparison) -> str:
    """On the validation curve, at what the cheapest row spends in all."""
    rows = [row for row in comparison.rows if any(run.curve for run in row.runs)]
    if len({row.label for row in rows}) < 2:
        return ""
    totals = {row.label: [float(cumulative(run, "device_hours")[-1]) for run in row.runs if run.curve] for row in rows}
    budget = min(min(total) for total in totals.values())
    cheapest = min(totals, key=lambda label: min(totals[label]))
    figures: dict[str, dict[int, float]] = {}
    for row in rows:
        figures[row.label] = {}
        for run in row.runs:
            if run.curve:
                affordable = run.curve["knn_top1"][cumulative(run, "device_hours") <= budget]
                if len(affordable):
                    figures[row.label][run.seed] = float(affordable[-1])
    start = f"After {text.number(budget * 60)} device-minutes, which is all that the fastest run ({cheapest}) took"
    answer = _ranking(rows, figures, start, METRICS["knn_top1_validation"])
    return answer + " The others were stopped within their schedules there, which costs them accuracy."


def _without_negatives(comparison: Comparison, metric: str) -> str:
    """Each row with negatives against each without."""
    without = [row for row in comparison.rows if row.runs and _num_negatives(row) == 0]
    with_negatives = [row for row in comparison.rows if row.runs and _num_negatives(row) > 0]
    if not without or not with_negatives:
        return ""
    sentences = []
    for alone in without:
        none = alone.by_seed(metric)
        against = _leads([(row, paired_difference(row.by_seed(metric), none)) for row in with_negatives])
        better = [lead for lead in against if lead.is_beyond_chance and lead.difference.centre > 0]
        worse = [lead for lead in against if lead.is_beyond_chance and lead.difference.centre < 0]
        if all(math.isnan(lead.p_holm) for lead in against):
            verdict = f"The seeds do not tell: differences to {alone.label}, which has none, cannot be tested"
        elif better:
            names = text.listed([lead.other.label for lead in better[:SHOWN]])
            verdict = f"They helped: {names} {'is' if len(better) == 1 else 'are'} beyond chance ahead of {alone.label}"
        elif worse:
            names = text.listed([lead.other.label for lead in worse[:SHOWN]])
            verdict = f"No: {alone.label}, which has none, is beyond chance ahead of {names}"
        else:
            verdict = (
                f"That is not settled: no row with negatives differs beyond chance from {alone.label}, which has none"
            )
        shown = [f"{lead.other.label} {text.points(lead.difference)}" for lead in against[:SHOWN]]
        more = f", and {len(against) - SHOWN} more in the table" if len(against) > SHOWN else ""
        sentences.append(f"{verdict}. Differences in {METRICS[metric]}, points: {', '.join(shown)}{more}.")
    return " ".join(sentences)


def _time(comparison: Comparison, baseline: str) -> str:
    ratios = {row.label: time_ratio(comparison, row, baseline) for row in comparison.rows}
    known = sorted((ratio.centre, label, text.ratio(ratio)) for label, ratio in ratios.items() if ratio and ratio.n)
    if not known:
        return ""
    shown = known if len(known) <= SHOWN else [*known[: SHOWN // 2], *known[-SHOWN // 2 :]]
    more = f" (the fastest and slowest of {len(known)})" if len(known) > SHOWN else ""
    parts = text.listed([f"{label} {ratio}" for _, label, ratio in shown])
    return f"Seconds an epoch, as a multiple of {baseline}'s: {parts}{more}."


def _ranking(rows: Sequence[Row], figures: Mapping[str, Mapping[int, float]], start: str, title: str) -> str:
    known = [row for row in rows if figures[row.label]]
    means = {row.label: t_interval(list(figures[row.label].values())) for row in known}
    known.sort(key=lambda row: -means[row.label].centre)
    best, rest = known[0], known[1:]
    seeds = means[best.label].n
    start = f"{start}, {best.label} has {text.percent(means[best.label])}% {title} ({_seeds(seeds)})"
    if not rest:
        return f"{start}; it is the only row, so there is nothing to compare it with."
    tied = [row.label for row in rest if means[row.label].centre == means[best.label].centre]
    if tied:
        start += f", as {text.listed(tied)} {'has' if len(tied) == 1 else 'have'}"
    leads = _leads([(row, paired_difference(figures[best.label], figures[row.label])) for row in rest])
    shown = [f"{text.points(lead.difference)} over {lead.other.label}" for lead in leads[:SHOWN] if lead.difference.n]
    if not shown:
        return f"{start}. No other row shares a seed with it, so no difference can be paired."
    more = f" and {len(leads) - SHOWN} more rows (see the table)" if len(leads) > SHOWN else ""
    sentence = f"{start}: {', '.join(shown)}{more} (points, paired by seed)."
    if all(math.isnan(lead.difference.low) for lead in leads):
        return f"{sentence} With one seed each nothing can be said about how sure that is."
    sure = [lead.other.label for lead in leads if lead.is_beyond_chance]
    unsure = [lead.other.label for lead in leads if not lead.is_beyond_chance]
    if not unsure:
        return f"{sentence} After Holm's correction every one of these leads is beyond chance at 5%."
    if not sure:
        return (
            f"{sentence} After Holm's correction none of these leads is beyond chance at 5%: no order is established."
        )
    return (
        f"{sentence} After Holm's correction the lead over {_some(sure)} is beyond chance at 5%, "
        f"that over {_some(unsure)} is not."
    )


def _leads(pairs: Sequence[tuple[Row, Difference]]) -> list[Lead]:
    adjusted = holm([difference.p for _, difference in pairs])
    return [Lead(row, difference, p) for (row, difference), p in zip(pairs, adjusted, strict=True)]


def _some(labels: list[str]) -> str:
    shown = labels[:SHOWN]
    return text.listed(shown if len(shown) == len(labels) else [*shown, f"{len(labels) - SHOWN} more"])


def _num_negatives(row: Row) -> float:
    return max(float(run.summary["negatives_per_query"] or 0) for run in row.runs)


def _epochs(comparison: Comparison) -> str:
    epochs = comparison.settings.get("epochs")
    return f"{epochs} epochs" if epochs else "training"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"
