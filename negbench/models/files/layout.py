"""Encoders in the layouts that files have: ours, torchvision's and timm's, and those of MoCo, AdCo and CaCo.

Sources of the names of weights: maple-research-lab/AdCo, training/main_worker.py and model/AdCo.py;
facebookresearch/moco, main_moco.py and moco/builder.py, and colab/moco_cifar10_demo.ipynb of its branch colab-notebook;
maple-research-lab/CaCo, training/main_worker.py and model/CaCo.py.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from negbench.models.backbones import build_backbone
from negbench.models.encoder import Encoder
from negbench.models.files.architecture import COUNTER, State, first_of, nearest_architecture
from negbench.models.files.weight_file import WeightFile, read
from negbench.models.files.wrapped import find_wrapped, what_it_holds
from negbench.records.run import checkpoint
from negbench.records.run_folder import RunFolder
from negbench.runtime.errors import UserError
from negbench.runtime.words import listed
from negbench.settings.plugins.find import BACKBONE, facts_of
from negbench.settings.schema import ModelConfig


@dataclass(frozen=True)
class Layout:
    """Names of weights: the backbone's are `prefix` and our name, but for `parts`; the head's start with `head`."""

    title: str
    prefix: str
    head: str
    projector: bool = True  # False: the head classifies
    parts: Mapping[str, str] = field(default_factory=dict)  # their first part of a name -> ours


_DEMO = {"0": "conv1", "1": "bn1", "3": "layer1", "4": "layer2", "5": "layer3", "6": "layer4"}
OURS = Layout("negbench", "query_encoder.backbone.", "query_encoder.projector.")
LAYOUTS = (
    OURS,
    Layout("MoCo, AdCo and CaCo", "module.encoder_q.", "module.encoder_q.fc."),
    Layout("MoCo, AdCo and CaCo, of one process", "encoder_q.", "encoder_q.fc."),
    Layout("MoCo's CIFAR-10 demo", "encoder_q.net.", "encoder_q.net.9.", parts=_DEMO),
    Layout("torchvision and timm, in DataParallel", "module.", "module.fc.", projector=False),
    Layout("torchvision and timm", "", "fc.", projector=False),
)
_CONTAINERS = (checkpoint.WEIGHTS, "state_dict", "model")  # keys that may hold the weights
_FIRST = ("conv1.weight", "3.conv1.weight")  # of a ResNet, of a ResNet-8


@dataclass(frozen=True)
class FileEncoder:
    """An encoder in a file: an architecture of ours, its weights by our names, and what else was there."""

    file: WeightFile
    layout: Layout
    model: ModelConfig
    backbone: State
    head: State  # by the names behind the layout's prefix; empty if there is none
    left_out: dict[str, int]  # number of all others by the first two parts of their names

    def build(self) -> Encoder:
        """Return it on the CPU in evaluation mode. Without a projector that fits, embedding raises a UserError."""
        with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are replaced
            backbone, feature_dim = build_backbone(self.model)
            projector = self.projector(feature_dim)
        backbone.load_state_dict(self.backbone, strict=False)  # only counters of batches may be missing
        return Encoder(backbone, projector or NoProjector(self.without_projector), feature_dim).eval()

    def projector(self, feature_dim: int) -> nn.Sequential | None:
        """Return the head on features of that width, None if it is no projector of linear layers."""
        head = build_head(self.head) if self.layout.projector else None
        fits = head is not None and isinstance(head[0], nn.Linear) and head[0].in_features == feature_dim
        return head if fits else None

    @property
    def without_projector(self) -> str:
        return f"{self.file.path} has no projector that fits; only protocols on the backbone's features can evaluate it"

    def describe(self) -> str:
        """Return a sentence that says what was found and what is left out."""
        head = f"{self.layout.head.removeprefix(self.layout.prefix)}* ({len(self.head)} weights of the head)"
        rest = first_of(f"{name}{f' ({count} weights)' if count > 1 else ''}" for name, count in self.left_out.items())
        left_out = [text for text, names in ((head, self.head), (rest, self.left_out)) if names]
        return (
            f"{self.file.path.name}: {self.model.name} with the stem {self.model.stem}, in the layout of "
            f"{self.layout.title}" + (f"; besides its backbone: {', '.join(left_out)}" if left_out else "")
        )


class NoProjector(nn.Module):
    """In place of the projector of a file that has none: a UserError."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def forward(self, features: Tensor) -> Tensor:
        raise UserError(self.reason)


def read_encoder(path: Path) -> FileEncoder:
    """Return the encoder in a file. UserError if it cannot be read, or its backbone is not a whole one of ours."""
    file = read(path)
    for table in _tables(file.content):
        for layout in LAYOUTS:
            backbone, head, rest = _divide(table, layout)
            if any(name in backbone for name in _FIRST) or (backbone and layout is OURS):
                return _recognised(file, layout, backbone, head, [*rest, *_others(file.content, table)])
    for found in find_wrapped(file.content):
        layout = Layout(f"weights below {found.name}", found.prefix, found.prefix + "fc.", False, found.parts)
        backbone, head, rest = _divide(found.table, layout)
        beside = [key for key in file.content if [key] != list(found.path[:1])] if found.path else []
        return _recognised(file, layout, backbone, head, [*rest, *map(str, beside)])
    raise UserError(f"{path} holds no ResNet in a layout that negbench knows; {what_it_holds(file.content)}")


