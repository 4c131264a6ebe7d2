"""What every method file must keep to; a new file is tested on arrival."""

import copy
import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from negbench.contrast.method import Method, RunShape
from negbench.models.encoder import Arithmetic
from negbench.runtime.distributed import rank, replicate, world_size
from negbench.runtime.errors import UserError
from negbench.settings.plugins.find import list_methods
from negbench.train.setup import set_up
from tests.helpers import runs, tiny
from tests.helpers.ranks import on_ranks

ALL = list(tiny.VARIANTS)


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def clone(method: Method) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}


@pytest.mark.parametrize("name_of_variant", ALL)
def test_forward_writes_nothing_and_after_step_only_what_is_not_trained(name_of_variant: str) -> None:
    method = tiny.variant(name_of_variant)
    tiny.train(method, 0, 4)
    before = clone(method)
    output = method(*tiny.batch(4, num_views=tiny.num_views(method)), 4)
    output.loss.backward()
    assert equal(clone(method), before)
    method.after_step(output, 4)
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    changed = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    assert not changed & trained
    frozen = "frozen" in name_of_variant
    assert frozen or not list(method.sources.buffers()) or any(part.startswith("sources.") for part in changed)
    assert method.key_encoder is None or any(part.startswith("key_encoder.") for part in changed)


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_exactly_the_query_side(name: str) -> None:
    method = tiny.variant(name)
    method(*tiny.batch(0, num_views=tiny.num_views(method)), 0).loss.backward()
    for parameter_name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == (not parameter_name.startswith("key_encoder")), parameter_name


@pytest.mark.parametrize("name", ALL)
def test_what_a_step_hands_to_the_sources_holds_no_graph(name: str) -> None:
    method = tiny.variant(name)
    encoded = method(*tiny.batch(0, num_views=tiny.num_views(method)), 0).encoded
    for views in (encoded.queries, encoded.keys, encoded.all_keys):
        assert not any(embedding.requires_grad for embedding in views.values())


