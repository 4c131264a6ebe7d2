"""A method: one or two encoders, pairs of views, and a list of sources of negatives.

`forward` reads, `after_step` writes: the forward pass changes nothing but BatchNorm's running statistics, so that a
query is never contrasted with what its own step stores.

Shape suffixes: N images on this rank, D embedding.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from negbench.contrast.losses import Columns, info_nce
from negbench.contrast.momentum import ema_update_
from negbench.contrast.passes import interleaved, separated, shared_passes, unit_norm
from negbench.contrast.source import Encoded, NegativeSource
from negbench.models.batch_norm import shuffle
from negbench.models.encoder import Encoder
from negbench.runtime.distributed import all_gather, all_gather_with_gradient
from negbench.runtime.span import span

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RunShape:
    """The sizes of the run that a method is built for, and its seed."""

    num_images: int
    batch_size: int  # images a step over all ranks
    num_steps: int
    dim: int  # width of the embedding
    seed: int
    num_views: int = 2  # of each image; more in multi-crop

    def pairs(self, symmetric: bool) -> Pairs:
        """Return pairs (query view, key view): all other views against view 1 and, if `symmetric`, against view 0.

        Views from 2 on, multi-crop's small ones, give no keys.
        """
        key_views = (1, 0) if symmetric else (1,)
        return tuple((query, key) for key in key_views for query in range(self.num_views) if query != key)


@dataclass(frozen=True)
class Probe:
    """One global batch in evaluation mode, as a step would contrast it: the first pair and its columns."""

    query_ND: Tensor
    key_ND: Tensor
    embeddings: tuple[Tensor, Tensor]  # [N, D] of the query and the key view by the query encoder, before a predictor
    columns: "list[tuple[NegativeSource, Columns]]"
    index_N: Tensor
    temperature: float


@dataclass(frozen=True)
class StepOutput:
    loss: Tensor
    encoded: Encoded  # detached
    metrics: dict[str, Tensor] = field(default_factory=dict)  # scalars on the device


class Method(nn.Module):
    """Encode the views, contrast the pairs, and after the optimizer's step update what the optimizer does not train.

    With `key_momentum(step)` keys have a momentum encoder; without it queries and keys share one encoder, and gradients
    flow through both. `predictor` is applied to queries only. Precision, BatchNorm policy and seed are `encoder`'s.
    The losses of all queries of a key view are summed, as in AdCo's multi-crop code; `reduction` joins the key views.
    """

    replaced: str | None = None  # what the query encoder has otherwise than the study's
    untrained: tuple[Encoder, ...] = ()  # the encoder before the first step, if it is not the study's

    def __init__(
        self,
        encoder: Encoder,
        pairs: Pairs,
        sources: Sequence[NegativeSource] = (),
        temperature: float = 1.0,
        key_momentum: Callable[[int], float] | None = None,
        predictor: nn.Module | None = None,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        self.query_encoder = encoder
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False) if key_momentum else None
        self.predictor = predictor
        self.sources = nn.ModuleList(sources)
        self.pairs, self.temperature, self.reduction = pairs, temperature, reduction
        self.key_momentum = key_momentum
        self.autocast_dtype = encoder.arithmetic.autocast_dtype
        self.batch_norm, self.seed = encoder.arithmetic.batch_norm, encoder.arithmetic.seed

    @property
    def all_sources(self) -> list[NegativeSource]:
        return cast(list[NegativeSource], list(self.sources))

    @property
    def query_views(self) -> list[int]:
        return sorted({query for query, _ in self.pairs})

    @property
    def key_views(self) -> list[int]:
        return sorted({key for _, key in self.pairs})

    def forward(self, views: Sequence[Tensor], index: Tensor, step: int) -> StepOutput:
        """Return loss and embeddings of one step. `views`: images [N, 3, H, W] by view number; `index`: [N] int64."""
        encoded = self.encode(views, index, step)
        with span("loss"):
            loss = self.contrast(encoded, self.temperature)
        detached = encoded.detach()
        return StepOutput(loss, detached, {"loss": loss.detach(), **self.metrics(detached)})

    def encode(self, views: Sequence[Tensor], index: Tensor, step: int) -> Encoded:
        queries = self.embed_queries(views)
        if self.key_encoder is None:
            keys, gather = {view: queries[view] for view in self.key_views}, all_gather_with_gradient
        else:
            keys, gather = self.embed_keys(views, step), all_gather
        if not any(source.reads_keys for source in self.all_sources):
            return Encoded(queries, keys, {}, index, index)
        with span("shuffle_gather"):
            all_keys = {view: gather(key) for view, key in keys.items()}
            return Encoded(queries, keys, all_keys, index, all_gather(index))

    def embed_queries(self, views: Sequence[Tensor]) -> dict[int, Tensor]:
        queries: dict[int, Tensor] = {}
        for group in shared_passes(views, self.query_views):
            with span("query_forward"):
                embedding = self._embed(self.query_encoder, interleaved([views[view] for view in group]))
                embedding = unit_norm(self._predict(embedding))
            queries |= zip(group, separated(embedding, len(group)), strict=True)
        return queries

    @torch.no_grad()
    def embed_keys(self, views: Sequence[Tensor], step: int) -> dict[int, Tensor]:
        assert self.key_encoder is not None
        keys: dict[int, Tensor] = {}
        for group in shared_passes(views, self.key_views):
            with span("shuffle_gather"):
                keyed = (shuffle(views[v], self.batch_norm, (self.seed, "shuffle", step, v)) for v in group)
                shuffled, restores = zip(*keyed, strict=True)
            with span("key_forward"):
                parts = separated(self._embed(self.key_encoder, interleaved(shuffled)), len(group))
            with span("shuffle_gather"):
                restored = [restore(part) for restore, part in zip(restores, parts, strict=True)]
            with span("key_forward"):
                keys |= {view: unit_norm(embedding) for view, embedding in zip(group, restored, strict=True)}
        return keys

    @torch.no_grad()
    def probe(self, chunks: Iterable[tuple[Sequence[Tensor], Tensor]]) -> Probe:
        """Return what a step would contrast, in evaluation mode, for diagnostics. Writes nothing, needs no other rank.

        `chunks` are the parts of one global batch as `forward` takes them: views [n, 3, H, W] and index [n].
        """
        with self._evaluating():
            parts = [(self._probe_chunk(views), index) for views, index in chunks]
        index_N = torch.cat([index for _, index in parts])
        embeddings, queries, keys = (
            {view: torch.cat([part[i][view] for part, _ in parts]) for view in parts[0][0][i]} for i in range(3)
        )
        encoded = Encoded(queries, keys, keys, index_N, index_N)
        query, key = self.pairs[0]
        columns = self._columns(queries[query], encoded, query, key)
        both = embeddings[query], embeddings[key]
        return Probe(queries[query], keys[key], both, columns, index_N, self.temperature)

    def _probe_chunk(self, views: Sequence[Tensor]) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[int, Tensor]]:
        """Return by view the query encoder's embeddings, the queries and the keys, without multi-crop's small views."""
        raw = {view: self._embed(self.query_encoder, views[view]) for view in {*self.pairs[0], *self.key_views}}
        embeddings = {view: unit_norm(embedding) for view, embedding in raw.items()}
        queries = {view: unit_norm(self._predict(raw[view])) for view in raw if view in self.query_views}
        if self.key_encoder is None:
            return embeddings, queries, {view: queries[view] for view in self.key_views}
        return embeddings, queries, {view: self._probe_key(views[view]) for view in self.key_views}

    @torch.no_grad()
    def probe_keys(self, chunks: Iterable[tuple[Sequence[Tensor], Tensor]]) -> Tensor:
        """Return the keys [N, D] of `probe` alone."""
        _, key = self.pairs[0]
        with self._evaluating():
            return torch.cat([self._probe_key(views[key]) for views, _ in chunks])

    def _probe_key(self, images: Tensor) -> Tensor:
        if self.key_encoder is None:
            return unit_norm(self._predict(self._embed(self.query_encoder, images)))
        return unit_norm(self._embed(self.key_encoder, images))

    def contrast(self, encoded: Encoded, temperature: float) -> Tensor:
        losses = torch.stack([self.pair_loss(encoded, query, key, temperature) for query, key in self.pairs])
        return losses.sum() / len(self.key_views) if self.reduction == "mean" else losses.sum()

    def pair_loss(self, encoded: Encoded, query_view: int, key_view: int, temperature: float) -> Tensor:
        query_ND = encoded.queries[query_view]
        positive_N1 = (query_ND * encoded.keys[key_view]).sum(1, keepdim=True)
        columns = [column for _, column in self._columns(query_ND, encoded, query_view, key_view)]
        return info_nce(query_ND, positive_N1, columns, encoded.index, temperature)

    def _columns(
        self, query_ND: Tensor, encoded: Encoded, query_view: int, key_view: int
    ) -> list[tuple[NegativeSource, Columns]]:
        return [(s, c) for s in self.all_sources for c in s.columns(query_ND, encoded, query_view, key_view)]

    @torch.no_grad()
    def metrics(self, encoded: Encoded) -> dict[str, Tensor]:
        """Return the positive pair's cosine and the embedding's spread: 1 on the sphere, 0 when it has collapsed."""
        query, key = self.pairs[0]
        query_ND = encoded.queries[query]
        spread = query_ND.var(0, correction=0).sum().sqrt()
        return {"positive_cosine": (query_ND * encoded.keys[key]).sum(1).mean(), "embedding_spread": spread}

    @torch.no_grad()
    def negatives_per_query(self, encoded: Encoded) -> Tensor:
        """Return how many columns a query of the first pair is contrasted with, mean over queries, a scalar.

        The positive and columns that are masked for a query do not count.
        """
        query, key = self.pairs[0]
        columns = self._columns(encoded.queries[query], encoded, query, key)
        counts = [column.count(encoded.index) for _, column in columns]
        return torch.stack(counts).sum() if counts else torch.zeros((), dtype=torch.float64)

    @torch.no_grad()
    def after_step(self, output: StepOutput, step: int) -> None:
        """Update the key encoder and the sources: all state that the optimizer does not own changes here alone."""
        if self.key_encoder is not None:
            assert self.key_momentum is not None
            with span("momentum_update"):
                ema_update_(self.key_encoder, self.query_encoder, self.key_momentum(step))
        with span("refresh"):
            for source in self.all_sources:
                source.refresh(output.encoded, self.contrast, step)

    @torch.no_grad()
    def embed_features(self, features_NF: Tensor) -> Tensor:
        """Return query embeddings [N, D] of the backbone's features [N, F], in evaluation mode."""
        with self._evaluating():
            parts = [self._embed(self.query_encoder.projector, part_nF) for part_nF in features_NF.split(4096)]
            return unit_norm(torch.cat([self._predict(part_nD) for part_nD in parts]))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.training
        self.eval()
        yield
        self.train(training)

    def _embed(self, module: nn.Module, inputs: Tensor) -> Tensor:
        forward = module if self.training else module.forward  # evaluations are not worth compiling for
        with self._autocast(inputs):
            embedding: Tensor = forward(inputs)
        return embedding

    def _predict(self, embedding: Tensor) -> Tensor:
        return embedding if self.predictor is None else self._embed(self.predictor, embedding)

    def _autocast(self, input: Tensor) -> torch.autocast:
        return torch.autocast(input.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)
