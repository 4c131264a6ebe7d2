"""The adversaries against the closed form of their update, and their controls."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from negbench.contrast.method import Method
from negbench.contrast.passes import unit_norm
from negbench.contrast.source import Encoded
from negbench.methods.adco import Adversaries
from negbench.runtime.distributed import is_distributed, rank, replicate, world_size
from tests.helpers import tiny
from tests.helpers.ranks import on_ranks

K, T = 12, 0.15


def method_after_the_fill(rows: slice = slice(None), **settings: Any) -> Method:
    method = tiny.build("adco", num_negatives=K, adversary_temperature=T, adversary_lr=0.7, **settings)
    tiny.train(method, 0, 4, rows, replicate(method, torch.device("cpu")) if is_distributed() else None)
    return method


def closed_form_gradient(
    encoded: Encoded, vectors_KD: Tensor, pairs: tuple[tuple[int, int], ...], in_batch: bool
) -> Tensor:
    """d loss / d vectors: for each pair 1/T 1/|W_k| (mean_n p_nk q_n - mean_n p_nk s_nk w_k).

    Summed over the queries of a key view, multi-crop's included, and averaged over key views.
    p is the softmax over positive, in-batch keys and adversaries at the adversaries' temperature, s the cosine.
    """
    num_key_views = len({key_view for _, key_view in pairs})
    length_K1 = vectors_KD.norm(dim=1, keepdim=True)
    unit_KD = vectors_KD / length_K1
    total_KD = torch.zeros_like(vectors_KD)
    for query_view, key_view in pairs:
        query_ND, key_ND = encoded.queries[query_view], encoded.keys[key_view]
        cosine_NK = query_ND @ unit_KD.T
        batch_NN = query_ND @ key_ND.T
        if not in_batch:
            batch_NN = batch_NN.diagonal()[:, None]
        p_NK = F.softmax(torch.cat([batch_NN, cosine_NK], dim=1) / T, dim=1)[:, -len(vectors_KD) :]
        pull_KD = p_NK.T @ query_ND / len(query_ND)
        along_K1 = (p_NK * cosine_NK).mean(0)[:, None]
        total_KD += (pull_KD - along_K1 * unit_KD) / (T * length_K1 * num_key_views)
    return total_KD


@dataclass
class Update:
    """One refresh, on one of several ranks or alone."""

    start_KD: Tensor
    velocity_KD: Tensor
    encoded: Encoded
    end_KD: Tensor


def updated(settings: dict[str, Any]) -> Update:
    rows = slice(rank() * tiny.BATCH // world_size(), (rank() + 1) * tiny.BATCH // world_size())
    method = method_after_the_fill(rows, **settings)
    source: Any = method.sources[-1]
    start_KD, velocity_KD = source.vectors_KD.clone(), source.velocity_KD.clone()
    encoded = method.encode(*tiny.batch(5, rows, tiny.num_views(method)), 5).detach()
    source.refresh(encoded, method.contrast, 5)
    return Update(start_KD, velocity_KD, encoded, source.vectors_KD)


def whole(parts: list[Encoded]) -> Encoded:
    queries, keys = (
        {view: torch.cat([getattr(part, name)[view] for part in parts]) for view in getattr(parts[0], name)}
        for name in ("queries", "keys")
    )
    index = torch.cat([part.index for part in parts])
    return Encoded(queries, keys, keys, index, index)


@pytest.mark.parametrize(
    ("symmetric", "num_views", "pairs"),
    [
        (False, 2, ((0, 1),)),
        (True, 2, ((0, 1), (1, 0))),
        (False, 5, ((0, 1), (2, 1), (3, 1), (4, 1))),
        (True, 5, ((0, 1), (2, 1), (3, 1), (4, 1), (1, 0), (2, 0), (3, 0), (4, 0))),
    ],
)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_update_is_the_closed_form_and_sgd_with_maximize(
    symmetric: bool, num_views: int, pairs: tuple[tuple[int, int], ...], num_ranks: int
) -> None:
    for in_batch, update in [(True, "ascend"), (False, "ascend"), (True, "descend")]:
        settings = {"symmetric": symmetric, "in_batch_negatives": in_batch, "update": update, "num_views": num_views}
        updates = on_ranks(num_ranks, updated, settings) if num_ranks > 1 else [updated(settings)]
        start_KD = updates[0].start_KD
        reference = torch.nn.Parameter(start_KD.clone())
        sgd = torch.optim.SGD([reference], lr=0.7, momentum=0.9, weight_decay=1e-4, maximize=update == "ascend")
        sgd.state[reference]["momentum_buffer"] = -updates[0].velocity_KD
        encoded = whole([part.encoded for part in updates])
        reference.grad = closed_form_gradient(encoded, start_KD, pairs, in_batch)
        sgd.step()
        for part in updates:
            assert (part.end_KD - start_KD).abs().max() > 1e-3
            torch.testing.assert_close(part.end_KD, reference.detach(), rtol=1e-12, atol=1e-13)


def test_ascent_raises_the_contrast_and_descent_lowers_it() -> None:
    for update, sign in (("ascend", 1), ("descend", -1)):
        method = tiny.build("adco", num_negatives=K, start="random", adversary_lr=0.05, update=update)
        encoded = method.encode(*tiny.batch(0), 0).detach()
        before = method.contrast(encoded, 0.02)
        method.all_sources[-1].refresh(encoded, method.contrast, 0)
        assert sign * (method.contrast(encoded, 0.02) - before) > 0


@pytest.mark.parametrize(("symmetric", "num_fill_steps"), [(False, 3), (True, 2)])
def test_fill_stores_the_keys_of_the_first_steps_in_order(symmetric: bool, num_fill_steps: int) -> None:
    size = 20  # 8 keys a step and view: the last fill step has more keys than places
    method = tiny.build("adco", num_negatives=size, symmetric=symmetric)
    keys = []
    for step in range(num_fill_steps):
        (output,) = tiny.train(method, step, step + 1)
        keys += list(output.encoded.keys.values())
    source: Any = method.sources[-1]
    torch.testing.assert_close(source.vectors_KD, torch.cat(keys)[:size], rtol=0, atol=0)
    assert not source.velocity_KD.any()
    tiny.train(method, num_fill_steps, num_fill_steps + 1)
    assert source.velocity_KD.any()


@pytest.mark.parametrize(("size", "num_fill_steps"), [(15, 2), (16, 2), (17, 3)])
def test_the_ascent_begins_at_the_step_after_the_last_place_is_filled(size: int, num_fill_steps: int) -> None:
    method = tiny.build("adco", num_negatives=size)  # 8 keys a step
    source = method.sources[-1]
    assert isinstance(source, Adversaries)
    tiny.train(method, 0, num_fill_steps)
    filled_KD = source.vectors_KD.clone()
    torch.testing.assert_close(filled_KD.norm(dim=1), torch.ones(size, dtype=torch.float64))
    assert not source.velocity_KD.any()
    tiny.train(method, num_fill_steps, num_fill_steps + 1)
    assert source.velocity_KD.any(1).all()
    assert (source.vectors_KD != filled_KD).any(1).all()


def test_frozen_adversaries_stay_where_they_started() -> None:
    at_random = tiny.build("adco", num_negatives=K, start="random", update="none")
    source: Any = at_random.sources[-1]
    start_KD = source.vectors_KD.clone()
    tiny.train(at_random, 0, 5)
    assert torch.equal(source.vectors_KD, start_KD)
    at_keys = tiny.build("adco", num_negatives=K, update="none")
    tiny.train(at_keys, 0, 2)
    source = at_keys.sources[-1]
    filled_KD = source.vectors_KD.clone()
    tiny.train(at_keys, 2, 5)
    assert torch.equal(source.vectors_KD, filled_KD)


def test_adversaries_only_leaves_the_batch_out() -> None:
    method = tiny.build("adco", num_negatives=K, in_batch_negatives=False)
    encoded = method.encode(*tiny.batch(0), 0)
    assert encoded.all_keys == {}
    query_ND, key_ND = encoded.queries[0], encoded.keys[1]
    source: Any = method.sources[0]
    cosine_NK = query_ND @ unit_norm(source.vectors_KD).T
    logits = torch.cat([(query_ND * key_ND).sum(1, keepdim=True), cosine_NK], dim=1) / 0.12
    expected = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
    torch.testing.assert_close(method.contrast(encoded, 0.12), expected, rtol=1e-12, atol=0)
