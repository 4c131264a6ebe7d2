"""What a comparison is made of: groups of sides that take turns, ratios of their seconds, and goals for these."""

from dataclasses import dataclass
from typing import Any, Literal

IMAGES = "{images}"  # among a side's arguments: the folder of JPEGs


@dataclass(frozen=True)
class Goal:
    direction: Literal["at least", "at most"]
    number: float

    def __str__(self) -> str:
        return f"{self.direction} {self.number:g}"

    def reached_by(self, value: float) -> bool:
        return value >= self.number if self.direction == "at least" else value <= self.number


def at_least(number: float) -> Goal:
    return Goal("at least", number)


def at_most(number: float) -> Goal:
    return Goal("at most", number)


@dataclass(frozen=True)
class Side:
    """A process: a module of this package and its arguments, run by this Python or by the peers' own."""

    name: str
    module: str
    arguments: tuple[str, ...]
    images: int  # a step
    steps: int = 1  # timed ones a turn, enough for 0.2 s
    peer: bool = False
    one_thread: bool = False


@dataclass(frozen=True)
class Comparison:
    """What the side `above` takes over what `below` takes, in each round; of bytes the difference."""

    label: str
    above: str
    below: str
    goal: Goal | None = None


@dataclass(frozen=True)
class Group:
    """Sides that are alive at once and take turns. With unit "bytes" each is alone and says once what it took."""

    name: str
    title: str
    sides: tuple[Side, ...]
    comparisons: tuple[Comparison, ...]
    unit: Literal["seconds", "bytes"] = "seconds"

    @property
    def reads_images(self) -> bool:
        return any(IMAGES in side.arguments for side in self.sides)


@dataclass(frozen=True)
class Measured:
    """A group with what each side took by round. A side that was left out has a reason instead of values."""

    group: Group
    values: dict[str, list[float]]
    left_out: dict[str, str]


def from_json(values: dict[str, Any]) -> Measured:
    group = values["group"]
    sides = tuple(Side(**side | {"arguments": tuple(side["arguments"])}) for side in group["sides"])
    comparisons = tuple(Comparison(**c | {"goal": c["goal"] and Goal(**c["goal"])}) for c in group["comparisons"])
    whole = Group(**group | {"sides": sides, "comparisons": comparisons})
    return Measured(whole, values["values"], values["left_out"])
