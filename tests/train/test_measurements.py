"""What a run records of its cost."""

import json
from pathlib import Path
from typing import Any

import pynvml
import pytest
import torch

from negbench.records.run_folder import without_timings
from negbench.runtime import nvml
from negbench.runtime.distributed import received_bytes
from negbench.runtime.failure import ending_of
from negbench.settings.resolve import resolve
from negbench.train import clock as clock_module
from negbench.train.clock import Clock
from tests.helpers import runs, tiny
from tests.helpers.ranks import on_ranks


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    runs.start(runs.short("moco", "method.symmetric=true", "epochs=8"), output)
    return runs.folder(runs.short("moco", "method.symmetric=true", "epochs=8"), output).path


def test_epochs_add_up_to_the_run(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    epochs = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    epochs = [row for row in epochs if row["kind"] == "epoch"]
    assert sum(row["epoch_seconds"] for row in epochs) == pytest.approx(epochs[-1]["train_seconds"])
    assert sum(row["data_wait_seconds"] for row in epochs) == pytest.approx(summary["data_wait_seconds"])
    assert 0 < sum(row["eval_seconds"] for row in epochs) < summary["eval_seconds"]  # without those after the end
    assert 0 < sum(row["checkpoint_seconds"] for row in epochs) < summary["checkpoint_seconds"]
    for row in epochs:
        assert row["images_per_second"] == pytest.approx(64 / row["epoch_seconds"])
        assert row["views_per_second"] == pytest.approx(2 * row["images_per_second"])
        assert row["device_hours"] == pytest.approx(row["train_seconds"] / 3600)
        assert row["peak_memory_bytes"] > 1e7 and row["peak_reserved_bytes"] is None and row["energy_joules"] is None
    assert summary["views_per_second"] == pytest.approx(2 * summary["images_per_second"])
    assert summary["device_hours"] == pytest.approx(summary["train_seconds"] / 3600)
    assert (summary["data_wait_share"], summary["loader_bound"]) == (0, False)
    assert summary["communicated_bytes_per_step"] == {"negatives": 0, "batch_norm": 0, "gradients": 0}


@pytest.mark.parametrize(
    ("name", "settings", "negatives"),
    [
        ("adco", {}, 20 + 7),
        ("adco", {"in_batch_negatives": False}, 20),
        ("moco", {}, 20),
        ("simclr", {}, 2 * 8 - 2),
        ("byol", {}, 0),
    ],
)
def test_negatives_per_query(name: str, settings: dict[str, Any], negatives: int) -> None:
    method = tiny.build(name, **settings)
    assert method.negatives_per_query(method(*tiny.batch(0), 0).encoded) == negatives


def test_negatives_are_counted_before_the_queue_takes_the_step_in(tmp_path: Path) -> None:
    """Else a queue that leaves out the query's own image would seem one shorter than what the step used."""
    resolved = runs.short("moco", "method.mask_own_image=true")
    assert runs.start(resolved, tmp_path)["negatives_per_query"] == 40


def _received(rank_settings: tuple[str, dict[str, Any]]) -> dict[str, int]:
    name, settings = rank_settings
    from negbench.runtime.distributed import rank, world_size

    method = tiny.build(name, **settings)
    rows = slice(rank() * tiny.BATCH // world_size(), (rank() + 1) * tiny.BATCH // world_size())
    tiny.train(method, 0, 5, rows)
    before = received_bytes.copy()
    tiny.train(method, 5, 6, rows)
    return dict(received_bytes - before)


@pytest.mark.parametrize(
    ("name", "settings", "numbers"),
    [
        ("byol", {}, 0),
        ("moco", {}, 4 * tiny.DIM + 4),  # the other rank's keys and their images' numbers
        ("adco", {"in_batch_negatives": False}, 20 * tiny.DIM),  # the adversaries' gradient
        ("adco", {}, 4 * tiny.DIM + 4 + 20 * tiny.DIM),
        ("simclr", {}, 2 * (4 * tiny.DIM + 8 * tiny.DIM) + 4),  # keys of both views, and the gradient of all
    ],
)
def test_two_ranks_count_what_the_negatives_move(name: str, settings: dict[str, Any], numbers: int) -> None:
    expected = {"negatives": 8 * numbers} if numbers else {}  # float64 and int64
    assert on_ranks(2, _received, (name, settings)) == [expected, expected]


class FakeGpu:
    """NVML with a GPU that takes 100 W by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.millijoules = 5_000
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: self.millijoules)
        monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "580.1")

        def refuse(handle: Any) -> int:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

        monkeypatch.setattr(pynvml, "nvmlDeviceGetEnforcedPowerLimit", refuse)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("P", (), {"uuid": "1-2"})())


def test_energy_is_that_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeGpu(monkeypatch)
    clock = Clock(torch.device("cpu"))
    clock._gpu = nvml.Gpu(torch.device("cuda"))
    clock.start()
    fake.millijoules += 1_000
    with clock.paused("eval"):
        fake.millijoules += 50_000
    fake.millijoules += 2_000
    clock.read()
    assert clock.joules == pytest.approx(3)
    assert clock._gpu.driver_version() == "580.1"
    assert clock._gpu.power_limit_watts() is None  # what a GPU does not tell is unknown


def test_a_cpu_tells_no_energy() -> None:
    gpu = nvml.Gpu(torch.device("cpu"))
    assert (gpu.energy_joules(), gpu.power_limit_watts(), gpu.driver_version()) == (None, None, None)


def test_energy_is_known_where_every_rank_tells_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "world_size", lambda: 2)
    for told, total in (([3.0, 5.0], 8.0), ([3.0, None], None)):
        monkeypatch.setattr(clock_module, "gather_objects", lambda own, told=told: told)
        assert Clock(runs.CPU).joules_of_all_ranks() == total


def test_the_energy_before_a_stop_is_shared_out_on_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "world_size", lambda: 4)
    cases: list[tuple[list[float | None], float | None]] = [([3.0, 5.0], 2.0), ([3.0, None], None)]
    for joules, share in cases:
        resumed = Clock(runs.CPU)
        resumed.load_state_dict({"seconds": resumed.seconds, "joules": joules})
        assert resumed.joules == share


def test_device_time_counts_all_devices() -> None:
    clock = Clock(torch.device("cpu"), num_devices=8)
    clock.start()
    clock.read()
    assert clock.seconds["device"] == pytest.approx(8 * clock.seconds["train"])


def test_timings_and_costs_are_no_results() -> None:
    row = {"loss": 1.0, "device_hours": 2.0, "energy_joules": 3.0, "views_per_second": 4.0, "peak_reserved_bytes": 5}
    assert without_timings(row) == {"loss": 1.0}


def test_out_of_memory_is_one_sentence() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    for error in (caught.value, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()):
        ending = ending_of(error)
        assert ending.code == 1 and ending.reason.startswith("out of memory: ") and "\n" not in ending.message


def test_the_command_that_makes_a_run_again(tmp_path: Path) -> None:
    settings = [
        "epochs=3",
        "views=byol",
        "views.first.crop_scale=[0.5,1]",
        "data.root=/data/a b",
        "method.symmetric=true",
    ]
    resolved = resolve("moco", "quickstart", settings, seed=4)
    command = resolved.command
    assert command[:8] == ["negbench", "run", "--method", "moco", "--config", "quickstart", "--seed", "4"]
    again = [text for option, text in zip(command[8::2], command[9::2], strict=True) if option == "--set"]
    assert resolve("moco", "quickstart", again, seed=4).config == resolved.config
    own = tmp_path / "quickstart.yaml"
    own.write_text("epochs: 2\n")
    assert resolve("moco", str(own)).command[5] == str(own)  # not the package's study of that name
