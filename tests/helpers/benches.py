"""Records of a bench with figures that a test chooses, as `negbench bench` would have left them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Facts = dict[str, Any]
PARTS = ["query_forward", "backward", "refresh", "rest"]


def subject(name: str, seconds: Sequence[float], kind: str = "method", **facts: Any) -> Facts:
    """Half of the step is backward, a quarter the forward pass of queries, the rest in no part."""
    known: Facts = {"kind": kind, "name": name, "batch_size": 64, "num_negatives": None, "out_of_memory": None}
    known |= {"passes": [2, 2], "peak_memory_bytes": 2**20, "peak_reserved_bytes": None, "flops": 10**9}
    shares = {"query_forward": 0.25, "backward": 0.5, "rest": 0.25}
    parts = {part: [share * second for second in seconds] for part, share in shares.items()}
    return known | {"seconds": list(seconds), "parts": parts} | facts


def lost(name: str, **facts: Any) -> Facts:
    """A method that ran out of memory."""
    known = {"kind": "method", "name": name, "batch_size": 64, "out_of_memory": "can't allocate memory"}
    return known | facts


def write(folder: Path, groups: Sequence[tuple[str, int | None, list[Facts]]], **changes: Any) -> Path:
    """A bench in `folder`, of as many rounds as its first subject has."""
    folder.mkdir(parents=True)
    place: Facts = {"device": "Test GPU", "device_type": "cuda", "torch_version": "2.14", "precision": "bfloat16"}
    place |= {"command": ["negbench", "bench", "--rounds", "3"], "time": "2026-11-25T12:00:00+0000"}
    content: Facts = {
        "schema_version": 1,
        "complete": True,
        "study": "golden",
        "rounds": len(groups[0][2][0]["seconds"]),
        "steps_per_turn": 10,
        "parts": PARTS,
        "num_groups": len(groups),
        "settings": {"batch_size": 64, "model.name": "resnet18"},
        "environment": place,
        "groups": [{"kind": kind, "value": value, "subjects": subjects} for kind, value, subjects in groups],
    }
    (folder / "bench.json").write_text(json.dumps(content | changes))
    return folder
