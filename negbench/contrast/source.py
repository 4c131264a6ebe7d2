"""Sources of negatives: their interface, and the batch as a source.

Shape suffixes: N images on this rank, M columns, D embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from negbench.contrast.losses import Columns


@dataclass(frozen=True)
class Encoded:
    """One step's embeddings, unit norm in fp32, by view number."""

    queries: dict[int, Tensor]  # view -> [N, D], with gradient
    keys: dict[int, Tensor]  # view -> [N, D]; with gradient only where query and key encoder are one
    all_keys: dict[int, Tensor]  # view -> [world * N, D] in rank order; empty unless a source reads keys
    index: Tensor  # [N] int64, dataset index of each image
    all_index: Tensor  # [world * N]

    def detach(self) -> "Encoded":
        def detached(views: dict[int, Tensor]) -> dict[int, Tensor]:
            return {view: embedding.detach() for view, embedding in views.items()}

        return replace(self, queries=detached(self.queries), keys=detached(self.keys), all_keys=detached(self.all_keys))


Contrast = Callable[[Encoded, float], Tensor]


class NegativeSource(nn.Module):
    """A source of negatives. All its state is in buffers: `state_dict()` is the checkpoint.

    Buffers with names that begin with `index` hold dataset indices; a resume compares them with the number of images.
    """

    reads_keys = False  # True: keys and indices are gathered over ranks before `columns`
    learned = False  # True: its columns are free vectors; no image is behind them

    def oldest_age(self, keys_per_step: int) -> int:
        """Return the age in steps of its oldest key, if a step adds `keys_per_step` keys; 0 if it keeps none."""
        return 0

    def columns(self, query_ND: Tensor, encoded: Encoded, query_view: int, key_view: int) -> list[Columns]:
        """Return the negatives of this step's queries. Writes nothing."""
        raise NotImplementedError

    def refresh(self, encoded: Encoded, contrast: Contrast, step: int) -> None:
        """Update the state after the optimizer's step, with the same result on every rank."""


class InBatch(NegativeSource):
    """The keys of all other images of the global batch in the key view or, as in NT-Xent, in all views that have keys.

    Columns that show the query's own image are left out by dataset index: in `key_view` such a column is the positive,
    which is column 0 already, and in another view the query itself or another key of its image.
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
