"""The values that a study's trials are drawn from, and the draw."""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from negbench.runtime.errors import UserError
from negbench.runtime.words import did_you_mean
from negbench.settings.keys import OWN, Flat, flatten, flatten_raw, is_own, is_scientific, leaves
from negbench.settings.resolve import Resolved
from negbench.settings.study import block_of, check_blocks, pop_blocks, read_study

Space = dict[str, list[Any]]  # dotted key -> values


NOT_DRAWN = ("seed", "study", "track", "note", "epochs", "data.", "evaluation.")  # the same for all trials


def read_space(resolved: Resolved, methods: Sequence[str]) -> Space:
    """Return the values in the study's `tuning` block for the run's method, one of `methods`: those for all come first.

    UserError if there are none, or if a key cannot be tuned.
    """
    path = resolved.study_file
    where = f"{path}: tuning"
    raw = dict(read_study(path).tuning)
    blocks = pop_blocks(raw, where)
    method = resolved.method_file.name
    check_blocks(blocks, f"{where}.per_method", methods)
    space = flatten_raw(raw) | block_of(blocks, method)
    if not space:
        raise UserError(
            f"{path} says nothing of what may be tuned for {method}; write, as configs/quickstart.yaml does, "
            "tuning: {optimizer.lr: [0.1, 0.2, 0.4]}"
        )
    known = [key for key, field in leaves(type(resolved.config)) if is_scientific(field)]
    for key, values in space.items():
        if key not in known or key.startswith(NOT_DRAWN):
            unknown = "names the unknown key" if key not in flatten(resolved.config) else "must not draw"
            raise UserError(f"{where} {unknown} {key}{did_you_mean(key, known)}")
        if resolved.config.track == "controlled" and not is_own(key):
            raise UserError(
                f"{where} draws {key}, but in a controlled study a method may have only {OWN} of "
                "its own; leave it out, or set track: recipe"
            )
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}.{key} must be a list of values to draw from, not {values!r}")
        if not all(isinstance(value, str | int | float | list | None) for value in values):
            raise UserError(f"{where}.{key} holds something else than numbers and words: {values!r}")
        if len({repr(value) for value in values}) < len(values):
            raise UserError(f"{where}.{key} holds a value twice: {values!r}")
        if resolved.origins.get(key) == "--set":
            raise UserError(f"--set {key} fixes what the study's tuning draws; leave one of them out")
    return space


def draw(space: Space, num_trials: int, *names: object) -> list[Flat]:
    """Return `num_trials` different combinations, random by `names` alone; those of fewer trials come first.

    Each key goes through all of its values, in random order, before it has one of them again (a Latin hypercube on a
    grid: McKay et al. 1979), so that few trials cover each key evenly. UserError if there are too few combinations.
    """
    size = math.prod(len(values) for values in space.values())
    if num_trials > size:
        raise UserError(f"{num_trials} trials are more than the {size} combinations that there are for {names[-1]}")
    columns = [_endless(values, "tune", *names, key) for key, values in space.items()]
    chosen: dict[str, Flat] = {}
    for combination in zip(*columns, strict=True):
        trial = dict(zip(space, combination, strict=True))
        chosen.setdefault(repr(trial), trial)
        if len(chosen) == num_trials:
            break
    return list(chosen.values())


def at_edges(space: Space, chosen: Flat) -> Iterator[tuple[str, str]]:
    """Yield keys whose chosen number is the lowest or the highest of three or more, with "lowest" or "highest"."""
    for key, values in space.items():
        if len(values) >= 3 and all(_is_number(value) for value in values):
            if chosen[key] == min(values):
                yield key, "lowest"
            elif chosen[key] == max(values):
                yield key, "highest"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _endless(values: Sequence[Any], *names: object) -> Iterator[Any]:
    stream = random.Random(repr(names))
    for _ in itertools.count():
        yield from stream.sample(values, len(values))
