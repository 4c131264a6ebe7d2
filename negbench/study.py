"""From layers of settings to one run: defaults < study file < the study's block for the method < `--set`.

Imports no torch itself; importing a method file does.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from negbench.config import RunConfig
from negbench.registry import MethodFile, find_method, find_study, import_method, list_methods, list_studies, nearest

Flat = dict[str, Any]
CONTROLLED_BLOCK_KEYS = ("method.", "optimizer.lr")
CLUSTER = "cluster."


class StudyFile(NamedTuple):
    base: Flat
    per_method: dict[str, Flat]
    cluster: Flat  # as it stands
    tuning: Flat  # as it stands; `negbench.tuning.space` reads it


@dataclass(frozen=True)
class Resolved:
    config: RunConfig[Any]
    origins: dict[str, str]  # dotted key -> the layer that set it; keys at their default are absent
    method_file: MethodFile
    module: ModuleType
    study_file: Path
    cluster_of_study: Flat = dataclasses.field(default_factory=dict)  # the study's `cluster:` block
    cluster_overrides: Flat = dataclasses.field(default_factory=dict)  # `--set cluster.KEY`

    @functools.cached_property  # once: the user may edit the method's file while a job is submitted and waited for
    def run_id(self) -> str:
        """Study, method, seed, and a hash of what can change a result, the seed aside: seeds of one row share it."""
        content: Flat = {key: value for key, value in scientific_differences(self.config).items() if key != "seed"}
        if self.method_file.module is None:
            content["method file"] = hashlib.sha256(self.method_file.path.read_bytes()).hexdigest()
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.config.study}-{self.config.method.name}-s{self.config.seed}-{digest}"

    @property
    def label(self) -> str:
        """The method and what the user set on top of the study, for people."""
        flat = flatten(self.config)
        skip = ("seed", "method.name", "data.root")
        changed = [
            f"{key.removeprefix('method.')}={flat[key]}"
            for key, origin in self.origins.items()
            if origin == "--set" and key not in skip and key in scientific_differences(self.config)
        ]
        return f"{self.config.method.name} ({', '.join(changed)})" if changed else self.config.method.name

    @property
    def command(self) -> list[str]:
        """The command that makes this run again, with a study or method of this package by its name."""
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
        if key in self.origins:
            return self.origins[key]
        if key.startswith("views.") and flatten(self.config)[key] != dict(leaves(RunConfig))[key].default:
            return f"view policy {self.config.views.policy}"
        return "default"


def resolve(
    method: str | None = None,
    study: str = "quickstart",
    overrides: Sequence[str] = (),
    seed: int | None = None,
    otherwise: str | None = None,
) -> Resolved:
    """Read the layers and validate them. Every mistake of the user is a ValueError of one sentence.

    `otherwise` is the method where neither the user nor the study names one.
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
        raise ValueError(f"study {study} names no single method; add --method, one of: {', '.join(blocks) or 'any'}")
    if chosen.get("method.name", name) != name:
        raise ValueError(f"--method {name} and --set method.name={chosen['method.name']} contradict each other")
    file = find_method(str(name))
    module = import_method(file)

    block_of_method = block_of(blocks, file.name)
    values: Flat = {"study": path.stem} | base | block_of_method | chosen
    if values.get("track", "controlled") == "controlled":
        for key in block_of_method:
            if not key.startswith(CONTROLLED_BLOCK_KEYS):
                raise ValueError(
                    f"{path}: per_method.{file.name} sets {key}, but in a controlled study it may set only method.* "
                    "and optimizer.lr; move it out of per_method, or set track: recipe"
                )
    origins = dict.fromkeys(base, f"study {path.stem}")
    origins |= dict.fromkeys(block_of_method, f"study {path.stem}, block of {file.name}")
    origins |= dict.fromkeys(chosen, "--set")
    values["method.name"] = file.name
    config = _validate_run(values, origins, module, path)
    return Resolved(config, origins, file, module, path, cluster, cluster_overrides)


def restore(folder: Path) -> Resolved:
    """The settings of an existing run folder. ValueError if they cannot be read."""
    path = folder / "config.yaml"
    values = flatten_raw(read_yaml(path))
    if "method.name" not in values:
        raise ValueError(f"{path} names no method")
    copied = folder / "method.py"
    file = find_method(str(copied if copied.exists() else values["method.name"]))
    file = MethodFile(values["method.name"], file.path, file.module)
    module = import_method(file)
    return Resolved(_validate_run(values, {}, module, path), {}, file, module, path)


def flatten(config: BaseModel) -> Flat:
    """Dotted keys to plain values (tuples as lists), in the order of declaration."""
    return flatten_raw(config.model_dump(mode="json"))


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and field of every setting below `model`."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def is_scientific(field: Any) -> bool:
    """Whether a setting can change a result."""
    return field.json_schema_extra is None or bool(field.json_schema_extra["scientific"])


def scientific_differences(config: RunConfig[Any]) -> Flat:
    """The settings that can change a result and are not at their default."""
    flat = flatten(config)
    differences = {}
    for key, field in leaves(type(config)):
        if is_scientific(field) and flat[key] != plain(field.default):
            differences[key] = flat[key]
    return differences