def read_newest(path: Path, purpose: str, warn: Callable[[str], None]) -> FileEncoder:
    """Return the encoder in the newest whole checkpoint of a run folder. UserError if there is none to `purpose`."""
    run = RunFolder(path)
    if not run.config.exists():
        raise UserError(f"{path} is no run folder: it holds no config.yaml")
    newest = checkpoint.find_whole(run.checkpoints, warn)
    if newest is None:
        raise UserError(f"{path} holds no checkpoint to {purpose}; `negbench run` it first")
    encoder = read_encoder(newest)
    checkpoint.check_run(newest, encoder.file.content, path.resolve().name, run.read_summary().get("run_id"))
    return encoder


def run_of(path: Path) -> RunFolder | None:
    """Return the run whose checkpoint is at `path`."""
    run = RunFolder(path.absolute().parent.parent)
    return run if path.absolute().parent == run.checkpoints and run.config.exists() else None


def _recognised(file: WeightFile, layout: Layout, backbone: State, head: State, rest: list[str]) -> FileEncoder:
    model, differences = nearest_architecture(backbone)
    if differences.count:
        torchvisions = [name for name, facts in facts_of(BACKBONE).items() if facts.torchvision]
        raise UserError(
            f"{file.path} is none of {listed(torchvisions)}: of {model.name} with the stem {model.stem}, the nearest, "
            f"{differences}"
        )
    for name, tensor in [*backbone.items(), *head.items()]:
        if not name.endswith(COUNTER) and (problem := _problem(tensor)):
            raise UserError(f"{file.path} cannot be evaluated: its weight {layout.prefix + name} {problem}")
    kept = {name: tensor for name, tensor in backbone.items() if name not in differences.elsewhere}
    others = [*(layout.prefix + name for name in differences.elsewhere), *rest]
    left_out = Counter(".".join(name.split(".")[:2]) for name in others)
    return FileEncoder(file, layout, model, kept, head, dict(left_out))


def _problem(tensor: Tensor) -> str | None:
    if tensor.is_meta or tensor.layout != torch.strided:
        return "is not stored as a dense tensor"
    if not tensor.is_floating_point():
        return f"is of {str(tensor.dtype).removeprefix('torch.')}, and not of floating-point numbers"
    return None if tensor.isfinite().all() else "is not finite"


def _tables(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the tables that may hold the weights: the file itself, and those below some of its keys."""
    yield content
    yield from (content[key] for key in _CONTAINERS if isinstance(content.get(key), dict))


def _others(content: dict[str, Any], table: dict[str, Any]) -> list[str]:
    return [] if table is content else [str(key) for key, value in content.items() if value is not table]


def _divide(table: dict[str, Any], layout: Layout) -> tuple[State, State, list[str]]:
    """Return the backbone's weights and the head's by their names within, and the names of all else."""
    backbone: State = {}
    head: State = {}
    rest: list[str] = []
    for name, value in table.items():
        if (
            not isinstance(name, str)
            or not isinstance(value, Tensor)
            or not name.startswith((layout.prefix, layout.head))
        ):
            rest.append(str(name))
        elif name.startswith(layout.head):
            head[name.removeprefix(layout.head)] = value
        else:
            part, dot, within = name.removeprefix(layout.prefix).partition(".")
            backbone[layout.parts.get(part, part) + dot + within] = value
    return backbone, head, rest


def build_head(weights: State) -> nn.Sequential | None:
    """Return linear layers and BatchNorm as numbered in the weights' names, with ReLU for a number without weights.

    None for anything else.
    """
    numbered = {f"0.{name}": tensor for name, tensor in weights.items()} if "weight" in weights else weights
    layers: dict[int, State] = {}
    for name, tensor in numbered.items():
        place, _, within = name.partition(".")
        if not place.isdecimal() or len(place) > 2:
            return None
        layers.setdefault(int(place), {})[within] = tensor
    modules: list[nn.Module] = []
    for number in range(max(layers, default=-1) + 1):
        layer = layers.get(number, {})
        if not layer:
            modules.append(nn.ReLU())
        elif "running_mean" in layer:
            modules.append(nn.BatchNorm1d(len(layer["running_mean"]), affine="weight" in layer))
        elif "weight" in layer and layer["weight"].ndim == 2:
            out_features, in_features = layer["weight"].shape
            modules.append(nn.Linear(in_features, out_features, bias="bias" in layer))
        else:
            return None
    head = nn.Sequential(*modules)
    try:
        missing, unexpected = head.load_state_dict(numbered, strict=False)
    except RuntimeError:  # another shape
        return None
    return head if modules and not unexpected and all(name.endswith(COUNTER) for name in missing) else None
