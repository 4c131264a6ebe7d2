"""Names that method files imported before `negbench.contrast` existed; run folders hold such files."""

import sys
import warnings
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import negbench

DOOR = "negbench.contrast"
HOMES = {  # where the names of a former module are defined now; a module comes after those that it imports
    "method": ("contrast.source", "contrast.passes", "contrast.momentum", "contrast.method"),
    "losses": ("contrast.losses",),
    "config": ("settings.group", "settings.views", "settings.schema"),
    "models": ("models.backbones", "models.encoder"),
    "seeding": ("runtime.seeding",),
    "distributed": ("runtime.distributed",),
}
RENAMED = {"Facts": "RunShape", "Section": "SettingsGroup", "follow": "ema_update_"}


def install() -> None:
    """Let method files that are executed later import from the former modules, with a DeprecationWarning."""
    for old, homes in HOMES.items():
        name = f"negbench.{old}"
        module = import_module(name) if old == "models" else sys.modules.setdefault(name, ModuleType(name, __doc__))
        vars(module)["__getattr__"] = partial(_find, name, homes)
        setattr(negbench, old, module)


def _find(old: str, homes: tuple[str, ...], former: str) -> Any:
    name = RENAMED.get(former, former)
    for home in homes if not name.startswith("__") else ():
        module = import_module(f"negbench.{home}")
        if hasattr(module, name):
            door = DOOR if hasattr(import_module(DOOR), name) else module.__name__
            note = f"{old}.{former} has moved: write `from {door} import {name}`"
            warnings.warn(note, DeprecationWarning, stacklevel=2)
            return getattr(module, name)
    raise AttributeError(f"module {old!r} has no attribute {former!r}")
