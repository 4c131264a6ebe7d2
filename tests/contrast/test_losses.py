"""The losses against references written as their papers' sums, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from negbench.contrast import losses
from negbench.contrast.losses import Columns, info_nce, negative_cosine
from negbench.contrast.passes import unit_norm
from negbench.contrast.source import Encoded
from tests.helpers import tiny

T = 0.3


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return unit_norm(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def ntxent(z: Tensor, temperature: float) -> float:
    """SimCLR's algorithm 1 as two loops: z [2N, D], rows i and i + N are views of one image."""
    num = len(z)
    total = 0.0
    for i in range(num):
        j = (i + num // 2) % num
        denominator = sum(math.exp(float(z[i] @ z[k]) / temperature) for k in range(num) if k != i)
        total += -math.log(math.exp(float(z[i] @ z[j]) / temperature) / denominator)
    return total / num


def encoded(first: Tensor, second: Tensor) -> Encoded:
    index = torch.arange(len(first))
    views = {0: first, 1: second}
    return Encoded(views, views, views, index, index)


def test_simclr_is_ntxent() -> None:
    first, second = embeddings(7, 5), embeddings(7, 5, seed=1)
    loss = tiny.build("simclr", temperature=T).contrast(encoded(first, second), T)
    assert loss.item() == pytest.approx(ntxent(torch.cat([first, second]), T), rel=1e-12)


def test_simclr_gradient_reaches_keys_too() -> None:
    z = embeddings(8, 5).requires_grad_()
    method = tiny.build("simclr")
    method.contrast(encoded(z[:4], z[4:]), T).backward()
    step = 1e-6
    with torch.no_grad():
        for row, column in ((0, 1), (5, 3), (7, 0)):
            high, low = z.clone(), z.clone()
            high[row, column] += step
            low[row, column] -= step
            slope = (ntxent(high, T) - ntxent(low, T)) / (2 * step)
            assert z.grad is not None
            assert z.grad[row, column].item() == pytest.approx(slope, rel=1e-6)


def test_moco_is_infonce_over_the_queue() -> None:
    query, key = embeddings(6, tiny.DIM), embeddings(6, tiny.DIM, seed=1)
    method = tiny.build("moco")
    queue: Any = method.sources[0].vectors_KD
    expected = 0.0
    for i in range(6):
        positive = math.exp(float(query[i] @ key[i]) / T)
        negatives = sum(math.exp(float(query[i] @ entry) / T) for entry in queue)
        expected -= math.log(positive / (positive + negatives)) / 6
    assert method.contrast(encoded(query, key), T).item() == pytest.approx(expected, rel=1e-12)


def test_byol_is_the_squared_distance_of_unit_vectors_both_ways() -> None:
    first, second, key_first, key_second = (embeddings(6, 5, seed=seed) for seed in range(4))
    index = torch.arange(6)
    views = Encoded({0: first, 1: second}, {0: key_first, 1: key_second}, {}, index, index)
    expected = sum(
        float(((q - k) ** 2).sum()) / 6
        for queries, keys in ((first, key_second), (second, key_first))
        for q, k in zip(queries, keys, strict=True)
    )
    assert tiny.build("byol").contrast(views, 1.0).item() == pytest.approx(expected, rel=1e-12)
    assert negative_cosine(first, -first).item() == pytest.approx(4)


def test_masked_columns_do_not_count() -> None:
    query, positive, vectors = embeddings(3, 5), torch.zeros(3, 1, dtype=torch.float64), embeddings(4, 5, seed=1)
    index = torch.tensor([10, 11, 12])
    columns = Columns(vectors, index_M=torch.tensor([-1, 12, 11, 11]), mask_own=True)
    loss = info_nce(query, positive, [columns], index, T)
    kept = [[0, 1, 2, 3], [0, 1], [0, 2, 3]]
    expected = sum(math.log(1 + sum(math.exp(float(query[i] @ vectors[k]) / T) for k in kept[i])) / 3 for i in range(3))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_scores_stand_for_columns_that_differ_by_query() -> None:
    query, positive, vectors = embeddings(3, 5), torch.zeros(3, 1, dtype=torch.float64), embeddings(4, 5, seed=1)
    index = torch.arange(3)
    by_vectors = info_nce(query, positive, [Columns(vectors)], index, T)
    assert torch.equal(by_vectors, info_nce(query, positive, [Columns(scores_NM=query @ vectors.T)], index, T))


@pytest.mark.parametrize("block", [1, 7, 24, 1000])
def test_block_by_block_is_the_same_loss_with_the_same_gradients(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.BLOCK, "cpu", block)
    index = torch.arange(3)
    results = []
    for dense in (losses.DENSE["cpu"], 0):
        monkeypatch.setitem(losses.DENSE, "cpu", dense)
        query, key, queue, batch = (embeddings(n, 5, seed=n).requires_grad_() for n in (3, 4, 11, 9))
        positive = (query * key[:3]).sum(1, keepdim=True)
        own = torch.tensor([0, 2, 1, -1, 2, 17, 0, 1, 2])
        columns = [Columns(queue), Columns(batch, index_M=own, mask_own=True), Columns(scores_NM=query @ key.T)]
        loss = info_nce(query, positive, columns, index, T)
        results.append([loss, *torch.autograd.grad(3 * loss, [query, key, queue, batch])])
    for dense_result, blockwise_result in zip(*results, strict=True):
        torch.testing.assert_close(blockwise_result, dense_result, rtol=1e-13, atol=1e-15)


def test_block_by_block_needs_no_logits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.DENSE, "cpu", 0)
    monkeypatch.setitem(losses.BLOCK, "cpu", 3 * 50)
    query, vectors = embeddings(3, 5).requires_grad_(), embeddings(1000, 5, seed=1).requires_grad_()
    with Largest() as largest:
        info_nce(query, torch.zeros(3, 1, dtype=torch.float64), [Columns(vectors)], torch.arange(3), T).backward()
    assert largest.num_logits == 3 * 50


