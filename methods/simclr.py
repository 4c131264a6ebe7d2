"""SimCLR: negatives are the other images of the batch, with gradient through them.

Chen et al., ICML 2020, arXiv:2002.05709
"""

from typing import Literal

from torch import Tensor

from negbench.config import MethodConfig, setting
from negbench.losses import Columns
from negbench.method import Encoded, Facts, Method, NegativeSource
from negbench.models import Encoder


class Config(MethodConfig):
    temperature: float = setting(0.5, "temperature of the contrast; the paper's best on CIFAR-10 (appendix B.9)", gt=0)
    symmetric: Literal[True] = setting(True, "NT-Xent is symmetric by definition")


class InBatch(NegativeSource):
    """Keys of all other images of the global batch in the key view, or, as in NT-Xent, in all views that have keys.

    Columns that show the query's own image are left out by dataset index: in `key_view` it is the positive, which
    stands in column 0 already, and in another it is the query itself or another key of its image.
    """

    reads_keys = True

    def __init__(self, all_views: bool = False) -> None:
        super().__init__()
        self.all_views = all_views

    def columns(self, query_ND: Tensor, encoded: Encoded, query_view: int, key_view: int) -> list[Columns]:
        others = [view for view in encoded.all_keys if view != key_view] if self.all_views else []
        return [
            Columns(encoded.all_keys[view], index_M=encoded.all_index, mask_own=True) for view in (key_view, *others)
        ]


def build(config: Config, encoder: Encoder, facts: Facts) -> Method:
    """NT-Xent, eq. 1: 2N - 2 negatives for each of the 2N queries of the global batch."""
    return Method(encoder, facts.pairs(symmetric=True), [InBatch(all_views=True)], config.temperature)
