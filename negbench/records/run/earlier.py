"""Read facts that earlier versions recorded as sentences alone. Imports no torch."""

import itertools
import re
from typing import Any

_STARTS = {  # of a summary's `error`, by its `status`
    "failed": {"out_of_memory": "out of memory"},
    "interrupted": {
        "interrupted": "interrupted by ",
        "requeued": "the job's time here is over",
        "lost_process": "another process of this run is gone",
    },
}


def ending_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the ending that `status` and `error` describe, empty if they do not show its kind."""
    status, error = str(summary.get("status")), str(summary.get("error") or "")
    if status == "done":
        return {"kind": "done"}
    kind = next((kind for kind, start in _STARTS.get(status, {}).items() if error.startswith(start)), None)
    signal = error.removeprefix("interrupted by ").partition(";")[0] if kind == "interrupted" else None
    return {"kind": kind, "signal": signal} if kind else {}


def changed_by_command(environment: dict[str, Any]) -> dict[str, str] | None:
    """Return the settings that the command to reproduce a run sets; None without a command."""
    command = environment.get("reproduce")
    pairs = [str(text).partition("=") for option, text in itertools.pairwise(command or ()) if option == "--set"]
    return {key: value for key, _, value in pairs} if command else None


def changed_by_label(label: str) -> dict[str, str]:
    """Return the settings in `adco (epochs=10, lr=0.1)`, whose keys lack the group `method`."""
    _, _, inside = label.removesuffix(")").partition(" (")
    return dict(re.findall(r"([\w.]+)=(.*?)(?=, [\w.]+=|$)", inside))
