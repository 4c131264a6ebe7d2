import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from negbench.settings.schema import OptimizerConfig, ScheduleConfig
from negbench.train.optim import LARS, build_optimizer, learning_rate, param_groups, set_learning_rate


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).double()


def backward(module: nn.Module, step: int) -> None:
    inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    module.zero_grad()
    (module(inputs) ** 2).mean().backward()


def reference_lars(
    weights: list[float], velocity: list[float], gradient: list[float], lr: float, config: OptimizerConfig, adapt: bool
) -> None:
    """One parameter, number by number."""
    decay = config.weight_decay if adapt else 0.0
    update = [g + decay * w for g, w in zip(gradient, weights, strict=True)]
    weight_norm, update_norm = math.hypot(*weights), math.hypot(*update)
    scaled = adapt and weight_norm > 0 and update_norm > 0
    trust = config.trust_coefficient * weight_norm / update_norm if scaled else 1.0
    rate = min(lr, trust) if scaled and config.clip else lr * trust
    for i in range(len(weights)):
        velocity[i] = config.momentum * velocity[i] + rate * update[i]
        weights[i] -= velocity[i]


@pytest.mark.parametrize("clip", [False, True])
def test_lars_equals_the_formula_number_by_number(clip: bool) -> None:
    config = OptimizerConfig(name="lars", lr=2.0, momentum=0.8, weight_decay=0.1, trust_coefficient=0.02, clip=clip)
    module = network()
    optimizer = build_optimizer(module, config)
    expected = [p.detach().flatten().tolist() for p in module.parameters()]
    velocities = [[0.0] * len(weights) for weights in expected]
    for step, lr in enumerate([0.5, 2.0, 1.0, 0.1]):
        set_learning_rate(optimizer, lr)
        backward(module, step)
        for p, weights, velocity in zip(module.parameters(), expected, velocities, strict=True):
            assert p.grad is not None
            reference_lars(weights, velocity, p.grad.flatten().tolist(), lr, config, adapt=p.ndim > 1)
        optimizer.step()
        for p, weights in zip(module.parameters(), expected, strict=True):
            torch.testing.assert_close(p.detach().flatten(), torch.tensor(weights, dtype=torch.float64))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("weight", "gradient"), [(0.0, 1.0), (1.0, 0.0)])
def test_lars_does_not_scale_where_a_norm_is_zero(weight: float, gradient: float, clip: bool) -> None:
    p = nn.Parameter(torch.full((2, 2), weight))
    p.grad = torch.full((2, 2), gradient)
    LARS([p], lr=0.5, clip=clip).step()
    assert torch.equal(p, torch.full((2, 2), weight - 0.5 * gradient))


def test_clipped_lars_stands_still_at_a_rate_of_zero() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    optimizer = LARS([p], lr=0.5, clip=True)
    set_learning_rate(optimizer, 0.0)
    optimizer.step()
    assert torch.equal(p, torch.ones(2, 2))


def test_lars_skips_parameters_without_gradient() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    used.grad = torch.ones(2, 2)
    optimizer = LARS([used, unused], lr=0.5, weight_decay=0.1)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2, 2))
    assert not torch.equal(used, torch.ones(2, 2))


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"momentum": 1.0}, {"weight_decay": -0.1}, {"trust_coefficient": 0.0}])
def test_lars_refuses_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        LARS([nn.Parameter(torch.ones(1))], **{"lr": 0.1} | wrong)


def shapes(groups: list[dict[str, Any]]) -> list[tuple[list[int], float]]:
    return [([p.ndim for p in group["params"]], group["weight_decay"]) for group in groups]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_groups_of_sgd_and_adamw(name: Any) -> None:
    everything = param_groups(network(), OptimizerConfig(name=name, weight_decay=0.1))
    assert shapes(everything) == [([2, 1, 1, 1, 2, 1], 0.1)]
    split = param_groups(network(), OptimizerConfig(name=name, weight_decay=0.1, exclude="norm-and-bias"))
    assert shapes(split) == [([2, 2], 0.1), ([1, 1, 1, 1], 0.0)]


@pytest.mark.parametrize("exclude", ["none", "norm-and-bias"])
def test_groups_of_lars(exclude: Any) -> None:
    groups = param_groups(network(), OptimizerConfig(name="lars", weight_decay=0.1, exclude=exclude))
    assert shapes(groups) == [([2, 2], 0.1), ([1, 1, 1, 1], 0.0)]
    assert [group["adapt"] for group in groups] == [True, False]


