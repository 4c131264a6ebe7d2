"""Backbones below names and tables that negbench does not know: what wrappers and other packages put around them.

A ResNet is recognised by two of its weights, whatever is before their names: `module.encoder.`, `backbone.`,
`teacher.` or `classy_state_dict.base_model.model.trunk.`. Layers may be numbered, as `nn.Sequential` numbers them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from negbench.models.files.architecture import State, first_of, nearest_architecture

_OF_SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_WITHOUT_POOL = {"0": "conv1", "1": "bn1", "3": "layer1", "4": "layer2", "5": "layer3", "6": "layer4"}
_SIGNS: tuple[tuple[str, str, Mapping[str, str]], ...] = (  # two weights, and ours for their first parts of names
    ("conv1.weight", "layer1.0.conv1.weight", {}),
    ("0.weight", "4.0.conv1.weight", _OF_SEQUENTIAL),
    ("0.weight", "3.0.conv1.weight", _WITHOUT_POOL),
    ("0.weight", "3.conv1.weight", {}),  # a ResNet-8
)
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # within names
_COPIES = ("momentum", "target", "ema", "key", "encoder_k", "student")  # less the encoder than one without these words
_DEPTH = 6  # of tables within tables


@dataclass(frozen=True)
class Wrapped:
    """A table of weights, where it is in the file, and what is before the backbone's names in it."""

    path: tuple[str, ...]
    table: dict[str, Any]
    prefix: str
    parts: Mapping[str, str]

    @property
    def name(self) -> str:
        return ".".join([*self.path, self.prefix]).rstrip(".")


def without_wrappers(table: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the table without what torch.compile and others put within names."""
    return {_WRAPPERS.sub("", key) if isinstance(key, str) else key: value for key, value in table.items()}


def find_wrapped(content: dict[str, Any]) -> list[Wrapped]:
    """Return the backbones in a file, first the one that its authors evaluate: no momentum copy, but DINO's teacher."""
    found = [
        Wrapped(path, table, name.removesuffix(first), parts)
        for path, table in _tables(content)
        for first, second, parts in _SIGNS
        for name in table
        if (f".{name}").endswith(f".{first}") and name.removesuffix(first) + second in table
    ]
    return sorted(found, key=lambda each: _is_copy(each.name))


def what_it_holds(content: dict[str, Any]) -> str:
    """Return the first names of weights with where they are, and the nearest architecture with what differs."""
    tables = list(_tables(content))
    if not tables:
        return f"it holds no weights, but {first_of(map(str, content))}" if content else "it holds nothing"
    path, table = max(tables, key=lambda item: len(item[1]))
    where = f" within {'.'.join(path)}" if path else ""
    weights: State = {name: value for name, value in table.items() if isinstance(value, Tensor)}
    model, differences = nearest_architecture(_less_common(weights))
    return (
        f"it holds {len(weights)} weights{where} ({first_of(weights)}); of {model.name} with the stem {model.stem}, "
        f"the nearest, {differences}; rename its backbone's weights as torchvision names them (conv1.weight, "
        "layer1.0.conv1.weight, ...) and save them alone"
    )


def _less_common(weights: State) -> State:
    """Return the weights without the parts that all names begin with."""
    names = [name.split(".") for name in weights]
    common = 0
    while all(len(name) > common + 1 and name[common] == names[0][common] for name in names):
        common += 1
    return {".".join(name.split(".")[common:]): value for name, value in weights.items()}


def _tables(content: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every table with tensors under names, and where it is, outer ones first."""
    table = without_wrappers({key: value for key, value in content.items() if isinstance(key, str)})
    if any(isinstance(value, Tensor) for value in table.values()):
        yield path, table
    for key, value in table.items():
        if isinstance(value, dict) and len(path) < _DEPTH:
            yield from _tables(value, (*path, key))


def _is_copy(name: str) -> bool:
    return any(word in part for part in name.lower().split(".") for word in _COPIES)
