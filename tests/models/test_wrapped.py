"""Backbones below names of wrappers and of other packages, and files that hold no weights."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from negbench.models.files.layout import read_encoder
from negbench.runtime.errors import UserError
from tests.helpers.encoder_files import features, images, resnet

State = dict[str, Tensor]


def below(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return resnet()


WRAPPED: dict[str, Any] = {
    "solo-learn": lambda own, copy: {"state_dict": below("backbone.", own), "epoch": 1},
    "simsiam": lambda own, copy: {"state_dict": below("module.encoder.", own)},
    "moco v3": lambda own, copy: {
        "state_dict": below("module.momentum_encoder.", copy) | below("module.base_encoder.", own)
    },
    "dino": lambda own, copy: {"student": below("module.backbone.", copy), "teacher": below("backbone.", own)},
    "vissl": lambda own, copy: {
        "classy_state_dict": {"base_model": {"model": {"trunk": below("_feature_blocks.", own)}}}
    },
    "sthalles": lambda own, copy: {"state_dict": below("backbone.", own) | {"backbone.fc.0.weight": torch.zeros(9, 9)}},
    "byol-pytorch": lambda own, copy: below("target_encoder.net.", copy) | below("online_encoder.net.", own),
    "torch.compile": lambda own, copy: {"model": {"state_dict": below("_orig_mod.module.backbone._orig_mod.", own)}},
    "ema": lambda own, copy: {"state_dict_ema": below("module.", copy), "weights": below("net.", own)},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_backbone_is_found_below_what_wraps_it(name: str, network: nn.Module, tmp_path: Path) -> None:
    own = {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}
    torch.save(WRAPPED[name](own, {key: value + 1 for key, value in own.items()}), tmp_path / "x.pth")
    encoder = read_encoder(tmp_path / "x.pth")
    assert "in the layout of weights below" in encoder.describe()
    with torch.no_grad():
        assert torch.equal(encoder.build().backbone(images()), features(network, images()))


def test_numbered_layers_as_lightly_writes_them(network: nn.Module, tmp_path: Path) -> None:
    own = nn.Sequential(*list(network.children())[:-1]).state_dict()
    copy = {key: value + 1 for key, value in own.items()}
    torch.save({"state_dict": below("backbone_momentum.", copy) | below("backbone.", own)}, tmp_path / "x.ckpt")
    with torch.no_grad():
        assert torch.equal(read_encoder(tmp_path / "x.ckpt").build().backbone(images()), features(network, images()))


def test_what_is_not_known_is_shown_by_names_with_the_nearest_architecture(tmp_path: Path) -> None:
    blocks = {f"backbone.blocks.{i}.attn.qkv.weight": torch.zeros(3, 2) for i in range(4)}
    torch.save({"state_dict": blocks}, tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"4 weights within state_dict \(backbone.blocks.0.attn.qkv.weight, .*nearest"):
        read_encoder(tmp_path / "vit.pth")
    deeper = resnet("resnet50").state_dict()
    deeper |= {name.replace("layer3.5", "layer3.6"): value for name, value in deeper.items() if "layer3.5" in name}
    torch.save(below("module.encoder.", deeper), tmp_path / "deeper.pth")
    with pytest.raises(UserError, match=r"of resnet50 .* the nearest, 18|of resnet50 .* 15 unexpected \(layer3.6"):
        read_encoder(tmp_path / "deeper.pth")


def archive(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, "x")
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>Virus scan warning</title>", "an HTML page"),
        (b'{"a": 1}{{{{', "a text that begins"),
        (b'model_checkpoint_path: "model.ckpt-1"\n', "TensorFlow"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.6.0" + bytes(99), "an ONNX model"),
        (b"\x1f\x8b\x08" + bytes(99), "compressed by gzip; unpack it first"),
        (bytes(999), "zeros at its start"),
        (archive("readme.txt"), "a zip archive of readme.txt"),
        (archive("archive/data.pkl")[:40], "a zip archive whose end is missing after 40 bytes"),
        (arrays(), "NumPy"),
        (b"\x91" * 500, "neither torch.load nor safetensors reads it"),
    ],
    ids=[str(number) for number in range(12)],
)
def test_a_file_that_holds_no_weights_is_called_what_it_is(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_encoder(tmp_path / "x.pth")
    assert str(raised.value).startswith(f"{tmp_path / 'x.pth'} is ") and sentence in str(raised.value)
    assert "BytesIO" not in str(raised.value) and "Weights only" not in str(raised.value)
