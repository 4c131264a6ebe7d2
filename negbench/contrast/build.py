"""Building a run's method from its settings."""

import copy

import torch

from negbench.contrast.given import Given
from negbench.contrast.method import Method, RunShape
from negbench.models.encoder import build_encoder, prepare
from negbench.runtime.compiling import compile_encoder
from negbench.runtime.errors import UserError
from negbench.settings.resolve import Resolved
from negbench.settings.steps import steps_per_epoch


def build_method(resolved: Resolved, num_images: int, device: torch.device, dtype: torch.dtype | None) -> Method:
    """Return the run's method on the device. UserError if the method does not fit the run's settings.

    In the controlled track its query encoder is the study's; in the recipe track `method.replaced` says what it has
    otherwise, and `method.untrained` is then a copy of it on the CPU, before its first step.
    """
    config = resolved.config
    num_steps = steps_per_epoch(num_images, config.batch_size) * config.epochs
    num_views = len(config.views.all)
    encoder = build_encoder(config, dtype)
    given = Given(encoder)
    shape = RunShape(num_images, config.batch_size, num_steps, config.projector.dim, config.seed, num_views)
    method: Method = resolved.module.build(config.method, encoder, shape)
    if method.query_encoder.arithmetic != encoder.arithmetic:
        raise UserError(
            f"method {config.method.name} makes an encoder of its own without the precision and BatchNorm policy "
            "of the run; write Encoder(backbone, projector, feature_dim, encoder.arithmetic)"
        )
    if replaced := given.difference(method.query_encoder):
        if config.track == "controlled":
            raise UserError(
                f"method {config.method.name} does not train the study's encoder: its encoder {replaced}; use the one "
                "that `build` gets as it is, or set track: recipe in a study of its own"
            )
        method.replaced = replaced
        method.untrained = (copy.deepcopy(method.query_encoder),)  # in a tuple, so that it is no part of the method
    if len({view for pair in method.pairs for view in pair}) < num_views:
        raise UserError(f"method {config.method.name} contrasts only two views; leave views.crops empty for it")
    for each in (method.query_encoder, method.key_encoder):
        compile_encoder(each, config.execution)
    return prepare(method, config, device)
