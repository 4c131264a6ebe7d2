"""Backbones, one file each: facts and a function `build`."""

from torch import nn

from negbench.runtime.errors import UserError
from negbench.settings.plugins.find import BACKBONE, find_plugin, import_plugin
from negbench.settings.schema import ModelConfig


def build_backbone(config: ModelConfig) -> tuple[nn.Module, int]:
    """Return the backbone, images [N, 3, H, W] to features [N, F], and F. UserError if it lacks the stem."""
    file = find_plugin(BACKBONE, config.name)
    if config.stem not in file.facts.stems:
        stems = " or ".join(map(repr, file.facts.stems))
        raise UserError(f"model.stem of {config.name} must be {stems}, not {config.stem!r}")
    return import_plugin(file).build(config), file.facts.feature_dim
