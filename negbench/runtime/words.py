"""Numbers, lists and times as a person reads them."""

import difflib
import math
import shlex
from collections.abc import Iterable
from pathlib import Path

NOTHING = "–"


def number(value: float) -> str:
    """Return three significant digits, and all digits before the point."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞"
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def parts(text: str) -> list[str]:
    """Return the parts of `a, b`; empty ones are left out."""
    return [part.strip() for part in text.split(",") if part.strip()]


def command(*parts: object) -> str:
    """Return `negbench PARTS` as a shell takes it; no path is taken for an option."""
    texts = [f"./{part}" if isinstance(part, Path) and str(part).startswith("-") else str(part) for part in parts]
    return shlex.join(["negbench", *texts])


def listed(parts: list[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def some(parts: list[str], most: int) -> str:
    """Return the first `most` parts, as `listed`, and how many more there are."""
    return listed(parts if len(parts) <= most else [*parts[:most], f"{len(parts) - most} more"])


def setting(key: str, value: object) -> str:
    """Return `lr=0.1`; the method's own keys lose their group."""
    return f"{key.removeprefix('method.')}={value}"


def label(method: str, settings: list[str]) -> str:
    """Return `adco (epochs=10, lr=0.1)`."""
    return f"{method} ({', '.join(settings)})" if settings else method


def count(number: int, noun: str) -> str:
    """Return `1 run` or `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    if math.isinf(seconds):
        return "∞"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"


def inert(text: str) -> str:
    """Return a text for a CSV file, of which no spreadsheet makes a formula: one that it would begins with `'`."""
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` for the known word closest to `word`, or "" if none is close.

    The last parts of dotted words are compared too: `warmup` is close to `schedule.warmup_epochs`.
    """
    known = list(known)
    by_last_part = {full.rpartition(".")[2]: full for full in reversed(known)}
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    found += [by_last_part[part] for part in difflib.get_close_matches(word.rpartition(".")[2], by_last_part, n=1)]
    return f", did you mean {found[0]!r}?" if found else ""
