"""Diagnostics of real methods on fixed images: what they say, and that they leave no trace."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from negbench.contrast.losses import Columns
from negbench.contrast.method import Method, Probe
from negbench.contrast.passes import unit_norm
from negbench.contrast.source import NegativeSource
from negbench.data.batches import training_batches
from negbench.data.sets import ResidentSet
from negbench.evaluate.diagnostics import figures as diagnostics
from negbench.evaluate.diagnostics import probing
from negbench.evaluate.diagnostics.probing import Prober
from negbench.models.encoder import Encoder
from negbench.runtime.distributed import rank, replicate, world_size
from negbench.train.optim import build_optimizer
from negbench.train.run import execute
from negbench.train.setup import Setup, set_up
from tests.contrast.test_methods import clone, equal
from tests.helpers import runs, tiny
from tests.helpers.ranks import on_ranks

BANK = 30


def prober_of(method: str, *settings: str) -> tuple[Setup, Prober]:
    setup = set_up(runs.short(method, *settings), runs.CPU)
    setup.method.train()
    return setup, Prober(setup.config, setup.method, setup.splits.train, runs.CPU)


def steps(setup: Setup, first: int, last: int) -> None:
    replica = replicate(setup.method, runs.CPU) if world_size() > 1 else setup.method
    optimizer = build_optimizer(setup.method, setup.config.optimizer)
    train_set = setup.splits.train
    batches = training_batches(train_set, setup.config, runs.CPU, first, last, rank(), world_size())
    for step, (views, index) in enumerate(batches, first):
        output = replica(views, index, step)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        setup.method.after_step(output, step)


def figures(setup: Setup, prober: Prober, step: int) -> dict[str, Any]:
    train_set = setup.splits.train
    assert isinstance(train_set, ResidentSet)
    images, labels_N = train_set.images_NCHW[:BANK], train_set.labels_N[:BANK]
    setup.method.eval()
    features_NF = setup.method.query_encoder.backbone(images.float() / 255).detach()
    setup.method.train()
    return prober.figures(step, features_NF, labels_N)


def probes(prober: Prober) -> list[Probe]:
    return [prober.method.probe(chunks) for chunks in prober._batches()]


@pytest.mark.parametrize("name", tiny.METHODS)
def test_a_probe_writes_nothing(name: str) -> None:
    setup, prober = prober_of(name)
    steps(setup, 0, 3)
    before, generator = clone(setup.method), torch.random.get_rng_state()
    prober.remember(2)
    figures(setup, prober, 3)
    assert equal(clone(setup.method), before)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(module.training for module in setup.method.modules())


@pytest.mark.parametrize("name", ["adco", "moco"])
def test_parts_of_a_batch_make_the_figures_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setup, prober = prober_of(name)
    whole = figures(setup, prober, 0)
    monkeypatch.setattr(probing, "_CHUNK", 4)
    assert len(list(next(prober._batches()))) == 4
    assert flat(figures(setup, prober, 0)) == pytest.approx(flat(whole), rel=1e-3)


def test_a_frozen_encoder_has_a_staleness_of_exactly_1() -> None:
    setup, prober = prober_of("moco", "method.symmetric=false")
    assert list(prober.oldest.values()) == [3]  # 40 entries, 16 a step
    steps(setup, 0, 4)
    for step in (1, 2, 3):
        prober.remember(step)
    queue = figures(setup, prober, 4)["sources"]["Queue"]
    assert (queue["staleness"], queue["oldest_age"]) == (1.0, 3)
    assert queue["staleness_by_age"] == {"1": 1.0, "2": 1.0, "3": 1.0}
    steps(setup, 4, 6)
    moved = figures(setup, prober, 4)["sources"]["Queue"]
    assert moved["staleness"] < 1


def test_each_age_is_held_against_the_encoder_of_that_time() -> None:
    setup, prober = prober_of("moco", "method.symmetric=false", "method.num_negatives=1000")
    keys = {}
    for step in range(7):
        prober.remember(step)
        keys[step] = torch.cat([probe.key_ND for probe in probes(prober)])
        steps(setup, step, step + 1)
    now = torch.cat([probe.key_ND for probe in probes(prober)])
    queue = figures(setup, prober, 7)["sources"]["Queue"]
    by_age = {age: (now * keys[7 - age]).sum(1).mean().item() for age in (1, 2, 4, 7)}  # as far back as there is
    assert queue["staleness_by_age"] == pytest.approx({str(age): cosine for age, cosine in by_age.items()}, abs=1e-6)
    assert queue["oldest_age"] == 7
    del prober.remembered[0]  # as if diagnostics had been switched on later
    assert "staleness" not in figures(setup, prober, 7)["sources"]["Queue"]


class Odd(NegativeSource):
    """Learned vectors in two columns, one with scores alone, and one without any."""

    learned = True

    def columns(self, query_ND: Tensor, encoded: Any, query_view: int, key_view: int) -> list[Columns]:
        vectors_KD = unit_norm(torch.ones(5, query_ND.shape[1]))
        return [
            Columns(vectors_KD),
            Columns(vectors_KD[:3]),
            Columns(scores_NM=query_ND[:, :4]),
            Columns(vectors_KD[:0]),
        ]


class Growing(NegativeSource):
    """Nothing yet."""

    def columns(self, query_ND: Tensor, encoded: Any, query_view: int, key_view: int) -> list[Columns]:
        return [Columns(query_ND[:0].detach())]


def test_sources_of_other_shapes_are_described_too() -> None:
    setup, _ = prober_of("moco")
    encoder = setup.method.query_encoder
    setup.method = Method(encoder, ((0, 1),), [Odd(), Growing(), Growing()], 0.2, lambda step: 0.9)
    prober = Prober(setup.config, setup.method, setup.splits.train, runs.CPU)
    prober.remember(2)
    sources = figures(setup, prober, 3)["sources"]
    assert list(sources) == ["Odd", "Growing 1", "Growing 2", "all"]
    assert sources["Odd"]["negatives"] == sources["all"]["negatives"] == 12
    assert sources["Odd"]["duplicates"] == 1 and sources["Odd"]["angle_degrees"] == 0
    assert (sources["Growing 1"]["negatives"], sources["Growing 1"]["mass_share"]) == (0, 0)
    assert sources["Growing 1"]["top1_cosine"] is None and sources["Growing 1"]["tracking"] is None


def test_a_query_without_negatives_leaves_the_means_alone() -> None:
    setup, prober = prober_of("moco", "method.mask_own_image=true", "method.num_negatives=1", "method.symmetric=false")
    queue: Any = setup.method.sources[0]
    queue.index_K.fill_(probes(prober)[0].index_N[0])
    told = figures(setup, prober, 0)["sources"]["Queue"]
    assert told["negatives"] == 63 / 64  # one of 64 queries has none
    assert all(value is None or math.isfinite(value) for value in told.values())


def test_adversaries_that_are_copies_of_keys_track_in_full() -> None:
    setup, prober = prober_of("adco", "method.num_negatives=64")
    adversaries: Any = setup.method.sources[1]
    keys_PD = torch.cat([probe.key_ND for probe in probes(prober)])
    adversaries.vectors_KD.copy_(keys_PD[:64])
    prober.remember(6)
    still = figures(setup, prober, 7)["sources"]["Adversaries"]
    assert (still["tracking"], still["angle_degrees"]) == (1.0, 0.0)
    adversaries.vectors_KD.copy_(-keys_PD[:64])
    turned = figures(setup, prober, 7)["sources"]["Adversaries"]
    assert turned["tracking"] < 0.5 and turned["angle_degrees"] == pytest.approx(180, abs=0.1)
    adversaries.vectors_KD.copy_(keys_PD[0].expand(64, -1))
    alike = figures(setup, prober, 7)["sources"]["Adversaries"]
    assert (alike["duplicates"], alike["effective_negatives"]) == (1.0, pytest.approx(64, rel=1e-5))


def test_the_queue_tells_images_that_are_the_querys_own() -> None:
    setup, prober = prober_of("moco")
    queue: Any = setup.method.sources[0]
    probe = probes(prober)[0]
    queue.index_K.copy_(probe.index_N.repeat(3)[:40])
    assert figures(setup, prober, 0)["sources"]["Queue"]["own_image_share"] > 0
    queue.index_K.fill_(-1)
    unknown = figures(setup, prober, 0)["sources"]["Queue"]
    assert unknown["own_image_share"] is None and unknown["false_negative_rate"] is None


def test_probe_images_are_training_images_under_their_numbers() -> None:
    setup, prober = prober_of("moco")
    for probe in probes(prober):
        assert probe.index_N.unique().numel() == 16
    numbers = torch.cat([probe.index_N for probe in probes(prober)])
    assert len(numbers) == 64 and numbers.unique().numel() == 64
    assert torch.equal(numbers.sort().values, prober.position_P)
    assert torch.equal(setup.splits.train.labels_N[prober.position_P], prober.images.labels_N)


def test_sources_are_told_apart_and_together() -> None:
    setup, prober = prober_of("adco")
    sources = figures(setup, prober, 0)["sources"]
    assert list(sources) == ["InBatch", "Adversaries", "all"]
    assert sources["InBatch"]["mass_share"] + sources["Adversaries"]["mass_share"] == pytest.approx(1)
    assert sources["all"]["negatives"] == sources["InBatch"]["negatives"] + sources["Adversaries"]["negatives"] == 55
    assert "sources" not in figures(*prober_of("byol"), 0)


class ToDouble(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.double()


def figures_on_ranks(name: str) -> dict[str, float]:
    """In float64 without BatchNorm, so that ranks differ from one process by rounding alone."""
    setup = set_up(runs.short(name), runs.CPU)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Flatten(), ToDouble(), nn.Linear(3 * 8 * 8, 10), nn.Tanh())
        encoder = Encoder(backbone, nn.Linear(10, tiny.DIM), 10)
    setup.method = tiny.build(name, encoder)
    prober = Prober(setup.config, setup.method, setup.splits.train, runs.CPU)
    for step in range(4):
        prober.remember(step)
        steps(setup, step, step + 1)
    return flat(figures(setup, prober, 4))


@pytest.mark.parametrize("name", tiny.METHODS)
def test_two_ranks_have_the_figures_of_one_process(name: str) -> None:
    alone = figures_on_ranks(name)
    for of_rank in on_ranks(2, figures_on_ranks, name):
        assert of_rank == pytest.approx(alone, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["adco", "moco"])
def test_a_run_with_diagnostics_has_the_weights_of_one_without(name: str, tmp_path: Path) -> None:
    outcomes = []
    for setting in ("true", "false"):
        resolved = runs.short(name, f"diagnostics={setting}")
        execute(resolved, tmp_path / setting, runs.CPU)
        state, rows = runs.outcome(runs.folder(resolved, tmp_path / setting))
        assert any(row["kind"] == "diagnostics" for row in rows) == (setting == "true")
        del state["curve"]
        outcomes.append((state, [row for row in rows if row["kind"] != "diagnostics"]))
    runs.assert_same(outcomes[0], outcomes[1])


def test_evaluations_look_back_as_far_as_the_queue_reaches(tmp_path: Path) -> None:
    resolved = runs.short("moco", "method.symmetric=false")
    execute(resolved, tmp_path, runs.CPU)
    rows = [row for row in runs.folder(resolved, tmp_path).read_metrics() if row["kind"] == "diagnostics"]
    assert [row["step"] for row in rows] == [0, 4, 8, 12]
    assert "staleness" not in rows[0]["sources"]["Queue"]
    for row in rows[1:]:
        by_age = row["sources"]["Queue"]["staleness_by_age"]
        assert list(by_age) == ["1", "2", "3"]
        assert by_age["1"] > by_age["2"] > by_age["3"]
        assert diagnostics.over_ages({int(age): c for age, c in by_age.items()}) == row["sources"]["Queue"]["staleness"]


def test_a_queue_older_than_the_run_is_looked_at_from_its_start(tmp_path: Path) -> None:
    resolved = runs.short("moco", "method.symmetric=false", "method.num_negatives=300")  # 19 steps
    execute(resolved, tmp_path, runs.CPU)
    rows = [row for row in runs.folder(resolved, tmp_path).read_metrics() if row["kind"] == "diagnostics"]
    told = [row["sources"]["Queue"].get("staleness_by_age", {}) for row in rows]
    assert [list(by_age) for by_age in told] == [[], ["1", "2", "4"], ["1", "2", "4", "8"], ["1", "2", "4", "8", "12"]]


def flat(figures: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in figures.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value or 0.0}
    return found
