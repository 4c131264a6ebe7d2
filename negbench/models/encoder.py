"""The encoder: a backbone, whose features are evaluated, and a projector, whose embeddings are contrasted.

Shape suffixes: N images, C channels, H height, W width, F features, D embedding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from negbench.models.backbones import build_backbone
from negbench.models.batch_norm import convert
from negbench.runtime.errors import UserError
from negbench.runtime.seeding import derive_seed
from negbench.settings.schema import SharedConfig

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of a method's encoders; the contrast is fp32."""

    autocast_dtype: torch.dtype | None = None
    batch_norm: str = "process"  # the policy
    seed: int = 0  # for the shuffling of keys


class Encoder(nn.Module):
    """projector(backbone(images)). The embedding is not normalised; a method does that in fp32."""

    def __init__(
        self, backbone: nn.Module, projector: nn.Module, feature_dim: int, arithmetic: Arithmetic = Arithmetic()
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.feature_dim = feature_dim
        self.arithmetic = arithmetic

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return the embeddings [N, D] of images [N, 3, H, W]."""
        embedding_ND: Tensor = self.projector(self.backbone(images_NCHW))
        return embedding_ND


def build_encoder(config: SharedConfig, autocast_dtype: torch.dtype | None = None) -> Encoder:
    """Return the untrained encoder of a run, on the CPU, with plain BatchNorm until `prepare`.

    Every method of a seed starts from the same backbone, whatever its projector. UserError for a stem that the
    backbone does not have.
    """
    with initial_weights(config.seed, "backbone"):
        backbone, feature_dim = build_backbone(config.model)
    with initial_weights(config.seed, "projector"):
        head = config.projector
        projector = mlp(feature_dim, head.hidden, head.dim, head.layers, head.batch_norm, head.output_batch_norm)
    arithmetic = Arithmetic(autocast_dtype, config.batch_norm, config.seed)
    return Encoder(backbone, projector, feature_dim, arithmetic)


def prepare(module: M, config: SharedConfig, device: torch.device) -> M:
    """Return `module` itself on the device, with the BatchNorm layers and the memory format of the run."""
    convert(module, config.batch_norm, config.batch_norm_splits, device.type)
    if config.channels_last:
        module.to(memory_format=torch.channels_last)
    return module.to(device)


@contextmanager
def initial_weights(*key: object) -> Iterator[None]:
    """Build modules inside on the CPU with weights from the stream named by `key`; the global generator is kept."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # Not torch.manual_seed, which would seed the accelerators' generators too.
        torch.default_generator.manual_seed(derive_seed(*key))
        yield


def mlp(
    in_dim: int, hidden: int, out_dim: int, layers: int, batch_norm: bool, output_batch_norm: bool = False
) -> nn.Sequential:
    """Return `layers` linear layers with [BatchNorm and] ReLU between them, and nothing [or BatchNorm] after the last.

    Layers before a BatchNorm have no bias, which it would cancel. UserError for fewer than 1 layer.
    """
    if layers < 1:
        raise UserError(f"an MLP needs at least 1 layer, not {layers}")
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules.append(nn.Linear(in_dim, hidden, bias=not batch_norm))
        if batch_norm:
            modules.append(nn.BatchNorm1d(hidden))
        modules.append(nn.ReLU(inplace=True))
        in_dim = hidden
    modules.append(nn.Linear(in_dim, out_dim, bias=not output_batch_norm))
    if output_batch_norm:
        modules.append(nn.BatchNorm1d(out_dim))
    return nn.Sequential(*modules)
