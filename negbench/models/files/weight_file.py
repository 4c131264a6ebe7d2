"""Files of weights, read as tensors and plain values alone: a file that would run code is refused."""

import hashlib
import io
import json
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ValidationError

from negbench.records.files import read_json
from negbench.records.run import checkpoint, checkpoint_files
from negbench.runtime.errors import UserError
from negbench.runtime.kind_of_file import HEAD_BYTES, looks_like
from negbench.settings.group import Triple

_NEEDS_CODE = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message on what it does not unpickle


@dataclass(frozen=True)
class WeightFile:
    """What a file holds. `facts` are negbench's from its export, in safetensors' metadata or beside the file."""

    path: Path
    sha256: str
    content: dict[str, Any]
    facts: dict[str, Any]


class Normalisation(BaseModel):
    """Mean and standard deviation of images in [0, 1], by channel."""

    mean: Triple
    std: Triple


def read(path: Path) -> WeightFile:
    """Return the file's content on the CPU. UserError if it cannot be read, is damaged, or would run code.

    Its first bytes, not its name, show whether it is safetensors or torch.save's.
    """
    try:
        content = checkpoint_files.read_whole(path) if checkpoint_files.has_checksum(path) else path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is neither a run folder nor a file {path}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    facts = read_json(facts_beside(path))
    if (kind := kind_of(content)) is not None:
        raise UserError(f"{path} is no file of weights: it is {kind}")
    if content[8:9] == b"{":
        values, metadata = _read_safetensors(path, content)
        facts = metadata or facts
    else:
        values = _read_torch(path, content)
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}; a file of weights holds names and tensors")
    checkpoint.check_version(path, values)
    return WeightFile(path, hashlib.sha256(content).hexdigest(), values, _known(facts))


def _known(facts: Any) -> dict[str, Any]:
    """Return the facts if negbench wrote them, else none."""
    try:
        return dict(facts) if Normalisation.model_validate(facts["normalisation"]) else {}
    except (KeyError, TypeError, ValidationError):
        return {}


def facts_beside(path: Path) -> Path:
    """Return the path of an exported file's facts."""
    return path.with_name(path.name + ".json")


def _read_safetensors(path: Path, content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return tensors, json.loads(header.get("__metadata__", {}).get("negbench", "{}"))
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged: as safetensors it cannot be read ({error})") from None


def _read_torch(path: Path, content: bytes) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise nearly any
        said = str(error)
        name = match[1] if (match := _NEEDS_CODE.search(said)) else ""
        if name or "TorchScript" in said or ("Unsupported operand" in said and content.startswith(b"\x80")):
            raise UserError(
                f"{path} is not loaded: reading {name or 'what it holds'} would run code of the file's; if you trust "
                "its source, keep its weights alone, with torch.save(torch.load(FILE, 'cpu', weights_only=False)"
                "['state_dict'], NEW), or the key that it has for them"
            ) from None
        raise UserError(
            f"{path} is damaged or no file of weights: neither torch.load nor safetensors reads it; compare its size, "
            f"{len(content):,} bytes, and its checksum with its source's, and copy it again if they differ"
        ) from None


def kind_of(content: bytes) -> str | None:
    """Return what a file is that surely holds no weights in a form that is read, with a way out; None for all else."""
    if content.startswith(b"PK\x03\x04"):
        return _kind_of_archive(content)
    if b"onnx" in content[:HEAD_BYTES] or (content[:1] == b"\x08" and b"pytorch" in content[:64]):
        return "an ONNX model; keep the state_dict that it was exported from"
    kind = looks_like(content[:HEAD_BYTES])
    if kind is None or kind == "a tar archive" or (content[8:9] == b"{" and "begins" not in kind):
        return None
    if kind.startswith("a text") and b"model_checkpoint_path" in content[:HEAD_BYTES]:
        return "the index of TensorFlow checkpoints; negbench reads weights of PyTorch and safetensors alone"
    return kind + ("; unpack it first" if kind.startswith(("compressed", "a 7z", "a RAR")) else "")


def _kind_of_archive(content: bytes) -> str | None:
    try:
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    except zipfile.BadZipFile:
        return f"a zip archive whose end is missing after {len(content):,} bytes, so it was cut short; copy it again"
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return (
            "a set of NumPy arrays (.npz); save them as tensors under their names: "
            "torch.save({name: torch.from_numpy(array) for name, array in numpy.load(FILE).items()}, NEW)"
        )
    return f"a zip archive of {', '.join(names[:3]) or 'nothing'}{', ...' if len(names) > 3 else ''}; unpack it first"
