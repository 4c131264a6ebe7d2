"""toy: negatives are the batch, of one temperature.

Toy et al., 2020
"""

from negbench.contrast import Encoder, InBatch, Method, MethodConfig, RunShape, setting


class Config(MethodConfig):
    temperature: float = setting(0.3, "temperature of the contrast", gt=0)


def build(config: Config, encoder: Encoder, shape: RunShape) -> Method:
    return Method(encoder, shape.pairs(symmetric=True), [InBatch(all_views=True)], config.temperature)
