"""SimCLR: negatives are the other images of the batch, with gradient through them.

Chen et al., ICML 2020, arXiv:2002.05709
"""

from typing import Literal

from negbench.contrast import Encoder, InBatch, Method, MethodConfig, RunShape, setting


class Config(MethodConfig):
    temperature: float = setting(0.5, "temperature of the contrast; the paper's best on CIFAR-10 (appendix B.9)", gt=0)
    symmetric: Literal[True] = setting(True, "NT-Xent is symmetric by definition")


def build(config: Config, encoder: Encoder, shape: RunShape) -> Method:
    """Return the method with NT-Xent, eq. 1: 2N - 2 negatives for each of the 2N queries of the global batch."""
    return Method(encoder, shape.pairs(symmetric=True), [InBatch(all_views=True)], config.temperature)
