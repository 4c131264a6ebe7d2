"""`negbench plan` as a user starts it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from negbench.cli.main import app
from negbench.cost.plan import evaluations, sentences, steps
from tests.cost.test_forecast import bench_of
from tests.helpers import runs

TINY = [part for setting in [*runs.SHORT, "method.num_negatives=40"] for part in ("--set", setting)]
QUICK = ["--method", "adco", *TINY, "--seconds", "0", "--device", "cpu"]


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["plan", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def few_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluations, "BANK", 64)


def facts_of(*arguments: object) -> dict[str, Any]:
    code, shown, told = invoke(*arguments, "--json")
    assert code == 0, told
    facts: dict[str, Any] = json.loads(shown)
    return facts


def test_a_plan_in_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    facts = facts_of(*QUICK, "--processes-per-node", 2, "--interconnect", 0.001)
    assert not list(tmp_path.iterdir())
    assert (facts["processes"], facts["batch_size_per_process"], facts["steps"]) == (2, 8, 3 * (70 // 16))
    assert facts["train_images"] == 70 and facts["validation_images"] == 500
    step, time = facts["step"], facts["time"]
    received = step["received_bytes_per_process"]
    assert received["negatives"] > 2 * 40 * 8 * 4 / 2  # the adversaries' slopes alone
    assert step["transfer_seconds"] == pytest.approx(sum(received.values()) / 1e6)  # bytes by 0.001 GB/s
    assert step["seconds"] == step["computing_seconds"] + step["transfer_seconds"]
    assert (
        step["computing_seconds_lower_quartile"]
        <= step["computing_seconds"]
        <= step["computing_seconds_upper_quartile"]
    )
    assert step["source"] == "median of 2 steps here, after 1 of warm-up"
    assert time["train_hours"] == pytest.approx(12 * step["seconds"] / 3600)
    assert time["train_device_hours"] == pytest.approx(2 * time["train_hours"])
    assert time["train_device_hours_per_epoch"] == pytest.approx(time["train_device_hours"] / 3)
    kinds = ("train", "checkpoint", "evaluations", "final_evaluation")
    assert all(time[f"{kind}_hours"] > 0 for kind in kinds)
    assert time["run_hours"] == pytest.approx(sum(time[f"{kind}_hours"] for kind in kinds))
    assert facts["evaluations"] == 4 and facts["checkpoints"] == 4
    assert facts["memory"]["data_set_bytes"] == (70 + 500 + 2000) * 3 * 8 * 8
    assert facts["memory"]["step_peak_bytes"] > 2**20
    assert facts["data"]["images_per_second"] == pytest.approx(16 / step["seconds"])
    assert facts["disk"]["checkpoints_bytes"] == 3 * facts["disk"]["checkpoint_bytes"] > 0
    assert facts["environment"]["device_type"] == "cpu" and facts["published"] == []


def test_a_plan_of_one_process_exchanges_nothing() -> None:
    facts = facts_of(*QUICK, "--set", "data.validation=0", "--set", "evaluation.linear=false")
    assert sum(facts["step"]["received_bytes_per_process"].values()) == 0 == facts["step"]["transfer_seconds"]
    assert facts["time"]["evaluations_hours"] == 0 and facts["evaluating"]["probe_seconds_per_step"] == 0


def test_a_plan_for_people() -> None:
    folder = ["--set", "data.name=imagefolder", "--set", "data.num_images=null", "--set", "data.image_size=32"]
    code, shown, told = invoke(*QUICK, *folder, "--nodes", 2, "--gpus-per-node", "h100:2", "--num-images", 2560)
    text = " ".join(shown.split())
    assert code == 0
    assert told.splitlines() == [
        *("counting images", "decoding files", "building adco", "warming up", "timing steps", "evaluations"),
    ]
    assert "adco, study quickstart: what it will cost on 2 nodes with 2 processes" in text
    assert "2,300 training, 260 held out, 100 test" in text
    for row in ("computing a step", "device-hours of training", "decoding cores", "memory of a process", "disk: data"):
        assert row in text
    assert "32 synthetic JPEGs of 500 x 375 pixels" in text
    assert "these are device-hours of this CPU, and say nothing of GPU-hours" in text
    assert "Training never waits for data: a process has" in text and "Published" not in text


def test_published_costs_stand_beside_a_study_of_their_own() -> None:
    small = ["model.name=resnet8", "model.stem=cifar", "data.image_size=8", "method.num_negatives=40"]
    settings = [part for setting in [*small, "batch_size=16"] for part in ("--set", setting)]
    study = ["--config", "paper/adco-imagenet-200", *settings, "--seconds", 0, "--device", "cpu", "--gpus-per-node", 8]
    code, shown, _ = invoke(*study)
    text = " ".join(shown.split())
    assert code == 0
    assert "ImageNet-1k's, since neither data.root nor --num-images is given" in text
    assert "adco: 2.26 GPU-hours an epoch on 8 V100" in text and "moco: 2.12 GPU-hours an epoch on 8 V100" in text
    assert "No ratio: " in text and "times as many" not in text
    assert "here batch_size, data.image_size, method.num_negatives, model.name was set otherwise" in text
    assert "batch_norm: shuffled was stepped in one process, whose images stand for the others'" in text


@pytest.mark.parametrize(
    ("device", "method", "same_steps", "told"),
    [
        ("Tesla V100-SXM2-16GB", "adco", True, "Here 1.13, 0.500 times as many, on Tesla V100-SXM2-16GB."),
        ("NVIDIA H100", "adco", True, "Here 1.13, 0.500 times as many, on NVIDIA H100, another GPU."),
        ("NVIDIA H100", "adco", False, "Another variant than this study's."),
        ("NVIDIA H100", "moco", True, "Another method than moco."),
    ],
)
def test_ratios_are_of_gpus_and_of_one_method(device: str, method: str, same_steps: bool, told: str) -> None:
    cost = {
        "same_steps": same_steps,
        "method": "adco",
        "device_hours_per_epoch": 2.26,
        "devices": 8,
        "device": "V100",
        "includes": "",
        "source": "",
    }
    facts = {
        "method": method,
        "environment": {"device": device, "device_type": "cuda"},
        "time": {"train_device_hours_per_epoch": 1.13},
        "changed_settings": [],
    }
    cost["ratio"] = sentences.ratio(cost, facts)
    assert sentences.published(facts | {"published": [cost]})[0].endswith(told)


def test_a_record_of_a_bench_takes_the_place_of_steps(tmp_path: Path) -> None:
    resolved = runs.short("moco", "batch_norm=shuffled")
    folder = bench_of(resolved, tmp_path / "bench")
    given = ["--method", "moco", *TINY, "--set", "batch_norm=shuffled", "--processes-per-node", 2, "--device", "cpu"]
    facts = facts_of(*given, "--bench", folder)
    assert facts["step"]["computing_seconds"] == 0.3 and facts["environment"]["device"] == "Test GPU"
    images = 2 * 8 * 3 * 8 * 8 * 4 / 2  # of the other process, each pixel a float
    assert facts["step"]["received_bytes_per_process"]["batch_norm"] >= images
    assert facts["evaluating"] is None and "final_evaluation_hours" not in facts["time"]
    code, shown, _ = invoke(*given, "--bench", folder)
    text = " ".join(shown.split())
    assert code == 0 and "GPU-hours of training" in text and "a bench does not time them" in text
    assert "Each process has a GPU as fast as the one that was measured, Test GPU" in text


def test_ctrl_c_ends_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "count_step", interrupted)
    code, shown, told = invoke(*QUICK, "--processes-per-node", 2)
    assert code == 130 and shown == "" and told.splitlines()[-1] == "interrupted; a plan keeps nothing"


@pytest.mark.parametrize(("load", "told"), [(0.9, False), (1.1, True)])
def test_a_crowded_machine_is_pointed_out(load: float, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    code, shown, _ = invoke(*QUICK)
    assert code == 0 and ("load average 1.1 on 2 cores" in shown) == told


def test_out_of_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> None:
        raise MemoryError("no 10 GiB")

    monkeypatch.setattr(steps, "count_step", exhausted)
    code, shown, told = invoke(*QUICK, "--processes-per-node", 2)
    assert code == 2 and shown == ""
    assert "out of memory: 8 images of 8 pixels a process (batch_size 16 over 2) do not fit on" in told
    assert told.strip().endswith("(no 10 GiB); plan more devices, or a smaller batch_size")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "adcoo"], "unknown method 'adcoo', did you mean 'adco'?"),
        (["--config", "quikstart"], "unknown study 'quikstart'"),
        (["--device", "tpu"], "--device must be one of auto, cpu, cuda"),
        (["--gpus-per-node", "3"], "batch_size 16 is not divisible by the 3 processes"),
        (["--gpus-per-node", "16"], "of a process's 1 images"),
        (["--gpus-per-node", "many"], "gpus_per_node must be a number or TYPE:NUMBER"),
        (["--gpus-per-node", "2", "--processes-per-node", "4"], "set gpus_per_node or processes_per_node, not both"),
        (["--nodes", "0"], "cluster.nodes (command line)"),
        (["--set", "cluster.nodes=two"], "cluster.nodes (--set)"),
        (["--set", "batch_norm=shuffled"], "use batch_norm: split, or several processes (--gpus-per-node)"),
        (["--set", "batch_size=600"], "batch_size 600 exceeds the 70 training images"),
        (["--num-images", "100"], "--num-images 100 is for an image folder that is not here, and patterns has"),
        (["--set", "data.name=imagefolder", "--set", "data.root=NOWHERE"], "data.root NOWHERE has no folders train"),
        (["--set", "precision=fp16"], "precision fp16 needs a GPU"),
        (["--bench", "NOWHERE"], "--bench NOWHERE: bench.json cannot be read"),
    ],
)
def test_mistakes(arguments: list[str], sentence: str) -> None:
    code, shown, told = invoke(*QUICK, *arguments)
    assert code == 2 and shown == ""
    assert told.strip().splitlines()[-1].startswith("negbench: ") and sentence in told


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, told = invoke(*QUICK)
    assert code == 2 and "measures one process on one device; start it without torchrun or srun" in told
