"""From layers of settings to one run: defaults < view policy < study file < its block for the method < `--set`."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from negbench.runtime import words
from negbench.runtime.errors import UserError
from negbench.settings.identity import make_run_id
from negbench.settings.keys import (
    OWN,
    Flat,
    flatten,
    flatten_raw,
    is_of_method,
    is_own,
    is_scientific,
    leaves,
    name_of,
    parse_override,
    read_yaml,
    scientific_differences,
    unflatten,
    validate,
)
from negbench.settings.plugins.find import (
    PluginFile,
    find_logger,
    find_method,
    find_study,
    import_method,
    list_studies,
)
from negbench.settings.schema import RunConfig, SharedConfig
from negbench.settings.study import block_of, check_blocks, read_study
from negbench.settings.views import layer_of_policy

CLUSTER = "cluster."
C = TypeVar("C", bound=SharedConfig)


@dataclass(frozen=True)
class Resolved:
    config: RunConfig[Any]
    origins: dict[str, str]  # dotted key -> the layer that set it; keys at their default are absent
    method_file: PluginFile
    module: ModuleType
    study_file: Path
    cluster_of_study: Flat = dataclasses.field(default_factory=dict)  # the study's `cluster:` block
    cluster_overrides: Flat = dataclasses.field(default_factory=dict)  # `--set cluster.KEY`

    @functools.cached_property  # once, since the user may edit the method's file while a job waits
    def run_id(self) -> str:
        """Return study, method, seed, and a hash of all else that can change a result, which all seeds share."""
        file = None if self.method_file.module is not None else self.method_file.path.read_bytes()
        config = self.config
        return make_run_id(config.study, config.method.name, config.seed, scientific_differences(config), file)

    @property
    def changed(self) -> Flat:
        """Return the settings but for the seed that can change a result and that the user set on top of the study."""
        flat = flatten(self.config)
        scientific = {key for key, field in leaves(type(self.config)) if is_scientific(field)}
        given = [key for key, origin in self.origins.items() if origin == "--set"]
        return {key: flat[key] for key in given if key in scientific - {"seed", "method.name"}}

    @property
    def label(self) -> str:
        """Return the method and what the user set on top of the study, for people."""
        return words.label(self.config.method.name, [words.setting(*item) for item in self.changed.items()])

    @property
    def description(self) -> Flat:
        """Return what every record says of the run."""
        config = self.config
        known = {"study": config.study, "method": config.method.name, "seed": config.seed}
        return known | {"label": self.label, "changed": self.changed}

    @property
    def command(self) -> list[str]:
        """Return the command that makes this run again, with a study or method of this package by its name."""
        flat = flatten(self.config)
        skip = ("seed", "method.name")
        changed = [key for key, origin in self.origins.items() if origin == "--set" and key not in skip]
        method = self.method_file.name if self.method_file.module else str(self.method_file.path)
        study = str(self.study_file)
        for name, path in list_studies().items():
            if path.stem == self.study_file.stem and path.read_bytes() == self.study_file.read_bytes():
                study = name
        settings = [part for key in changed for part in ("--set", f"{key}={_yaml_value(flat[key])}")]
        return ["negbench", "run", "--method", method, "--config", study, "--seed", str(flat["seed"]), *settings]

    def origin(self, key: str) -> str:
        return self.origins.get(key, "default")


def resolve(
    method: str | None = None,
    study: str = "quickstart",
    overrides: Sequence[str] = (),
    seed: int | None = None,
    otherwise: str | None = None,
) -> Resolved:
    """Read the layers and validate them. Every mistake of the user is a UserError.

    `otherwise` is the method if neither the user nor the study names one.
    """
    path = find_study(study)
    base, blocks, cluster, _ = read_study(path)
    check_blocks(blocks, f"{path}: per_method", [method or ""])
    given = dict(parse_override(text) for text in overrides)
    cluster_overrides = {key.removeprefix(CLUSTER): value for key, value in given.items() if key.startswith(CLUSTER)}
    chosen = {key: value for key, value in given.items() if not key.startswith(CLUSTER)}
    if seed is not None:
        chosen["seed"] = seed
    name = method or chosen.get("method.name") or base.get("method.name")
    if name is None and len(blocks) == 1:
        (name,) = blocks
    name = name or otherwise
    if name is None:
        raise UserError(f"study {study} names no single method; add --method, one of: {', '.join(blocks) or 'any'}")
    if chosen.get("method.name", name) != name:
        raise UserError(f"--method {name} and --set method.name={chosen['method.name']} contradict each other")
    file = find_method(str(name))
    module = import_method(file)
    values, origins = _layered(path, base, file.name, block_of(blocks, file.name), chosen)
    values["method.name"] = file.name
    config = _validate(RunConfig[module.Config], values, origins, path)  # type: ignore[name-defined]
    for logger in config.loggers:
        find_logger(logger)
    return Resolved(config, origins, file, module, path, cluster, cluster_overrides)


def resolve_shared(
    study: str, overrides: Sequence[str] = (), otherwise: str | None = None
) -> tuple[SharedConfig, dict[str, str]]:
    """Return the settings of a study that no method has of its own, and the layer that set each. Import no method.

    Of a study of several methods the block of `otherwise` is taken. Every mistake of the user is a UserError.
    """
    path = find_study(study)
    base, blocks, *_ = read_study(path)
    check_blocks(blocks, f"{path}: per_method", [])
    chosen = dict(parse_override(text) for text in overrides)
    method = name_of(str(base.get("method.name") or (next(iter(blocks)) if len(blocks) == 1 else otherwise)))
    shared, block = (
        {key: value for key, value in layer.items() if not is_of_method(key)}
        for layer in (base, block_of(blocks, method))
    )
    values, origins = _layered(path, shared, method, block, chosen)
    return _validate(SharedConfig, values, origins, path), origins


def _layered(path: Path, base: Flat, method: str, block: Flat, chosen: Flat) -> tuple[Flat, dict[str, str]]:
    """Return the values of the layers, of which the last that sets a key counts, and the name of that layer."""
    values: Flat = {"study": path.stem} | base | block | chosen
    if values.get("track", "controlled") == "controlled":
        for key in block:
            if not is_own(key):
                raise UserError(
                    f"{path}: per_method.{method} sets {key}, but in a controlled study it may set only {OWN}; "
                    "move it out of per_method, or set track: recipe"
                )
    origins = dict.fromkeys(base, f"study {path.stem}")
    origins |= dict.fromkeys(block, f"study {path.stem}, block of {method}")
    origins |= dict.fromkeys(chosen, "--set")
    views, origins_of_views = layer_of_policy(values, origins)
    return views | values, origins | {key: origin for key, origin in origins_of_views.items() if key not in origins}


def restore(folder: Path) -> Resolved:
    """Return the settings of an existing run folder. UserError if they cannot be read."""
    path = folder / "config.yaml"
    values = flatten_raw(read_yaml(path))
    if "method.name" not in values:
        raise UserError(f"{path} names no method")
    copied = folder / "method.py"
    file = find_method(str(copied if copied.exists() else values["method.name"]))
    file = dataclasses.replace(file, name=values["method.name"])
    module = import_method(file)
    values = layer_of_policy(values, {})[0] | values
    config = _validate(RunConfig[module.Config], values, {}, path)  # type: ignore[name-defined]
    return Resolved(config, {}, file, module, path)


def size_of(resolved: Resolved) -> int | None:
    """Return K; None for a method without it."""
    size: int | None = getattr(resolved.config.method, "num_negatives", None)
    return size


def _validate(schema: type[C], values: Flat, origins: dict[str, str], path: Path) -> C:
    known = [key for key, _ in leaves(schema)]
    for key in values:
        if key not in known:
            where = origins.get(key, str(path))
            if key == "method" or any(k.startswith(f"{key}.") for k in known):
                raise UserError(f"{key} ({where}) is a group of settings; set one of its keys, as {key}.KEY")
            raise UserError(
                f"unknown key {key} ({where}){words.did_you_mean(key, known)}; `negbench config` lists all keys"
            )
    return validate(schema, unflatten(values), origins)


def _yaml_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
