"""What a bench steps, in which order, and what it counts."""

import json
import os
import resource
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from negbench.contrast.build import build_method
from negbench.cost.bench import measure, run, space
from negbench.cost.bench.groups import Sizes, make_groups, parse_sizes
from negbench.cost.bench.measure import Entry, Machine
from negbench.cost.bench.workloads import BareWorkload, MethodWorkload, passes_of, random_images
from negbench.data.batches import training_batches
from negbench.data.views.maker import compiled_view
from negbench.records.benches import BenchFolder
from negbench.records.run_folder import RunFolder
from negbench.runtime.memory import PeakMemory, keep_freed_memory, process_bytes
from negbench.settings.views import ViewConfig
from negbench.train.loggers.base import Loggers
from negbench.train.optim import build_optimizer, set_learning_rate
from negbench.train.trainer import Trainer
from tests.helpers import runs, tiny
from tests.helpers.ranks import on_ranks

CPU = torch.device("cpu")
NO_SIZES = Sizes()
MEBI = 2**20


class Counted:
    """A workload that writes its name down at each step."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def step(self) -> None:
        self.log.append(self.name)

    def facts(self) -> dict[str, Any]:
        return {}


def _machine(rounds: int = 2, steps: int = 1) -> Machine:
    return Machine(CPU, None, rounds, steps, matrix_size=8)


def test_subjects_take_turns() -> None:
    log: list[str] = []
    entries = [Entry(lambda name=name: Counted(name, log), {"name": name}) for name in "ABC"]  # type: ignore[misc]
    measure.timed(entries, _machine(rounds=2, steps=2), lambda text: None)
    assert "".join(log) == 3 * "AAABBBCCC"  # warm-up and two rounds, each turn one step untimed and two timed ones
    for entry in entries:
        assert len(entry.measurement["seconds"]) == 2
        assert [sum(parts) for parts in zip(*entry.measurement["parts"].values(), strict=True)] == entry.measurement[
            "seconds"
        ]


def test_operations_are_counted() -> None:
    layer, images = nn.Linear(5, 3), torch.randn(7, 5)

    class Linear(Counted):
        def step(self) -> None:
            layer(images).sum().backward()

    found = measure.examine(lambda: Linear("linear", []), CPU)
    assert found["flops"] == 2 * (2 * 7 * 5 * 3)  # forward, and backward for the weight: the images need no gradient


@pytest.mark.parametrize("name", tiny.METHODS)
def test_a_bare_step_makes_the_methods_passes(name: str) -> None:
    resolved = runs.short(name)
    workload = MethodWorkload(resolved, CPU, None)
    bare = BareWorkload(resolved.config, passes_of(workload.method), CPU, None)
    encoders = (workload.method.query_encoder, workload.method.key_encoder, bare.encoder, bare.key_encoder)
    calls = Counter[int]()
    for place, encoder in enumerate(encoders):
        if encoder is not None:
            encoder.register_forward_hook(lambda *_, place=place: calls.update([place]))
    workload.step()
    bare.step()
    assert (calls[0], calls[1]) == (calls[2], calls[3]) == passes_of(workload.method)


@pytest.mark.parametrize("name", tiny.METHODS)
def test_a_method_is_stepped_as_the_trainer_steps_it(name: str, tmp_path: Path) -> None:
    resolved = runs.short(name)
    config, images = resolved.config, random_images(resolved.config, CPU)
    workload = MethodWorkload(resolved, CPU, None)
    workload.number, workload.batches = 0, training_batches(images, config, CPU, 0, 4)
    method = build_method(resolved, len(images), CPU, None).train()
    optimizer = build_optimizer(method, config.optimizer)
    trainer = Trainer(config, method, optimizer, images, RunFolder(tmp_path), CPU, Loggers(), None, set())
    for views, index in training_batches(images, config, CPU, 0, 4):
        set_learning_rate(workload.optimizer, trainer._lr(trainer.step))
        workload.step()
        trainer.train_step(views, index)
        trainer.step += 1
    runs.assert_same(workload.method.state_dict(), method.state_dict())


def test_adversaries_climb_and_weights_stay() -> None:
    resolved = runs.short("adco")  # K = 40, 32 keys a step: a run's first two steps would only store keys
    workload = MethodWorkload(resolved, CPU, None)
    before = {name: value.clone() for name, value in workload.method.state_dict().items()}
    workload.step()
    after = workload.method.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    moved = {name for name in changed if "running_" not in name and "num_batches" not in name}
    assert moved == {"sources.1.vectors_KD", "sources.1.velocity_KD"}


def test_groups_of_the_default_sweeps() -> None:
    groups = make_groups(tiny.METHODS, "quickstart", [], largest_num_negatives=4096)
    shapes = [(g.kind, g.value, [r.config.method.name for r in g.methods]) for g in groups]
    every, sized = tiny.METHODS, ["adco", "moco"]
    assert shapes == [
        ("study", None, every),
        ("num_negatives", 256, sized),
        ("num_negatives", 4096, sized),  # the study's own setting has K = 1024
        ("batch_size", 32, every),
        ("batch_size", 128, every),
        ("batch_size", 256, every),
    ]
    for group in groups:
        for resolved in group.methods:
            assert resolved.config.batch_size == (group.value if group.kind == "batch_size" else 64)
    adco = groups[3].config
    assert (adco.method.num_negatives, adco.method.temperature) == (1024, 0.1)  # the study's


def test_one_size_replaces_the_studys_and_sweeps_nothing() -> None:
    groups = make_groups(["moco", "byol"], "quickstart", [], Sizes(single=512), Sizes(single=32))
    (group,) = groups
    assert [resolved.config.batch_size for resolved in group.methods] == [32, 32]
    assert group.methods[0].config.method.num_negatives == 512


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("7", Sizes(single=7)), ("256:4096", Sizes(swept=(256, 1024, 4096))), ("3:20", Sizes(swept=(3, 12, 20)))],
)
def test_sizes(text: str, sizes: Sizes) -> None:
    assert parse_sizes("--num-negatives", text, 4) == sizes


def test_running_out_of_memory_is_a_fact_and_the_others_go_on() -> None:
    groups = make_groups(["moco", "simclr"], "quickstart", [*runs.SHORT], Sizes(single=2**40), NO_SIZES)
    entries = measure.examined(groups[0], _machine(), lambda text: None)
    facts = {fact["name"]: fact for fact in measure.timed(entries, _machine(), lambda text: None)}
    assert "can't allocate memory" in facts["moco"]["out_of_memory"] and "seconds" not in facts["moco"]
    assert "bare 2+2" not in facts  # of no method that could be built
    assert facts["simclr"]["out_of_memory"] is None and len(facts["simclr"]["seconds"]) == 2


def test_a_batch_too_large_is_a_row_and_the_other_groups_go_on(tmp_path: Path) -> None:
    groups = make_groups(["moco", "simclr"], "quickstart", [*runs.SHORT], NO_SIZES, Sizes(swept=(2**40,)))
    folder = BenchFolder(tmp_path, "quickstart", "cpu")
    run.execute(groups, CPU, 2, folder, lambda number, text: None)
    main, large = json.loads((folder.path / "bench.json").read_text())["groups"]
    assert all(len(row["seconds"]) == 2 for row in main["subjects"])
    assert [row["name"] for row in large["subjects"]] == ["moco", "simclr"]
    assert all("can't allocate memory" in row["out_of_memory"] for row in large["subjects"])


def test_images_take_the_memory_of_one() -> None:
    images = random_images(runs.short("moco", f"batch_size={2**40}").config, CPU)
    assert len(images) == 2**41 and images.images_NCHW.untyped_storage().nbytes() == 3 * 8 * 8
    assert images.labels_N.untyped_storage().nbytes() == 8


def test_running_out_of_memory_beside_the_others_is_told_as_such() -> None:
    class Late(Counted):
        def step(self) -> None:
            super().step()
            if len(self.log) > 2:  # in the second round
                raise MemoryError("no more")

    def unbuilt() -> Counted:
        raise MemoryError("no room")

    builds = {"late": lambda: Late("late", []), "unbuilt": unbuilt, "fits": lambda: Counted("fits", [])}
    entries = [Entry(build, {"name": name}) for name, build in builds.items()]
    late, unbuilt_, fits = measure.timed(entries, _machine(rounds=2), lambda text: None)
    assert late == {"name": "late", "out_of_memory": "beside the others of its group: no more"}
    assert unbuilt_ == {"name": "unbuilt", "out_of_memory": "beside the others of its group: no room"}
    assert len(fits["seconds"]) == 2 and "out_of_memory" not in fits


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_errors_name_the_subject_and_its_size(error: type[Exception]) -> None:
    def build() -> Counted:
        raise error("a mistake")

    entry = Entry(build, {"name": "mine", "num_negatives": 512, "batch_size": 64})
    for work in (lambda: measure._examine(entry, CPU), lambda: measure.timed([entry], _machine(), print)):
        with pytest.raises(error, match="a mistake") as raised:
            work()
        told = "".join(traceback.format_exception(raised.value))
        assert "mine, num_negatives 512, batch_size 64" in told


def test_a_step_of_moco_counts_the_products_with_each_key() -> None:
    def operations(num_negatives: int) -> int:
        resolved = runs.short("moco", f"method.num_negatives={num_negatives}", "method.symmetric=true")
        return int(measure.examine(lambda: MethodWorkload(resolved, CPU, None), CPU)["flops"])

    queries, dim = 2 * 16, 8  # of both views; products: cosines, and their gradient by the queries
    assert operations(96) - operations(32) == 2 * (2 * queries * (96 - 32) * dim)


def test_an_allocation_beyond_what_is_free_fails_and_the_limit_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda: 2**28)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with space.limited_to_free_memory(CPU):
        tensor, reason = space.unless_out_of_memory(lambda: torch.zeros(2**27))  # 512 MiB
        assert tensor is None and reason is not None and "allocate" in reason
        assert space.unless_out_of_memory(lambda: torch.zeros(2**20))[1] is None
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert space.unless_out_of_memory(lambda: torch.zeros(2**27))[1] is None


def test_free_memory_is_known_and_within_the_machines() -> None:
    free, total = space.free_bytes(), resource.getpagesize() * os.sysconf("SC_PHYS_PAGES")
    assert free is not None and 0 < free <= total


def test_other_errors_are_raised() -> None:
    def work() -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        space.unless_out_of_memory(work)


@pytest.mark.skipif(process_bytes("VmHWM") is None, reason="no /proc/self/status, which Linux has")
def test_the_peak_is_that_of_what_is_alive_at_once() -> None:
    """In a process of its own, as a bench is: here other tests have left free blocks that would be taken first."""
    (peak,) = on_ranks(1, _peak_of_hungry)
    assert peak == pytest.approx(192 * MEBI, abs=16 * MEBI)


def test_what_a_process_keeps_to_reuse_is_not_in_the_peak_that_follows() -> None:
    ((before, after),) = on_ranks(1, _peaks_around_an_evaluation)
    assert after < before + 100 * MEBI


def _peaks_around_an_evaluation() -> tuple[int, int]:
    """Of training before it and after it, where it took 1 GiB."""
    keep_freed_memory()
    peaks = []
    for size in (64 * MEBI, 0):
        peak = PeakMemory(CPU)
        peak.start()
        peak.update()
        peaks.append(peak.allocated or 0)
        [torch.ones(size // 4) for _ in range(16)]
    return peaks[0], peaks[1]


def test_compiled_code_goes_with_what_was_stepped() -> None:
    compiled_view(ViewConfig(), 8, torch.channels_last, "compiled")
    space.release(CPU)
    assert compiled_view.cache_info().currsize == 0


class Hungry(Counted):
    def __init__(self) -> None:
        self.kept = torch.ones(32 * MEBI)  # 128 MiB

    def step(self) -> None:
        for _ in range(3):  # 64 MiB each, one after another
            torch.ones(16 * MEBI)


def _peak_of_hungry() -> int:
    keep_freed_memory()
    entry = Entry(Hungry, {"name": "hungry"})
    measure._examine(entry, CPU)
    return int(entry.measurement["peak_memory_bytes"])
