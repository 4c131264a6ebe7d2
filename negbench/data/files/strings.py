"""Many strings in two tensors, and checks of arrays that a file holds.

Shape legend: N strings or numbers.
"""

import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Arrays = dict[str, Any]  # of numpy


@dataclass(frozen=True)
class Strings:
    """Strings in two tensors: their bytes one after another (uint8), and where each ends (int64 [N])."""

    text: Tensor
    ends_N: Tensor

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Strings":
        text, ends = bytearray(), array("q")
        for string in strings:
            text += os.fsencode(string)
            ends.append(len(text))
        return cls(tensor_of(text, np.uint8), tensor_of(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends_N)

    def __getitem__(self, position: int) -> str:
        start = int(self.ends_N[position - 1]) if position else 0
        return os.fsdecode(self.text[start : int(self.ends_N[position])].numpy().tobytes())

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(self[position] for position in range(len(self)))

    def to_arrays(self, kind: str) -> Arrays:
        return {f"{kind}_text": self.text.numpy(), f"{kind}_ends": self.ends_N.numpy()}

    @classmethod
    def from_arrays(cls, kind: str, arrays: Any) -> "Strings":
        """Return what `to_arrays(kind)` gave. KeyError if an array is missing, ValueError if it is another one."""
        text = numbers_from(arrays, f"{kind}_text", torch.uint8, 0, 255)
        ends_N = numbers_from(arrays, f"{kind}_ends", torch.int64, 0, len(text))
        if (ends_N.diff() < 0).any() or (int(ends_N[-1]) if len(ends_N) else 0) != len(text):
            raise ValueError(f"{kind}_ends do not fit {kind}_text")
        return cls(text, ends_N)


def numbers_from(arrays: Any, name: str, dtype: torch.dtype, lowest: int, highest: int) -> Tensor:
    """Return the array `name` as a tensor [N]. ValueError if it is of another type or has numbers out of the range."""
    numbers_N = torch.from_numpy(arrays[name])
    if numbers_N.dtype != dtype or numbers_N.ndim != 1:
        raise ValueError(f"{name} is no row of {dtype}")
    if len(numbers_N) and not lowest <= int(numbers_N.min()) <= int(numbers_N.max()) <= highest:
        raise ValueError(f"{name} has numbers out of {lowest} to {highest}")
    return numbers_N


def tensor_of(buffer: "bytearray | array[int]", dtype: Any) -> Tensor:
    return torch.from_numpy(np.frombuffer(buffer, dtype))