def test_frozen_parameters_and_empty_groups_stay_out() -> None:
    module = network()
    for layer in (module[0], module[1]):
        layer.requires_grad_(False)
    module[3].bias.requires_grad_(False)
    (group,) = param_groups(module, OptimizerConfig(exclude="norm-and-bias"))
    assert [p is module[3].weight for p in group["params"]] == [True]


def test_sgd_and_adamw_take_the_settings() -> None:
    sgd = build_optimizer(network(), OptimizerConfig(name="sgd", lr=0.3, momentum=0.7, weight_decay=0.2))
    assert isinstance(sgd, torch.optim.SGD)
    group = sgd.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.3, 0.7, 0.2, False)
    adamw = build_optimizer(network(), OptimizerConfig(name="adamw", lr=0.3, betas=(0.8, 0.95), weight_decay=0.2))
    assert isinstance(adamw, torch.optim.AdamW)
    group = adamw.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.3, (0.8, 0.95), 0.2)


@pytest.mark.parametrize("name", ["sgd", "lars", "adamw"])
def test_state_survives_a_round_trip(name: Any, tmp_path: Any) -> None:
    config = OptimizerConfig(name=name, lr=0.01, exclude="norm-and-bias")
    module = network()
    optimizer = build_optimizer(module, config)

    def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
        for step in steps:
            backward(module, step)
            optimizer.step()
        return [p.detach().clone() for p in module.parameters()]

    train(module, optimizer, range(3))
    set_learning_rate(optimizer, 0.02)
    torch.save(optimizer.state_dict(), tmp_path / "state")
    twin = copy.deepcopy(module)
    resumed = build_optimizer(twin, config)
    resumed.load_state_dict(torch.load(tmp_path / "state"))
    expected = train(module, optimizer, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(train(twin, resumed, range(3, 6)), expected, strict=True))


def test_set_learning_rate_reaches_all_groups() -> None:
    optimizer = build_optimizer(network(), OptimizerConfig(exclude="norm-and-bias"))
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def rates(config: ScheduleConfig, num_epochs: int = 10, steps_per_epoch: int = 4, lr: float = 2.0) -> list[float]:
    num_steps = num_epochs * steps_per_epoch
    return [learning_rate(step, num_steps, steps_per_epoch, lr, config) for step in range(num_steps)]


def test_cosine_from_peak_to_final() -> None:
    values = rates(ScheduleConfig(final_lr=0.5), num_epochs=1, steps_per_epoch=5)
    root = math.sqrt(0.5)
    assert values == pytest.approx([2.0, 1.25 + 0.75 * root, 1.25, 1.25 - 0.75 * root, 0.5])


def test_warmup_rises_linearly_to_one_step_at_the_peak() -> None:
    values = rates(ScheduleConfig(warmup_epochs=2))
    assert values[:9] == pytest.approx([2.0 * (step + 1) / 9 for step in range(9)])
    assert values[8] == max(values) == 2.0
    assert all(a > b for a, b in pairwise(values[8:]))
    assert values[-1] == pytest.approx(0.0, abs=1e-15)
    assert values[8 + 31 - 10] == pytest.approx(1 + math.cos(math.pi * 21 / 31))


def test_per_epoch_is_constant_within_an_epoch() -> None:
    values = rates(ScheduleConfig(per_epoch=True, final_lr=0.2))
    for epoch in range(10):
        expected = 0.2 + 1.8 * 0.5 * (1 + math.cos(math.pi * epoch / 10))
        assert values[4 * epoch : 4 * epoch + 4] == pytest.approx([expected] * 4)


def test_per_epoch_warmup() -> None:
    values = rates(ScheduleConfig(per_epoch=True, warmup_epochs=2))
    assert values[::4][:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert values[-1] == pytest.approx(1 + math.cos(math.pi * 7 / 8))


def test_runs_of_one_step_and_of_warmup_alone() -> None:
    assert rates(ScheduleConfig(), num_epochs=1, steps_per_epoch=1) == [2.0]
    assert rates(ScheduleConfig(warmup_epochs=3), num_epochs=1) == pytest.approx([2 / 13, 4 / 13, 6 / 13, 8 / 13])
