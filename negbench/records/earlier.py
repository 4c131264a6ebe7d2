"""Read facts that earlier versions recorded as sentences alone.

Imports no torch.
"""

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
    """Return the ending that `status` and `error` tell, empty where they do not tell its kind."""
    status, error = str(summary.get("status")), str(summary.get("error") or "")
    if status == "done":
        return {"kind": "done"}
    kind = next((kind for kind, start in _STARTS.get(status, {}).items() if error.startswith(start)), None)
    signal = error.removeprefix("interrupted by ").partition(";")[0] if kind == "interrupted" else None
    return {"kind": kind, "signal": signal} if kind else {}
