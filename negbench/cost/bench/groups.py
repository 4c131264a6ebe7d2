"""What a bench steps: groups of methods that are timed together, at the study's own setting and along two sweeps."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from negbench.runtime.errors import UserError
from negbench.settings.keys import flatten, is_own
from negbench.settings.plugins.find import find_method
from negbench.settings.resolve import Resolved, resolve, size_of
from negbench.settings.schema import RunConfig
from negbench.settings.steps import check_batch

SMALLEST_NUM_NEGATIVES, LARGEST_NUM_NEGATIVES = 256, {"cpu": 65_536, "cuda": 1_048_576}  # of the default sweep
LARGEST_SIZE = 2**40  # beyond any memory, and small enough for bytes to be counted in 64 bits
NUM_NEGATIVES_FACTOR, BATCH_SIZE_FACTOR = 4, 2


@dataclass(frozen=True)
class BenchGroup:
    """Methods that take turns."""

    kind: str  # "study" for the study's own setting, or what is swept: "num_negatives", "batch_size"
    value: int | None  # of the setting that is swept
    methods: tuple[Resolved, ...]

    @property
    def title(self) -> str:
        return f"{self.kind} {self.value:,}" if self.value is not None else "the study's own setting"

    @property
    def config(self) -> RunConfig[Any]:
        """The settings of its first method, which the others share but for their own."""
        return self.methods[0].config


@dataclass(frozen=True)
class Sizes:
    """One size that replaces the study's, or several to sweep."""

    single: int | None = None
    swept: tuple[int, ...] = ()


def parse_sizes(option: str, text: str | None, factor: int) -> Sizes | None:
    """Return the sizes of `N`, or of `LOW:HIGH`: LOW times powers of `factor` below HIGH, and HIGH.

    None without the option; UserError for any other text.
    """
    if text is None:
        return None
    parts = text.split(":")
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit()]
    if len(numbers) != len(parts) or len(parts) > 2 or not 1 <= numbers[0] <= numbers[-1]:
        raise UserError(f"{option} {text}: give one number N, or LOW:HIGH with 1 <= LOW <= HIGH, as 256:65536")
    if numbers[-1] > LARGEST_SIZE:
        raise UserError(f"{option} {text}: a size is at most 2**40, which is {LARGEST_SIZE:,}")
    return Sizes(single=numbers[0]) if len(numbers) == 1 else Sizes(swept=_powers(numbers[0], numbers[1], factor))


def _powers(low: int, high: int, factor: int) -> tuple[int, ...]:
    sizes = []
    while low < high:
        sizes.append(low)
        low *= factor
    return *sizes, high


def make_groups(
    names: Sequence[str],
    study: str,
    overrides: Sequence[str],
    num_negatives: Sizes | None = None,
    batch_size: Sizes | None = None,
    largest_num_negatives: int = LARGEST_NUM_NEGATIVES["cpu"],
) -> list[BenchGroup]:
    """Return the groups, first that of the study's own setting. UserError for the user's mistakes.

    By default K is swept from 256 to the largest, and the batch from half the study's to four times it. A size that all
    methods have in the study's own setting is not stepped twice.
    """
    asked = num_negatives is not None
    if num_negatives is None:
        num_negatives = Sizes(swept=_powers(SMALLEST_NUM_NEGATIVES, largest_num_negatives, NUM_NEGATIVES_FACTOR))

    def at(name: str, num_negatives: int | None, batch_size: int | None) -> Resolved:
        sizes = {"method.num_negatives": num_negatives, "batch_size": batch_size}
        chosen = [f"{key}={size}" for key, size in sizes.items() if size is not None]
        return resolve(name, study, [*overrides, *chosen])

    called = [find_method(name).name for name in names]
    for name in called:
        if called.count(name) > 1:
            raise UserError(f"--methods names {name} twice; name each method once")
    batch = batch_size.single if batch_size else None
    main = []
    for name in names:
        has_size = size_of(at(name, None, batch)) is not None
        main.append(at(name, num_negatives.single if has_size else None, batch))
    _check_equal_settings(main)
    config = main[0].config
    check_batch(config, 1)
    groups = [BenchGroup("study", None, tuple(main))]
    sized = [(name, size_of(resolved)) for name, resolved in zip(names, main, strict=True) if size_of(resolved)]
    if not sized and asked:
        raise UserError(
            f"--num-negatives: none of the methods ({', '.join(names)}) has the setting method.num_negatives; "
            "leave the option out, or add a method that has it"
        )
    for size in num_negatives.swept if sized else ():
        if any(own != size for _, own in sized):
            groups.append(BenchGroup("num_negatives", size, tuple(at(name, size, batch) for name, _ in sized)))
    for size in batch_size.swept if batch_size else _around(config):
        if size != config.batch_size:
            methods = tuple(at(name, size_of(own), size) for name, own in zip(names, main, strict=True))
            check_batch(methods[0].config, 1)
            groups.append(BenchGroup("batch_size", size, methods))
    return groups


def _check_equal_settings(methods: Sequence[Resolved]) -> None:
    """UserError if methods differ in a setting that is not their own."""
    first, *others = (flatten(resolved.config) for resolved in methods)
    for other in others:
        for key, value in first.items():
            if not is_own(key) and other[key] != value:
                raise UserError(
                    f"{key} is {value} for {first['method.name']} and {other[key]} for {other['method.name']}; a bench "
                    "compares methods that share all but their own settings, as in a study of track: controlled"
                )


def _around(config: RunConfig[Any]) -> list[int]:
    """Return half the batch size to four times it, as far as BatchNorm's groups permit."""
    sizes = []
    for size in (config.batch_size // 2, config.batch_size, 2 * config.batch_size, 4 * config.batch_size):
        with suppress(UserError):
            check_batch(config.model_copy(update={"batch_size": size}), 1)
            sizes.append(size)
    return sizes