class Largest(TorchDispatchMode):
    """The most elements of any tensor that has a row for each of three queries."""

    num_logits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dim() == 2 and len(result) == 3:
            self.num_logits = max(self.num_logits, result.numel())
        return result


def test_columns_are_counted_without_their_scores() -> None:
    index, own = torch.tensor([5, 6, 7]), torch.tensor([5, 5, 6, -1])
    vectors = embeddings(4, 5)
    assert Columns(vectors, index_M=own).count(index).item() == 4
    assert Columns(vectors, index_M=own, mask_own=True).count(index).item() == (2 + 3 + 4) / 3
    by_query = Columns(scores_NM=torch.zeros(3, 4), index_M=own, mask_own=True)
    assert by_query.count(index).item() == (2 + 3 + 4) / 3


def test_the_blockwise_products_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.DENSE, "cpu", 0)
    query, vectors = embeddings(3, 5).requires_grad_(), embeddings(100, 5, seed=1).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        info_nce(query, torch.zeros(3, 1, dtype=torch.float64), [Columns(vectors)], torch.arange(3), T).backward()
    assert counter.get_total_flops() == 4 * 2 * 3 * 100 * 5  # scores twice, and the gradients of both sides


def test_a_query_whose_columns_are_all_left_out_has_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(losses.DENSE, "cpu", 0)
    query, vectors, index = embeddings(2, 5).requires_grad_(), embeddings(4, 5, seed=1), torch.tensor([7, 8])
    columns = Columns(vectors, index_M=torch.full((4,), 7), mask_own=True)
    info_nce(query, query.sum(1, keepdim=True), [columns], index, T).backward()
    assert query.grad is not None and query.grad.isfinite().all() and not query.grad[0].any()
