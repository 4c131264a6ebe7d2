"""The collectives' setting up and order, on one process; their sums are held to one process where they are used."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist

from negbench.runtime import distributed

c10d = cast(Any, dist)


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda", "nccl")])
def test_gpus_talk_through_nccl_and_cpus_through_gloo(
    device: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = SimpleNamespace(world_size=2, master_addr="here", master_port=1, export=lambda: None)
    calls: list[Any] = []
    monkeypatch.setattr(distributed, "find_place", lambda: place)
    monkeypatch.setattr(distributed, "client_of", lambda address, port: c10d.HashStore())
    monkeypatch.setattr(distributed, "end_together", lambda store, rank, size: nullcontext())
    monkeypatch.setattr(dist, "rendezvous", lambda url, timeout: iter([(c10d.HashStore(), 1, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda name, **options: calls.append((name, options["rank"])))
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(dist, name, lambda name=name: calls.append(name))
    with distributed.process_group(torch.device(device)):
        calls.append("training")
    assert calls == [(backend, 1), "training", "barrier", "destroy_process_group"]


def test_synchronised_ranks_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[bool] = []
    monkeypatch.setattr(dist, "barrier", lambda: waits.append(True))
    for several in (False, True):
        monkeypatch.setattr(distributed, "is_distributed", lambda several=several: several)
        distributed.synchronize()
    assert waits == [True]
