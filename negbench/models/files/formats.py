"""The formats that a backbone is written in, each with the lines of Python that load it again.

The command line lists them, so torch is imported where a file is written.
"""

import importlib.util
import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from negbench.models.files.detectron2 import to_detectron2
from negbench.runtime.errors import UserError
from negbench.settings.plugins.find import BACKBONE, find_plugin

if TYPE_CHECKING:
    from negbench.models.files.source import Source
    from negbench.settings.schema import ModelConfig

_CIFAR_STEM = "model.conv1, model.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()"


@dataclass(frozen=True)
class Format:
    suffix: str
    content: "Callable[[Source], bytes]"
    lines: "Callable[[Source, Path], list[str]]"
    holds: "Callable[[ModelConfig], bool]" = lambda model: True
    needs: tuple[str, ...] = ()  # packages of the extra `export`


def write(source: "Source", format: str) -> bytes:
    """Return the file's content. UserError if the format cannot hold the backbone, or a package is missing."""
    chosen, model = FORMATS[format], source.model
    if not chosen.holds(model):
        other = "torchvision, timm, safetensors or onnx" if _is_torchvisions(model) else "safetensors or onnx"
        raise UserError(
            f"{format} has no {model.name} with the stem {model.stem}, so no file of it can hold one; use {other}"
        )
    missing = [package for package in chosen.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"--format {format} needs {' and '.join(missing)}: pip install 'negbench[export]'")
    return chosen.content(source)


def _is_torchvisions(model: "ModelConfig") -> bool:
    return bool(find_plugin(BACKBONE, model.name).facts.torchvision)


def _is_detectron2s(model: "ModelConfig") -> bool:
    return model.stem == "imagenet" and _is_torchvisions(model)


def _torch_file(source: "Source") -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(source.state, buffer)
    return buffer.getvalue()


def _safetensors_file(source: "Source") -> bytes:
    from safetensors.torch import save

    return save(source.state, {"format": "pt", "negbench": json.dumps(source.facts)})


def _detectron2_file(source: "Source") -> bytes:
    """Return plain numpy arrays without BatchNorm's counters, which detectron2 does not use."""
    from negbench.models.files.architecture import COUNTER

    arrays = {
        to_detectron2(name): tensor.numpy() for name, tensor in source.state.items() if not name.endswith(COUNTER)
    }
    return pickle.dumps({"model": arrays, "__author__": "negbench", "matching_heuristics": True}, protocol=4)


def _onnx_file(source: "Source") -> bytes:
    import torch

    size = source.facts["image_size"] or 224
    images = torch.zeros(2, 3, size, size)  # torch would make a constant of a batch size of 1
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    program = torch.onnx.export(
        source.backbone,
        (images,),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes=({0: batch, 2: height, 3: width},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["negbench"] = json.dumps(source.facts)
    return program.model_proto.SerializeToString()


def _torchvision_model(source: "Source") -> list[str]:
    return [f"model = torchvision.models.{source.model.name}()", *_stem(source), "model.fc = torch.nn.Identity()"]


def _stem(source: "Source") -> list[str]:
    return [_CIFAR_STEM] if source.model.stem == "cifar" else []


def _torchvision_lines(source: "Source", path: Path) -> list[str]:
    load = f"model.load_state_dict(torch.load({str(path)!r}))"
    return ["import torch, torchvision", *_torchvision_model(source), load, _as_trained(source)]


def _timm_lines(source: "Source", path: Path) -> list[str]:
    return [
        "import timm, torch",
        "from safetensors.torch import load_file",
        f"model = timm.create_model({source.model.name!r}, num_classes=0)",
        *_stem(source),
        f"model.load_state_dict(load_file({str(path)!r}))",
        _as_trained(source),
    ]


def _safetensors_lines(source: "Source", path: Path) -> list[str]:
    model = source.model
    if not _is_torchvisions(model):
        build = [
            "from negbench.settings.schema import ModelConfig",
            "from negbench.models.backbones import build_backbone",
            f"model, num_features = build_backbone(ModelConfig(name={model.name!r}, stem={model.stem!r}))",
        ]
    else:
        build = ["import torch, torchvision", *_torchvision_model(source)]
    load = ["from safetensors.torch import load_file", f"model.load_state_dict(load_file({str(path)!r}))"]
    return [*build, *load, _as_trained(source)]


def _detectron2_lines(source: "Source", path: Path) -> list[str]:
    bottleneck = find_plugin(BACKBONE, source.model.name).facts.bottleneck
    basic = [] if bottleneck else ["cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64"]
    known = source.normalisation or {}
    pixels = {key: [round(255 * value, 3) for value in values] for key, values in known.items()}
    normalisation = [f"cfg.MODEL.PIXEL_{key.upper()} = {values}" for key, values in pixels.items()]
    return [
        f"cfg.MODEL.WEIGHTS = {str(path)!r}",
        f"cfg.MODEL.RESNETS.DEPTH = {source.model.name.removeprefix('resnet')}",
        "cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False",
        *basic,
        "cfg.INPUT.FORMAT = 'RGB'",
        *normalisation,
    ]


def _onnx_lines(source: "Source", path: Path) -> list[str]:
    return [
        "import onnxruntime",
        f"session = onnxruntime.InferenceSession({str(path)!r})",
        f"(features,) = session.run(None, {{'images': images}})  # {_images(source)}",
    ]


def _as_trained(source: "Source") -> str:
    return f"features = model.eval()(images)  # {_images(source)}"


def _images(source: "Source") -> str:
    known = source.normalisation
    if known is None:
        return "float32 [N, 3, H, W], normalised as in its training"
    return f"float32 [N, 3, H, W], in [0, 1], then less {known['mean']} and over {known['std']}"


FORMATS = {
    "torchvision": Format(".torchvision.pth", _torch_file, _torchvision_lines, _is_torchvisions),
    "timm": Format(".timm.safetensors", _safetensors_file, _timm_lines, _is_torchvisions),
    "safetensors": Format(".safetensors", _safetensors_file, _safetensors_lines),
    "detectron2": Format(".detectron2.pkl", _detectron2_file, _detectron2_lines, _is_detectron2s),
    "onnx": Format(".onnx", _onnx_file, _onnx_lines, needs=("onnx", "onnxscript")),
}
