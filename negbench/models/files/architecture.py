"""Finding the backbone that a set of weights belongs to, and what does not match."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from negbench.models.backbones import build_backbone
from negbench.settings.plugins.find import BACKBONE, list_plugins
from negbench.settings.schema import ModelConfig

State = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
_SHOWN = 3
COUNTER = "num_batches_tracked"  # of BatchNorm: no evaluation depends on it, and old files lack it


@dataclass(frozen=True)
class Differences:
    """Names of weights by how they differ from an architecture's."""

    missing: list[str]
    reshaped: list[str]
    foreign: list[str]  # unexpected, in a part that the backbone has
    elsewhere: list[str]  # unexpected, in other parts: no feature depends on it

    @property
    def count(self) -> int:
        return len(self.missing) + len(self.reshaped) + len(self.foreign)

    def __str__(self) -> str:
        kinds = {"missing": self.missing, "of another shape": self.reshaped, "unexpected": self.foreign}
        return "; ".join(f"{len(names)} {kind} ({first_of(names)})" for kind, names in kinds.items() if names)


@cache
def architectures() -> dict[ModelConfig, Shapes]:
    """Return names and shapes of the weights of every backbone that a run can have."""
    known: dict[ModelConfig, Shapes] = {}
    for file in list_plugins(BACKBONE).values():
        for stem in file.facts.stems:
            model = ModelConfig(name=file.name, stem=stem)
            try:
                known[model] = _shapes(model)
            except Exception:  # a broken package must not take the others along
                if file.giver == "negbench":
                    raise
    return known


def _shapes(model: ModelConfig) -> Shapes:
    with torch.device("meta"):
        backbone, _ = build_backbone(model)
    return {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}


def compare(weights: State, model: ModelConfig) -> Differences:
    """Return how the weights differ from the model's; BatchNorm's counters are ignored."""
    wanted = {name: shape for name, shape in architectures()[model].items() if not name.endswith(COUNTER)}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items() if not name.endswith(COUNTER)}
    parts = {name.partition(".")[0] for name in wanted}
    unexpected = [name for name in given if name not in wanted]
    return Differences(
        missing=[name for name in wanted if name not in given],
        reshaped=[name for name in given if name in wanted and given[name] != wanted[name]],
        foreign=[name for name in unexpected if name.partition(".")[0] in parts],
        elsewhere=[name for name in unexpected if name.partition(".")[0] not in parts],
    )


def nearest_architecture(weights: State) -> tuple[ModelConfig, Differences]:
    """Return the backbone that has no differences, else the one with the most equal weights; and its differences."""
    compared = {model: compare(weights, model) for model in architectures()}

    def distance(model: ModelConfig) -> tuple[bool, int, int]:
        found = compared[model]
        wanted = [name for name in architectures()[model] if not name.endswith(COUNTER)]
        equal = len(wanted) - len(found.missing) - len(found.reshaped)
        return found.count > 0, -equal if found.count else 0, found.count

    model = min(compared, key=distance)
    return model, compared[model]


def first_of(names: Iterable[str]) -> str:
    """Return the first few names, for a sentence."""
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", ..." if len(listed) > _SHOWN else "")
