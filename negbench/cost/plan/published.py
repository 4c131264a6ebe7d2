"""Published costs of runs. The file `published.yaml` names the source of each. Imports no torch."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

HOURS = {"hours": 1, "minutes": 60, "seconds": 3600}  # units of one


@cache
def published() -> list[dict[str, Any]]:
    return list(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()))


def published_costs(study: str, method: str) -> list[dict[str, Any]]:
    """Return the published costs of a study as `negbench plan --json` prints them, the method's own first."""
    costs = [_cost(entry) for entry in published() if study in entry["studies"]]
    return sorted(costs, key=lambda cost: cost["method"] != method)


def _cost(entry: dict[str, Any]) -> dict[str, Any]:
    hours = next(entry[unit] / number for unit, number in HOURS.items() if unit in entry)
    return {
        "method": entry["method"],
        "device_hours_per_epoch": hours * entry["devices"] / entry["epochs"],
        **{name: entry[name] for name in ("devices", "device", "includes", "source")},
        "same_steps": entry.get("same_steps", True),
    }
