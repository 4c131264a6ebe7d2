"""SimCLR: negatives are the other images of the batch, with gradient through them.

Chen et al., ICML 2020, arXiv:2002.05709
"""

from typing import Literal

from torch import Tensor

from negbench.config import MethodConfig, setting
from negbench.losses import Columns
from negbench.method import SYMMETRIC, Encoded, Facts, Method, NegativeSource
from negbench.models import Encoder


class Config(MethodConfig):
    temperature: float = setting(0.5, "temperature of the contrast; the paper's best on CIFAR-10 (appendix B.9)", gt=0)
    symmetric: Literal[True] = setting(True, "NT-Xent is symmetric by definition")


class InBatch(NegativeSource):
    """Keys of all other images of the global batch; `all_views` adds the query's own view of them, as NT-Xent does.

    Columns that show the query's own image are left out by dataset index: in `key_view` it is the positive, which
    stands in column 0 already, and in `query_view` it is the query itself.
    """

    reads_keys = True

    def __init__(self, all_views: bool = False) -> None:
        super().__init__()
        self.all_views = all_views

    def columns(self, query_ND: Tensor, encoded: Encoded, query_view: int, key_view: int) -> list[Columns]:
        views = [key_view, query_view] if self.all_views else [key_view]
        return [Columns(encoded.all_keys[view], index_M=encoded.all_index, mask_own=True) for view in views]


def build(config: Config, encoder: Encoder, facts: Facts) -> Method:
    """NT-Xent, eq. 1: 2N - 2 negatives for each of the 2N queries of the global batch."""
    return Method(encoder, SYMMETRIC, [InBatch(all_views=True)], config.temperature)