def to_yaml(config: RunConfig[Any]) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def read_study(path: Path) -> StudyFile:
    """ValueError if the file cannot be read, or a block has another form."""
    raw = read_yaml(path)
    cluster = raw.pop("cluster", None) or {}
    if not isinstance(cluster, dict):
        raise ValueError(f"{path}: cluster must hold keys and values")
    tuning = raw.pop("tuning", None) or {}
    if not isinstance(tuning, dict):
        raise ValueError(f"{path}: tuning must hold keys and lists of values")
    blocks = pop_blocks(raw, path)
    return StudyFile(flatten_raw(raw), blocks, cluster, tuning)


def check_blocks(blocks: Iterable[str], where: str, methods: Iterable[str]) -> None:
    """ValueError if one is neither of a known method, nor of one of `methods`, nor of a FILE.py."""
    known = list_methods()
    for block in blocks:
        if block not in known and block not in set(map(name_of, methods)) and not block.endswith(".py"):
            raise ValueError(f"{where} names the unknown method {block!r}{nearest(block, known)}")


def block_of(blocks: dict[str, Flat], method: str) -> Flat:
    """The settings of `method` in `blocks`, whose keys are names or FILE.py."""
    return next((block for name, block in blocks.items() if name_of(name) == method), {})


def name_of(method: str) -> str:
    """Of a method's name or FILE.py."""
    return Path(method).stem if method.endswith(".py") else method


def pop_blocks(raw: dict[str, Any], where: object) -> dict[str, Flat]:
    """The flat settings of each method in `per_method`, which is taken out of `raw`. ValueError names `where`."""
    blocks = raw.pop("per_method", None) or {}
    if not isinstance(blocks, dict) or not all(isinstance(block, dict | None) for block in blocks.values()):
        raise ValueError(f"{where}: per_method must map method names to settings")
    return {str(name): flatten_raw(block or {}) for name, block in blocks.items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a file. ValueError if it cannot be read or holds anything else."""
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path} must hold keys and values, not a {type(raw).__name__}")
    return raw


def flatten_raw(tree: dict[str, Any], prefix: str = "") -> Flat:
    """Nested settings with dotted keys; `views: NAME` and `method: NAME` in their long form."""
    flat: Flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten_raw(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" == "views":
            flat["views.policy"] = value
        elif f"{prefix}{key}" == "method":
            flat["method.name"] = value
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Flat) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{key} is set below {parent}, which has a value of its own")
        node[leaf] = value
    return tree


def parse_override(text: str) -> tuple[str, Any]:
    """Key and value of one `--set KEY=VALUE`. ValueError if it has another form."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ValueError(f"--set {text} must have the form key.path=value")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"--set {text}: {value!r} is not a YAML value") from None
    if isinstance(parsed, dict):
        raise ValueError(f"--set {text}: set one value at a time, as key.path=value")
    return {"views": "views.policy", "method": "method.name"}.get(key, key), parsed


def _validate_run(values: Flat, origins: dict[str, str], module: ModuleType, path: Path) -> RunConfig[Any]:
    schema = RunConfig[module.Config]  # type: ignore[name-defined]
    known = [key for key, _ in leaves(schema)]
    for key in values:
        if key not in known:
            where = origins.get(key, str(path))
            if key == "method" or any(k.startswith(f"{key}.") for k in known):
                raise ValueError(f"{key} ({where}) is a group of settings; set one of its keys, as {key}.KEY")
            raise ValueError(f"unknown key {key} ({where}){_nearest_key(key, known)}; `negbench config` lists all keys")
    return validate(schema, unflatten(values), origins)


S = TypeVar("S", bound=BaseModel)


def validate(schema: type[S], values: dict[str, Any], origins: dict[str, str], prefix: str = "") -> S:
    """`values` as `schema`; the first mistake as a ValueError that names the key, with `prefix`, and its origin."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # settings that contradict each other
            raise ValueError(message) from None
        related = (  # a group's mistake, or one inside of a list: the one who set it
            name for name in origins if name.startswith(f"{key}.") or key.startswith(f"{name}.")
        )
        origin = origins.get(key) or origins.get(next(related, ""), "default")
        if first["type"] == "extra_forbidden":
            known = [prefix + name for name in schema.model_fields]
            raise ValueError(f"unknown key {key} ({origin}){_nearest_key(key, known)}") from None
        got = f", not {first['input']!r}" if not isinstance(first["input"], dict) else ""
        raise ValueError(f"{key} ({origin}): {message[:1].lower()}{message[1:]}{got}") from None


def _nearest_key(key: str, known: Sequence[str]) -> str:
    """As `nearest`, also by a key's last part alone: `warmup` is near `schedule.warmup_epochs`."""
    by_last_part = {full.rpartition(".")[2]: full for full in reversed(known)}
    last_part = difflib.get_close_matches(key.rpartition(".")[2], by_last_part, n=1)
    return nearest(key, known) or (f", did you mean {by_last_part[last_part[0]]!r}?" if last_part else "")


def _yaml_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def plain(value: Any) -> Any:
    """A value as `flatten` has it."""
    return list(value) if isinstance(value, tuple) else value
