from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from negbench.models.batch_norm import SplitBatchNorm, SyncBatchNorm, convert
from negbench.models.encoder import build_encoder, initial_weights, mlp
from negbench.settings.schema import MethodConfig, RunConfig


def config(**settings: Any) -> RunConfig[MethodConfig]:
    return RunConfig[MethodConfig](**{"model": {"name": "resnet8"}, "method": {"name": "any"}} | settings)


def equal(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_resnet8_multiply_adds() -> None:
    encoder = build_encoder(config())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.backbone(torch.zeros(1, 3, 32, 32))
    stem = 27 * 16 * 32**2
    stages = 2 * (9 * 16 * 16) * 32**2
    stages += (9 * 16 * 32 + 9 * 32 * 32 + 16 * 32) * 16**2 + (9 * 32 * 64 + 9 * 64 * 64 + 32 * 64) * 8**2
    assert counter.get_total_flops() == 2 * (stem + stages)
    assert stem + stages == 12_500_992


@pytest.mark.parametrize(
    ("name", "feature_dim"), [("resnet8", 64), ("resnet18", 512), ("resnet34", 512), ("resnet50", 2048)]
)
def test_features_and_embedding(name: str, feature_dim: int) -> None:
    encoder = build_encoder(config(model={"name": name}, projector={"dim": 24})).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = encoder.backbone(images)
        assert features.shape == (2, feature_dim)
        assert encoder.feature_dim == feature_dim
        assert torch.equal(encoder(images), encoder.projector(features))
        assert encoder(images).shape == (2, 24)


@pytest.mark.parametrize(("stem", "size", "last_map"), [("cifar", 32, 4), ("imagenet", 64, 2)])
def test_stem_sets_the_size_of_the_last_map(stem: str, size: int, last_map: int) -> None:
    encoder = build_encoder(config(model={"name": "resnet18", "stem": stem})).eval()
    shapes = []
    encoder.backbone.get_submodule("layer4").register_forward_hook(lambda *args: shapes.append(args[2].shape))
    with torch.no_grad():
        encoder.backbone(torch.zeros(1, 3, size, size))
    assert shapes == [(1, 512, last_map, last_map)]


def test_resnet8_has_no_imagenet_stem() -> None:
    with pytest.raises(ValueError, match=r"model\.stem of resnet8 must be 'cifar', not 'imagenet'"):
        build_encoder(config(model={"name": "resnet8", "stem": "imagenet"}))


@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
def test_convolutions_are_kaiming_normal_by_fan_out(name: str) -> None:
    for layer in build_encoder(config(model={"name": name})).backbone.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
            # The relative error of a standard deviation over n normal values is about 1 / sqrt(2 n).
            tolerance = 5 / (2 * layer.weight.numel()) ** 0.5
            assert layer.weight.std().item() * (fan_out / 2) ** 0.5 == pytest.approx(1, abs=tolerance)


def test_backbone_depends_on_the_seed_alone() -> None:
    first = build_encoder(config(seed=3))
    torch.manual_seed(99)
    wider = build_encoder(config(seed=3, projector={"dim": 7, "hidden": 33, "layers": 3}, batch_norm="sync"))
    assert equal(first.backbone, wider.backbone)
    assert equal(first.projector, build_encoder(config(seed=3, model={"name": "resnet8"})).projector)
    other = build_encoder(config(seed=4))
    assert not equal(first.backbone, other.backbone)
    assert not equal(first.projector, other.projector)


def test_global_generator_is_untouched() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_encoder(config())
    assert torch.equal(torch.rand(3), expected)
    with initial_weights("stream"):
        inside = torch.rand(3)
    with initial_weights("stream"):
        assert torch.equal(torch.rand(3), inside)


@pytest.mark.parametrize(
    ("policy", "kind"), [("process", nn.BatchNorm2d), ("sync", SyncBatchNorm), ("split", SplitBatchNorm)]
)
def test_batch_norm_policy_reaches_every_layer(policy: str, kind: type[nn.Module]) -> None:
    encoder = build_encoder(config())
    convert(encoder, policy, num_splits=4)
    layers = [layer for layer in encoder.backbone.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert len(layers) == 9
    assert all(type(layer) is kind for layer in layers)
    assert all(layer.num_splits == 4 for layer in layers if isinstance(layer, SplitBatchNorm))


def test_mlp_layers() -> None:
    def names(module: nn.Sequential) -> list[str]:
        return [type(layer).__name__ for layer in module]

    assert names(mlp(8, 16, 4, 1, batch_norm=True)) == ["Linear"]
    assert names(mlp(8, 16, 4, 2, batch_norm=False)) == ["Linear", "ReLU", "Linear"]
    head = mlp(8, 16, 4, 3, batch_norm=True)
    assert names(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [layer.bias is None for layer in head if isinstance(layer, nn.Linear)] == [True, True, False]
    assert head(torch.randn(5, 8)).shape == (5, 4)
    normalised = mlp(8, 16, 4, 2, batch_norm=False, output_batch_norm=True)
    assert names(normalised) == ["Linear", "ReLU", "Linear", "BatchNorm1d"]
    assert [layer.bias is None for layer in normalised if isinstance(layer, nn.Linear)] == [False, True]
    assert normalised(torch.randn(5, 8)).shape == (5, 4)
    with pytest.raises(ValueError, match="at least 1 layer, not 0"):
        mlp(8, 16, 4, 0, batch_norm=True)
