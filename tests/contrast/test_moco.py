"""The queue against a list of keys, the key encoder against the paper's equation."""

import pytest
import torch

from negbench.contrast.source import Encoded
from negbench.methods.moco import Config, Queue
from tests.helpers import tiny

DIM = 3


def step_of_keys(step: int, num_keys: int, num_views: int) -> Encoded:
    keys = {
        view: torch.full((num_keys, DIM), float(1000 * step + 100 * view)) + torch.arange(num_keys)[:, None]
        for view in range(num_views)
    }
    index = torch.arange(num_keys) + 10 * step
    return Encoded({}, keys, keys, index, index)


@pytest.mark.parametrize("num_views", [1, 2])
@pytest.mark.parametrize(("size", "batch"), [(8, 4), (10, 4), (7, 3), (5, 5), (3, 8), (1, 2), (12, 5)])
def test_queue_holds_the_last_keys_for_any_size_and_batch(size: int, batch: int, num_views: int) -> None:
    queue = Queue(size, DIM, seed=0)
    history = [(tuple(row.tolist()), -1) for row in queue.vectors_KD]
    for step in range(9):
        encoded = step_of_keys(step, batch, num_views)
        queue.refresh(encoded, lambda encoded, temperature: torch.zeros(()), step)
        for key_ND in encoded.all_keys.values():
            history += [(tuple(key.tolist()), int(i)) for key, i in zip(key_ND, encoded.all_index, strict=True)]
        held = [(tuple(key.tolist()), int(i)) for key, i in zip(queue.vectors_KD, queue.index_K, strict=True)]
        assert sorted(held) == sorted(history[-size:])


def test_mask_own_image_leaves_out_the_querys_image_of_earlier_steps() -> None:
    encoded = step_of_keys(0, 4, 1)
    for mask in (False, True):
        queue = Queue(6, DIM, seed=0, mask_own_image=mask)
        queue.refresh(encoded, lambda encoded, temperature: torch.zeros(()), 0)
        (columns,) = queue.columns(encoded.keys[0], encoded, 0, 1)
        hidden = columns.scores(encoded.keys[0], encoded.index) == -torch.inf
        assert hidden.sum(1).tolist() == ([1, 1, 1, 1] if mask else [0, 0, 0, 0])


def test_queue_starts_as_unit_vectors_that_depend_on_the_seed() -> None:
    torch.testing.assert_close(Queue(9, 5, seed=0).vectors_KD.norm(dim=1), torch.ones(9))
    assert not torch.equal(Queue(9, 5, seed=0).vectors_KD, Queue(9, 5, seed=1).vectors_KD)


def test_key_momentum_rises_to_its_end() -> None:
    settings = {"name": "moco", "key_momentum": 0.99}
    assert [Config(**settings).momentum(10)(step) for step in (0, 5, 10)] == [0.99] * 3
    settings["key_momentum_schedule"] = "cosine"
    assert [Config(**settings).momentum(10)(step) for step in (0, 5, 10)] == pytest.approx([0.99, 0.995, 1.0])
    momentum = Config(**settings, key_momentum_end=0.999).momentum(10)
    assert [momentum(step) for step in (0, 5, 10)] == pytest.approx([0.99, 0.9945, 0.999])


def test_the_key_encoder_is_a_moving_average_of_the_query_encoder() -> None:
    """theta_k <- m theta_k + (1 - m) theta_q (arXiv:1911.05722, equation 2), from theta_k = theta_q at the start."""
    method = tiny.build("moco", key_momentum=0.9)
    assert method.key_encoder is not None
    theta_k = [p.detach().clone() for p in method.query_encoder.parameters()]
    for step in range(4):
        tiny.train(method, step, step + 1)
        theta_q = [p.detach().clone() for p in method.query_encoder.parameters()]
        theta_k = [0.9 * k + 0.1 * q for k, q in zip(theta_k, theta_q, strict=True)]
        for p, k, q in zip(method.key_encoder.parameters(), theta_k, theta_q, strict=True):
            torch.testing.assert_close(p.detach(), k, rtol=1e-12, atol=1e-14)
            assert not torch.equal(p, q)
