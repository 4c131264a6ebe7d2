"""Multi-crop: views of several sizes, each size encoded once, their losses summed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from negbench.contrast.method import RunShape
from negbench.contrast.source import Encoded
from negbench.cost.bench.workloads import BareWorkload, MethodWorkload, passes_of, random_images
from negbench.data.batches import training_batches
from negbench.data.views import crops as views
from negbench.models.encoder import Arithmetic, Encoder
from negbench.runtime.distributed import rank, world_size
from negbench.runtime.failure import Interrupted
from negbench.runtime.seeding import stream
from negbench.settings.plugins.find import list_methods
from negbench.settings.resolve import resolve
from negbench.train.setup import set_up
from tests.helpers import tiny
from tests.helpers.ranks import on_ranks
from tests.helpers.runs import CPU, STEPS, StopAt, assert_same, folder, outcome, short, start

CROPS = "views.crops=[{size: 12, scale: [0.1, 0.5]}, {size: 8, scale: [0.05, 0.3], num: 2}]"
NAMES = list(list_methods())


def test_sizes_scales_and_colours() -> None:
    config = resolve("moco", "quickstart", [CROPS, "views.first.hue=0.3", "views.second.hue=0"]).config
    assert config.views.sizes(32) == (32, 32, 12, 8, 8)
    scales = [view.crop_scale for view in config.views.all]
    assert scales == [(0.3, 1.0), (0.3, 1.0), (0.1, 0.5), (0.05, 0.3), (0.05, 0.3)]
    assert [view.hue for view in config.views.all] == [0.3, 0.0, 0.3, 0.3, 0.3]


def test_crops_make_another_run_and_none_the_same() -> None:
    without = resolve("moco", "quickstart").run_id
    assert resolve("moco", "quickstart", ["views.crops=[]"]).run_id == without
    assert resolve("moco", "quickstart", [CROPS]).run_id != without


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        ("[{size: 96}]", r"views.crops.0.scale \(--set\): field required"),
        (
            "[{size: 96, scale: [0.5, 0.1]}]",
            r"views.crops.0.scale \(--set\): must be two numbers in \(0, 1\], low then",
        ),
        ("[{size: 96, scale: [0.1, 0.2], nun: 6}]", r"unknown key views.crops.0.nun \(--set\)"),
        ("[{size: 4, scale: [0.1, 0.2]}]", r"views.crops.0.size \(--set\): .* greater than or equal to 8, not 4"),
        ("96", r"views.crops \(--set\): .*, not 96"),
    ],
)
def test_mistakes(crops: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve("moco", "quickstart", [f"views.crops={crops}"])


def test_views_have_their_sizes_and_the_first_two_do_not_depend_on_crops() -> None:
    config = resolve("moco", "quickstart", [CROPS, "batch_size=6"]).config
    plain = resolve("moco", "quickstart", ["batch_size=6"]).config
    images = random_images(config, CPU)
    made, index = next(training_batches(images, config, CPU, 3, 4))
    pair, _ = next(training_batches(images, plain, CPU, 3, 4))
    assert [tuple(view.shape) for view in made] == [(6, 3, size, size) for size in (32, 32, 12, 8, 8)]
    assert torch.equal(made[0], pair[0]) and torch.equal(made[1], pair[1])
    numbers_VBP = views.uniforms(config.seed, 3, 6, 5)
    for number in (2, 3, 4):
        size, view_config = config.views.sizes(32)[number], config.views.all[number]
        expected = views.augment(images.images_NCHW[index], view_config, numbers_VBP[number], size)
        assert torch.equal(made[number], expected)


def shapes(encoder: Encoder | None) -> list[tuple[int, int]]:
    """(images, side) of every pass through the backbone, as they come."""
    seen: list[tuple[int, int]] = []
    if encoder is not None:
        hook: Callable[..., None] = lambda module, inputs: seen.append((len(inputs[0]), inputs[0].shape[-1]))  # noqa: E731
        encoder.backbone.register_forward_pre_hook(hook)
    return seen


@pytest.mark.parametrize(
    ("name", "symmetric", "of_queries", "of_keys"),
    [
        ("adco", False, [(16, 8), (16, 12), (32, 9)], [(16, 8)]),
        ("adco", True, [(32, 8), (16, 12), (32, 9)], [(32, 8)]),
        ("byol", True, [(32, 8), (16, 12), (32, 9)], [(32, 8)]),
        ("simclr", True, [(32, 8), (16, 12), (32, 9)], []),
    ],
)
def test_the_encoder_runs_once_a_size(
    name: str, symmetric: bool, of_queries: list[tuple[int, int]], of_keys: list[tuple[int, int]]
) -> None:
    crops = "views.crops=[{size: 12, scale: [0.1, 0.5]}, {size: 9, scale: [0.05, 0.3], num: 2}]"
    resolved = short(name, crops, f"method.symmetric={str(symmetric).lower()}")
    workload = MethodWorkload(resolved, CPU, None)
    bare = BareWorkload(resolved.config, passes_of(workload.method), CPU, None)
    seen = [shapes(encoder) for encoder in (workload.method.query_encoder, workload.method.key_encoder)]
    seen_bare = [shapes(encoder) for encoder in (bare.encoder, bare.key_encoder)]
    workload.step()
    bare.step()
    assert seen == [of_queries, of_keys]
    assert seen_bare == seen


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["adco", "byol", "simclr"])
def test_each_view_has_its_own_embedding(name: str, symmetric: bool) -> None:
    settings: dict[str, Any] = {} if name == "simclr" else {"symmetric": symmetric}
    shuffling = tiny.encoder(arithmetic=Arithmetic(None, "split"))
    method = tiny.build(name, shuffling, num_views=5, **settings)
    tiny.train(method, 0, 3)
    views, index = tiny.batch(3, num_views=5)
    views = [view.contiguous(memory_format=torch.channels_last) for view in views] if symmetric else views
    encoded = method.encode(views, index, 3)
    predict = method.predictor or torch.nn.Identity()
    for view, query_ND in encoded.queries.items():
        expected = F.normalize(predict(method.query_encoder(views[view])))
        torch.testing.assert_close(query_ND, expected, rtol=0, atol=1e-12)
    for view, key_ND in encoded.keys.items():
        expected = F.normalize((method.key_encoder or method.query_encoder)(views[view]))
        torch.testing.assert_close(key_ND, expected, rtol=0, atol=1e-12)


SPLIT = "views.crops=[{size: 8, scale: [0.1, 0.5]}, {size: 9, scale: [0.05, 0.3], num: 2}]"


def queries(batch_norm: str) -> dict[int, Tensor]:
    """Of this rank's rows of a batch whose second view is brighter, with a backbone that has BatchNorm."""
    method = set_up(short("byol", SPLIT, f"batch_norm={batch_norm}"), CPU).method.double().train()
    rows = slice(rank() * 16 // world_size(), (rank() + 1) * 16 // world_size())
    generator = stream("test", "views")
    drawn = [torch.randn(16, 3, size, size, generator=generator, dtype=torch.float64) for size in (8, 8, 8, 9, 9)]
    drawn[1] += 3
    return method.encode([view[rows] for view in drawn], torch.arange(16)[rows], 0).detach().queries


def test_a_group_of_split_batch_norm_sees_what_a_process_of_several_sees() -> None:
    split, ranks = queries("split"), on_ranks(2, queries, "process")
    for view, query_ND in split.items():
        torch.testing.assert_close(query_ND, torch.cat([part[view] for part in ranks]), rtol=0, atol=1e-10)


def cross_entropy(query_ND: Tensor, positive_ND: Tensor, negatives: Sequence[Tensor], temperature: float) -> Tensor:
    """-log softmax, image by image; each negative tensor is [M, D], or [N, M, D] where it differs by image."""
    losses = []
    for number, query_D in enumerate(query_ND):
        candidates = [positive_ND[number][None]]
        candidates += [other[number] if other.ndim == 3 else other for other in negatives]
        logits = torch.cat(candidates) @ query_D / temperature
        losses.append(-F.log_softmax(logits, dim=0)[0])
    return torch.stack(losses).mean()


def others(keys_ND: Tensor) -> Tensor:
    """[N, N - 1, D]: for each image the keys of the other images."""
    return torch.stack([torch.cat([keys_ND[:n], keys_ND[n + 1 :]]) for n in range(len(keys_ND))])


def encoded_by(name: str, **settings: Any) -> tuple[Encoded, Tensor, Tensor]:
    """A step's embeddings, its loss, and the unit vectors of the last source."""
    method = tiny.build(name, num_views=5, **settings)
    tiny.train(method, 0, 4)
    output = method(*tiny.batch(4, num_views=5), 4)
    vectors = [F.normalize(buffer, dim=1) for key, buffer in method.sources.named_buffers() if "vectors" in key]
    return output.encoded, output.loss.detach(), vectors[-1] if vectors else torch.empty(0, tiny.DIM)


@pytest.mark.parametrize("symmetric", [False, True])
def test_adco_sums_over_queries_and_averages_over_key_views(symmetric: bool) -> None:
    encoded, loss, adversaries_KD = encoded_by("adco", symmetric=symmetric, num_negatives=12)
    of_keys: list[Any] = [
        sum(
            cross_entropy(query_ND, key_ND, [others(key_ND), adversaries_KD], 0.12)
            for view, query_ND in encoded.queries.items()
            if view != key_view
        )
        for key_view, key_ND in encoded.keys.items()
    ]
    assert len(of_keys) == 1 + symmetric
    torch.testing.assert_close(loss, torch.stack(of_keys).mean(), rtol=1e-12, atol=0)


def test_moco_contrasts_every_crop_with_the_queue() -> None:
    encoded, loss, queue_KD = encoded_by("moco", num_negatives=20)
    key_ND = encoded.keys[1]
    expected = sum(cross_entropy(encoded.queries[view], key_ND, [queue_KD], 0.2) for view in (0, 2, 3, 4))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_simclr_contrasts_every_crop_with_both_views_of_the_others() -> None:
    encoded, loss, _ = encoded_by("simclr")
    first_ND, second_ND = encoded.keys[0], encoded.keys[1]
    negatives = [others(first_ND), others(second_ND)]
    of_second = sum(cross_entropy(encoded.queries[view], second_ND, negatives, 0.5) for view in (0, 2, 3, 4))
    of_first = sum(cross_entropy(encoded.queries[view], first_ND, negatives, 0.5) for view in (1, 2, 3, 4))
    torch.testing.assert_close(loss, (of_first + of_second) / 2, rtol=1e-12, atol=0)


def test_byol_sums_over_all_pairs() -> None:
    encoded, loss, _ = encoded_by("byol")
    pairs = RunShape(1, 1, 1, 1, 0, num_views=5).pairs(symmetric=True)
    assert pairs == ((0, 1), (2, 1), (3, 1), (4, 1), (1, 0), (2, 0), (3, 0), (4, 0))
    cosines = [(encoded.queries[query] * encoded.keys[key]).sum(1) for query, key in pairs]
    torch.testing.assert_close(loss, sum((2 - 2 * cosine).mean() for cosine in cosines), rtol=1e-12, atol=0)


def test_a_method_of_two_views_refuses_crops(tmp_path: Path) -> None:
    source = Path(list_methods()["moco"].path).read_text().replace("shape.pairs(config.symmetric)", "((0, 1),)")
    file = tmp_path / "pair.py"
    file.write_text(source)
    assert set_up(short(str(file), "method.num_negatives=40"), CPU).method.pairs == ((0, 1),)
    with pytest.raises(ValueError, match=r"method pair contrasts only two views; leave views\.crops empty"):
        set_up(short(str(file), "method.num_negatives=40", CROPS), CPU)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_interrupted_and_resumed_is_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    resolved = short(name, CROPS)
    start(resolved, tmp_path / "undisturbed")
    with pytest.raises(Interrupted):
        start(resolved, tmp_path / "resumed", StopAt(6))
    start(resolved, tmp_path / "resumed")
    undisturbed, resumed = (folder(resolved, tmp_path / which) for which in ("undisturbed", "resumed"))
    assert_same(outcome(undisturbed), outcome(resumed))
    assert outcome(resumed)[0]["step"] == STEPS
    assert json.loads(resumed.summary.read_text())["views_per_step"] == 16 * 5
