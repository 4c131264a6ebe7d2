"""What the files that `benchmarks.same_results` compares hold: numbers, texts and tensors by their keys."""

import csv
import hashlib
import json
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml


class Exact(str):
    """A text that must not change."""


def read(file: Path) -> Any:
    """The content by the kind of file; of a kind that is not known a digest."""
    return READERS.get(file.suffix, _digest)(file)


def leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A key that is a sentence is a text, and stands by its number."""
    if isinstance(content, dict | list | tuple) and not content:
        yield path, Exact("empty")
    elif isinstance(content, dict):
        for number, (key, value) in enumerate(content.items()):
            is_sentence = " " in str(key)
            if is_sentence:
                yield (*path, f"sentence {number}"), str(key)
            yield from leaves(value, (*path, f"value {number}" if is_sentence else str(key)))
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from leaves(value, (*path, str(number)))
    else:
        yield path, content


def _digest(file: Path) -> Exact:
    return Exact(hashlib.sha256(file.read_bytes()).hexdigest())


def _csv(file: Path) -> list[dict[str, Any]]:
    """Cells are numbers, or identifiers and texts."""
    with open(file, newline="") as lines:
        return [{column: _number(cell) for column, cell in row.items()} for row in csv.DictReader(lines)]


def _number(cell: str) -> float | str:
    try:
        return float(cell)
    except ValueError:
        return cell


def _markdown(file: Path) -> list[Any]:
    """Of each line its text, and of a table's line the numbers, which must not change."""
    lines = file.read_text().splitlines()
    numbers = (re.findall(r"\d[\d.,]*", line) if line.startswith("|") else [] for line in lines)
    return [[f"{line} ", Exact(" ".join(found))] for line, found in zip(lines, numbers, strict=True)]


def _table(file: Path) -> dict[str, Exact]:
    """Lines by their first word."""
    lines = (line.split(maxsplit=1) for line in file.read_text().splitlines())
    return {key: Exact(" ".join(" ".join(rest).split())) for key, *rest in lines}


def _onnx(file: Path) -> dict[str, Any]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph
    weights = {weight.name: torch.from_numpy(numpy_helper.to_array(weight).copy()) for weight in graph.initializer}
    return {"operations": [node.op_type for node in graph.node], "weights": weights}


def _pickle(file: Path) -> Any:
    """A file that a command of this script has written: arrays become tensors."""
    content = pickle.loads(file.read_bytes())
    model = {key: torch.as_tensor(array) for key, array in content["model"].items()}
    return content | {"model": model}


def _safetensors(file: Path) -> dict[str, Any]:
    from safetensors import safe_open

    """Some of the metadata is JSON."""
    with safe_open(file, "pt") as opened:
        return {
            "metadata": {key: _parsed(text) for key, text in (opened.metadata() or {}).items()},
            "tensors": {key: opened.get_tensor(key) for key in list(opened.keys())},
        }


def _parsed(text: str) -> Any:
    return json.loads(text) if text.startswith("{") else text


def _state(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _text(file: Path) -> str:
    return f"{file.read_text()} "


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda file: json.loads(file.read_text()),
    ".jsonl": lambda file: [json.loads(line) for line in file.read_text().splitlines()],
    ".yaml": lambda file: yaml.safe_load(file.read_text()),
    ".csv": _csv,
    ".md": _markdown,
    ".table": _table,
    ".html": _text,
    ".tex": _text,
    ".txt": _text,
    ".pt": _state,
    ".pth": _state,
    ".safetensors": _safetensors,
    ".pkl": _pickle,
    ".onnx": _onnx,
    ".png": lambda file: f"picture {_digest(file)}",
}