def test_what_a_step_and_a_probe_hand_out_cannot_be_replaced() -> None:
    method = tiny.build("simclr")
    batch = tiny.batch(0)
    output = method(*batch, 0)
    for held, field in (
        (RunShape(24, 8, 7, 6, 0), "seed"),
        (output, "loss"),
        (output.encoded, "index"),
        (method.probe([batch]), "temperature"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(held, field, getattr(held, field))


def test_a_run_has_two_views_unless_it_says_so() -> None:
    assert RunShape(24, 8, 7, 6, 0).pairs(symmetric=True) == ((0, 1), (1, 0))


@pytest.mark.parametrize("name", ALL)
def test_resume_is_bitwise(name: str) -> None:
    undisturbed, first_half, second_half = (tiny.variant(name) for _ in range(3))
    tiny.train(undisturbed, 0, tiny.STEPS)
    tiny.train(first_half, 0, 3)
    second_half.load_state_dict(copy.deepcopy(first_half.state_dict()))
    tiny.train(second_half, 3, tiny.STEPS)
    assert equal(second_half.state_dict(), undisturbed.state_dict())


@pytest.mark.parametrize("name", ALL)
def test_no_query_meets_its_own_image_of_the_same_step(name: str) -> None:
    method = tiny.variant(name)
    tiny.train(method, 0, 5)
    views, index = tiny.batch(5, num_views=tiny.num_views(method))
    encoded = method.encode(views, index, 5)
    for query_view, key_view in method.pairs:
        query_ND = encoded.queries[query_view]
        own_ND = torch.cat([*encoded.keys.values(), query_ND]).detach()
        for source in method.all_sources:
            for columns in source.columns(query_ND, encoded, query_view, key_view):
                scores_NM = columns.scores(query_ND, index)
                assert columns.vectors_MD is not None
                same_as_own = torch.cdist(own_ND, columns.vectors_MD.detach()) < 1e-6
                for number in range(len(index)):
                    shows_own = same_as_own[number :: len(index)].any(0)
                    assert (scores_NM[number][shows_own] == -torch.inf).all()


def test_the_key_encoder_follows_with_the_momentum_of_its_step() -> None:
    """tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2 at step k of K (BYOL, arXiv:2006.07733, section 3.2)."""
    method = tiny.build("byol", key_momentum=0.9)
    assert method.key_encoder is not None
    for step in range(tiny.STEPS):
        before = [p.detach().clone() for p in method.key_encoder.parameters()]
        tiny.train(method, step, step + 1)
        tau = 1 - (1 - 0.9) * (math.cos(math.pi * step / tiny.STEPS) + 1) / 2
        for target, old, online in zip(
            method.key_encoder.parameters(), before, method.query_encoder.parameters(), strict=True
        ):
            expected = tau * old + (1 - tau) * online.detach()
            torch.testing.assert_close(target.detach(), expected, rtol=1e-12, atol=1e-14)


def encoding_orders(step: int, seed: int = 0) -> list[list[int]]:
    """For each key view the numbers of the images in the order in which the key encoder takes them."""
    method = tiny.build("moco", tiny.encoder(arithmetic=Arithmetic(None, "split", seed)), symmetric=True)
    assert method.key_encoder is not None
    orders = []
    method.key_encoder.register_forward_pre_hook(lambda _, inputs: orders.append(inputs[0][:, 0, 0, 0].tolist()))
    numbers = torch.arange(float(tiny.BATCH), dtype=torch.float64).view(-1, 1, 1, 1)
    view = numbers.expand(-1, 3, tiny.SIZE, tiny.SIZE)
    method.embed_keys([view, view], step)
    return orders


def test_keys_are_shuffled_anew_at_every_step_in_every_view_and_for_every_seed() -> None:
    orders = [order for step in range(3) for seed in range(2) for order in encoding_orders(step, seed)]
    assert len(orders) == 3 * 2 * 2
    assert all(sorted(order) == list(range(tiny.BATCH)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)
    assert encoding_orders(2) == encoding_orders(2)


def states_on_ranks(names: list[str]) -> dict[str, Any]:
    rows = slice(rank() * tiny.BATCH // world_size(), (rank() + 1) * tiny.BATCH // world_size())
    result: dict[str, Any] = {}
    for name in names:
        method = tiny.variant(name)
        replica = replicate(method, torch.device("cpu"))
        outputs = tiny.train(method, 0, tiny.STEPS, rows, replica)
        result[name] = {"state": clone(method), "losses": [output.loss.item() for output in outputs]}
    return result


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_ranks_equal_one_process_and_each_other(num_ranks: int) -> None:
    ranks = on_ranks(num_ranks, states_on_ranks, ALL)
    for name in ALL:
        method = tiny.variant(name)
        losses = [output.loss.item() for output in tiny.train(method, 0, tiny.STEPS)]
        for other in ranks[1:]:
            assert equal(other[name]["state"], ranks[0][name]["state"]), name
        for key, value in method.state_dict().items():
            torch.testing.assert_close(
                ranks[0][name]["state"][key], value, rtol=1e-10, atol=1e-10, msg=f"{name}: {key}"
            )
        mean = torch.tensor([r[name]["losses"] for r in ranks], dtype=torch.float64).mean(0).tolist()
        assert mean == pytest.approx(losses, rel=1e-10), name


@pytest.mark.parametrize("name", tiny.METHODS)
def test_the_listing_says_where_negatives_come_from_and_names_the_paper(name: str) -> None:
    summary, _, rest = list_methods()[name].docstring.partition("\n\n")
    assert ": " in summary and "negatives" in summary
    assert "arXiv:" in rest


OWN_ENCODER = """
from negbench.contrast import Encoder, InBatch, Method, MethodConfig as Config


class Whole(Method):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        assert (str(self.autocast_dtype), self.batch_norm, self.seed) == ("torch.bfloat16", "split", 5)


def build(config, encoder, shape):
    own = Encoder(encoder.backbone, encoder.projector, encoder.feature_dim{arithmetic})
    return Whole(own, shape.pairs(True), [InBatch()])
"""


def test_a_method_is_built_with_the_precision_the_batch_norm_policy_and_the_seed_of_its_run(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN_ENCODER.format(arithmetic=", encoder.arithmetic"))
    set_up(runs.short(str(file), "precision=bf16", "batch_norm=split", "seed=5"), runs.CPU)


def test_a_method_that_makes_an_encoder_without_them_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN_ENCODER.format(arithmetic="").replace("assert", "self.seen ="))
    with pytest.raises(UserError, match="method own makes an encoder of its own without the precision and BatchNorm"):
        set_up(runs.short(str(file), "precision=bf16"), runs.CPU)
