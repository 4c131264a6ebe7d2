"""What a plan counts, held to sums by hand and to what runs count themselves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from negbench.cost.bench.workloads import MethodWorkload
from negbench.cost.plan import arithmetic
from negbench.cost.plan.decoding import HEIGHT, IMAGENET_MEAN_BYTES, WIDTH, measure_decoding
from negbench.cost.plan.evaluations import Evaluating
from negbench.cost.plan.extent import Extent, extent_of
from negbench.cost.plan.forecast import evaluation_hours
from negbench.cost.plan.imagined_ranks import imagined
from negbench.cost.plan.published import published, published_costs
from negbench.cost.plan.record import steps_of_record
from negbench.cost.plan.steps import count_received, count_step, gradient_bytes, save_in_memory
from negbench.runtime.distributed import all_gather, all_reduce_sum, world_size
from negbench.settings.keys import flatten
from negbench.settings.plugins.find import list_studies
from negbench.settings.resolve import Resolved, resolve
from negbench.settings.schema import DataConfig, SharedConfig
from tests.helpers import benches, runs
from tests.helpers.ranks import on_ranks

ADCO_STEPS = 5004 * 200  # floor(1,281,167 / 256) by 200 epochs


def test_times() -> None:
    assert arithmetic.quartiles([3.0, 1.0, 2.0, 5.0, 4.0]) == (2.0, 3.0, 4.0)
    assert arithmetic.quartiles([2.0, 1.0]) == (1.25, 1.5, 1.75)
    assert arithmetic.hours(ADCO_STEPS, 0.2) == pytest.approx(55.6)
    assert arithmetic.transfer_seconds(390_000_000, 10) == 0.039


def test_a_ring_carries_two_shares_less_of_each_tensor() -> None:
    """28 million parameters of 4 bytes among 8 processes: 7 parts are reduced, 7 collected, each an eighth."""
    assert arithmetic.ring_bytes(112_000_000, 8) == 14 * 14_000_000
    assert arithmetic.ring_bytes(112_000_000, 1) == 0


@pytest.mark.parametrize(
    ("epochs", "every", "has_validation", "number"),
    [(20, 2, True, 11), (5, 2, True, 4), (200, 10, False, 0), (200, 0, True, 0), (3, 10, True, 2)],
)
def test_evaluations_are_at_the_start_in_between_and_at_the_end(
    epochs: int, every: int, has_validation: bool, number: int
) -> None:
    assert arithmetic.num_evaluations(epochs, every, has_validation) == number


def test_checkpoints_are_spaced_by_the_clock_or_by_their_own_cost() -> None:
    assert arithmetic.num_checkpoints(3600, every_min=10, save_seconds=1, evaluations=0) == 7
    assert arithmetic.num_checkpoints(3600, every_min=10, save_seconds=20, evaluations=0) == 4  # 50 times 20 s apart
    assert arithmetic.num_checkpoints(30, every_min=10, save_seconds=1, evaluations=0) == 1
    assert arithmetic.num_checkpoints(30, every_min=10, save_seconds=1, evaluations=4) == 4  # each but the first
    assert arithmetic.num_checkpoints(3600, every_min=10, save_seconds=1, evaluations=3) == 2 * 3 + 2 + 1


def test_evaluations_take_what_their_parts_take() -> None:
    extent = Extent(train=1000, validation=100, test=200, num_classes=10, source="")
    speed = Evaluating(8, encoded_images_per_second=50, knn_seconds_per_pair=1e-3, probe_seconds_per_step=0.5)

    def seconds(*settings: str, evaluations: int = 3) -> tuple[float, float]:
        config = resolve("moco", "quickstart", ["evaluation.linear_epochs=2", "epochs=7", *settings]).config
        hours = evaluation_hours(config, extent, speed, evaluations, processes=2)
        return 3600 * hours["evaluations_hours"], 3600 * hours["final_evaluation_hours"]

    held_out = 1100 / 100 + 1000 * 100 * 1e-3
    knn, linear = 1200 / 100 + 1000 * 200 * 1e-3, 100 / 100 + 2 * 4 * 0.5  # four batches of 256
    assert seconds() == pytest.approx((3 * held_out, 2 * (knn + linear)))
    assert seconds("evaluation.untrained=false") == pytest.approx((3 * held_out, knn + linear))
    assert seconds("evaluation.linear=false") == pytest.approx((3 * held_out, 2 * knn))
    assert seconds("evaluation.test=false", evaluations=0) == (0, 0)
    lightly = ["track=recipe", "evaluation.protocols=knn-lightly", "evaluation.linear=false"]
    on_test_set = 1300 / 100 + 1100 * 200 * 1e-3
    assert seconds(*lightly, evaluations=0)[0] == pytest.approx(7 * on_test_set)


def test_records_and_cores() -> None:
    assert arithmetic.record_bytes(1000, every_steps=50, epochs=10, evaluations=2) == 350 * (20 + 10 + 4)
    assert arithmetic.decoding_cores(1260, 500) == 2.52


def test_imagined_processes_gather_this_ones_rows_and_are_gone_afterwards() -> None:
    rows = torch.tensor([[1.0, 2.0]])
    with imagined(3):
        assert world_size() == 3
        assert all_gather(rows).tolist() == [[1.0, 2.0]] * 3
        assert all_reduce_sum(rows).tolist() == [[1.0, 2.0]]
    assert world_size() == 1
    with pytest.raises(KeyError), imagined(2):
        raise KeyError
    assert world_size() == 1
    with imagined(1):
        assert world_size() == 1


def stepped(policy: str, num_processes: int = 1) -> tuple[MethodWorkload, dict[str, int]]:
    """A method that has made a step, and the bytes that it received."""
    with imagined(num_processes):
        workload = MethodWorkload(runs.short("adco", f"batch_norm={policy}"), runs.CPU, None, num_images=63)
        return workload, count_step(workload)


def counted_on_ranks() -> list[dict[str, int]]:
    return [stepped(policy)[1] for policy in ("shuffled", "sync")]


def test_bytes_are_those_that_two_processes_count() -> None:
    """By one process, also with smaller images, whose bytes are carried on by area."""
    for rank in on_ranks(2, counted_on_ranks):
        for policy, received in zip(("shuffled", "sync"), rank, strict=True):
            if policy == "shuffled":  # two key views of the other's 8 images, 3 x 8 x 8, and their embeddings, D = 8
                assert received["batch_norm"] == 2 * 8 * (3 * 8 * 8 + 8) * 4
            assert stepped(policy, 2)[1] == received
            resolved = runs.short("adco", f"batch_norm={policy}")
            assert count_received(resolved, runs.CPU, 2, 63, lambda text: None)[1] == received


def test_gradients_and_checkpoint_are_as_large_as_their_tensors() -> None:
    workload, _ = stepped("process", 4)
    parameters = sum(p.nbytes for p in workload.method.query_encoder.parameters())
    assert gradient_bytes(workload, 4) == parameters * 3 // 2
    tensors = parameters + sum(t.nbytes for t in workload.method.state_dict().values())  # SGD's momentum beside them
    size, seconds = save_in_memory(workload)
    assert tensors < size < 1.5 * tensors and seconds > 0


def extent(given: int | None = None, **settings: Any) -> tuple[int, int, int, int]:
    found = extent_of(SharedConfig(data=DataConfig(**settings)), given)
    return found.train, found.validation, found.test, found.num_classes


def test_images_are_those_that_a_run_has() -> None:
    assert extent(name="patterns") == (4500, 500, 2000, 10)
    assert extent(name="cifar10", root="nowhere") == (45_000, 5000, 10_000, 10)
    assert extent(name="cifar10", validation=0, num_images=5600) == (5600, 0, 10_000, 10)
    assert extent(name="imagefolder", validation=0) == (1_281_167, 0, 50_000, 1000)
    assert extent(name="imagefolder", validation=0.5, num_images=6400) == (6400, 640_167, 50_000, 1000)
    assert extent(25_600, name="imagefolder", validation=0) == (25_600, 0, 999, 256)


def test_images_of_a_folder_are_listed_and_some_are_decoded(tmp_path: Path) -> None:
    for part, number in (("train", 8), ("val", 3)):
        for name in ("ant", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (40, 30), (10 * i, 0, 0)).save(tmp_path / part / name / f"{i}.png")
    config = runs.short(
        "moco", "data.name=imagefolder", f"data.root={tmp_path}", "data.num_images=12", "data.validation=0.25"
    ).config
    found = extent_of(config, None)
    assert (found.train, found.validation, found.test, found.num_classes) == (12, 4, 6, 2)
    decoding = measure_decoding(config, found.files)
    assert decoding.decoded_images_per_second_per_core > 0 and "12 files of" in decoding.decoding_source
    assert found.files is not None
    sizes = [Path(found.files.path(position)).stat().st_size for position in range(len(found.files))]
    assert decoding.mean_file_bytes == pytest.approx(sum(sizes) / 12)


def test_synthetic_files_are_as_large_as_imagenets_and_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    decoding = measure_decoding(runs.short("moco").config, None)
    assert f"{WIDTH} x {HEIGHT} pixels, 11" in decoding.decoding_source  # within a tenth of the mean
    assert decoding.mean_file_bytes == IMAGENET_MEAN_BYTES and decoding.decoded_images_per_second_per_core > 0
    assert not list(tmp_path.iterdir())


def test_published_costs_are_of_studies_that_exist() -> None:
    known = {name.rpartition("/")[2] for name in list_studies()}
    assert {study for cost in published() for study in cost["studies"]} <= known
    adco, moco = published_costs("adco-imagenet-200", "adco")
    hours = [cost["device_hours_per_epoch"] for cost in (adco, moco)]
    assert hours == [2.26, 2.12]  # 53 h by 8, over 200 epochs
    assert [cost["method"] for cost in published_costs("adco-imagenet-200", "moco")] == ["moco", "adco"]
    assert published_costs("quickstart", "adco") == []
    recipes = [name.removeprefix("paper/") for name in list_studies() if name.startswith("paper/adco-imagenet")]
    assert {name: next(cost["same_steps"] for cost in published_costs(name, "adco")) for name in recipes} == {
        name: name in ("adco-imagenet-200", "adco-imagenet-800") for name in recipes
    }


def bench_of(resolved: Resolved, folder: Path, **changes: Any) -> Path:
    """A record of the method with a batch of 8, as `negbench bench` would have made it."""
    flat = flatten(resolved.config)
    own = {key: value for key, value in flat.items() if key.startswith("method.")}
    shared = {key: value for key, value in flat.items() if key not in own} | {"batch_norm": "process"}
    number = flat["method.num_negatives"]
    subject = benches.subject("moco", [0.2, 0.4, 0.3], batch_size=8, num_negatives=number, settings=own)
    return benches.write(folder, [("study", None, [subject])], **{"settings": shared} | changes)


def test_steps_of_a_bench_take_the_place_of_steps_here(tmp_path: Path) -> None:
    resolved = runs.short("moco", "batch_norm=shuffled")
    steps = steps_of_record(bench_of(resolved, tmp_path / "bench"), resolved, 2)
    assert steps.seconds == [0.2, 0.4, 0.3] and steps.parts["backward"] == 0.15
    assert steps.peak_memory_bytes == 2**20 and steps.environment["device"] == "Test GPU"


@pytest.mark.parametrize(
    ("processes", "settings", "sentence"),
    [
        (1, [], "has no moco with 16 images and K = 40, which is what a process would step; it has moco with 8 images"),
        (
            2,
            ["method.num_negatives=48"],
            "`negbench bench --methods moco --batch-size 8 --num-negatives 48 --set batch",
        ),
        (2, ["model.name=resnet18"], "was made with model.name=two-convolutions, and the plan has resnet18"),
        (2, ["data.image_size=16"], "was made with data.image_size=8, and the plan has 16"),
        (2, ["precision=bf16"], "was made with precision=fp32, and the plan has bf16"),
        (2, ["views.first.blur_probability=0.5"], "was made with views.first.blur_probability=0.0"),
        (2, ["method.symmetric=false"], "was made with method.symmetric=True, and the plan has False"),
    ],
)
def test_a_bench_of_something_else_is_refused(
    processes: int, settings: list[str], sentence: str, tmp_path: Path
) -> None:
    folder = bench_of(runs.short("moco", "batch_norm=shuffled"), tmp_path / "bench")
    with pytest.raises(ValueError, match="--bench") as refused:
        steps_of_record(folder, runs.short("moco", "batch_norm=shuffled", *settings), processes)
    assert sentence in str(refused.value)


def test_a_bench_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    resolved = runs.short("moco", "batch_norm=process")
    with pytest.raises(ValueError, match=r"bench.json cannot be read \(No such file or directory\)"):
        steps_of_record(tmp_path, resolved, 2)
    folder = bench_of(resolved, tmp_path / "bench")
    record = json.loads((folder / "bench.json").read_text())
    (folder / "bench.json").write_text(json.dumps(record)[:-100])
    with pytest.raises(ValueError, match="is damaged or of another version: Invalid JSON"):
        steps_of_record(folder, resolved, 2)
    record["groups"][0]["subjects"][0] |= {"out_of_memory": "too much", "seconds": [], "parts": {}}
    (folder / "bench.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="moco with 8 images ran out of memory there"):
        steps_of_record(folder, resolved, 2)
