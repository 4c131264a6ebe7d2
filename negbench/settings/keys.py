"""Settings by their dotted keys: flat and nested, read, written and checked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from negbench.runtime.errors import UserError
from negbench.runtime.words import did_you_mean
from negbench.settings.schema import SharedConfig

Flat = dict[str, Any]
OWN = "method.* and optimizer.lr"  # in sentences
_LONG_FORM = {"views": "views.policy", "method": "method.name"}
_SHOWN = 200  # characters of a value in an error
S = TypeVar("S", bound=BaseModel)


def flatten(config: BaseModel) -> Flat:
    """Return plain values (tuples as lists) by dotted keys, in the order of declaration."""
    return flatten_raw(config.model_dump(mode="json"))


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and field of every setting below `model`."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def is_scientific(field: Any) -> bool:
    """Return whether a setting can change a result."""
    return field.json_schema_extra is None or bool(field.json_schema_extra["scientific"])


def scientific_differences(config: SharedConfig) -> Flat:
    """Return the settings that can change a result and are not at their default."""
    flat = flatten(config)
    scientific = {key: field for key, field in leaves(type(config)) if is_scientific(field)}
    return {key: flat[key] for key, field in scientific.items() if flat[key] != plain(field.default)}


def plain(value: Any) -> Any:
    """Return a value as `flatten` gives it."""
    return list(value) if isinstance(value, tuple) else value


def is_of_method(key: str) -> bool:
    """Return whether a method's file declares the setting `key`."""
    return key.startswith("method.")


def is_own(key: str) -> bool:
    """Return whether methods of a controlled comparison may differ in the setting `key`."""
    return is_of_method(key) or key == "optimizer.lr"


def to_yaml(config: SharedConfig) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


class OnceEach(yaml.constructor.SafeConstructor):
    """Refuses a key that a group holds twice, of which PyYAML takes the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise UserError(f"line {key.start_mark.line + 1} sets {key.value} a second time; keep one")
            seen |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
        return dict(super().construct_mapping(node, deep))


class _Loader(OnceEach, yaml.SafeLoader): ...


def parse_yaml(text: str) -> Any:
    """Return the value of a text. UserError with the reason if it has none."""
    try:
        value = yaml.load(text, _Loader)
        repr(value)  # a number in hexadecimal may be too long to be written
        return value
    except UserError:
        raise
    except Exception as error:  # more than YAMLError, as KeyError for `!!bool x` and ValueError for 5,000 digits
        raise UserError(" ".join(str(error).split()) or type(error).__name__) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return keys and values of a file. UserError if it cannot be read or holds anything else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    try:
        raw = parse_yaml(text) or {}
    except UserError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold keys and values, not a {type(raw).__name__}")
    return raw


def flatten_raw(tree: dict[str, Any], prefix: str = "") -> Flat:
    """Return nested settings by dotted keys; `views: NAME` and `method: NAME` in their long form.

    UserError for a setting that is there twice, as `optimizer.lr: 1` beside `optimizer: {lr: 2}`.
    """
    flat: Flat = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        found = flatten_raw(value, f"{key}.") if isinstance(value, dict) else {_LONG_FORM.get(key, key): value}
        twice = flat.keys() & found.keys()
        if twice:
            raise UserError(f"{min(twice)} is set twice, in two forms; keep one")
        flat |= found
    return flat


def unflatten(flat: Flat) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"{key} is set below {parent}, which has a value of its own")
        node[leaf] = value
    return tree


def shown(text: str) -> str:
    """Return the text, of a long one its beginning."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def parse_override(text: str) -> tuple[str, Any]:
    """Return key and value of one `--set KEY=VALUE`. UserError if it has another form."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text} must have the form key.path=value")
    try:
        parsed = parse_yaml(value)
    except UserError:
        raise UserError(f"--set {shown(text)}: {shown(value)!r} is not a YAML value") from None
    if isinstance(parsed, dict):
        raise UserError(f"--set {text}: set one value at a time, as key.path=value")
    return _LONG_FORM.get(key, key), parsed


def validate(schema: type[S], values: dict[str, Any], origins: dict[str, str], prefix: str = "") -> S:
    """Return `values` as `schema`. The first mistake is a UserError with the key, after `prefix`, and its origin."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # settings that contradict each other
            raise UserError(message) from None
        related = (  # of a mistake of a group, or within a list
            name for name in origins if name.startswith(f"{key}.") or key.startswith(f"{name}.")
        )
        origin = origins.get(key) or origins.get(next(related, ""), "default")
        if first["type"] == "extra_forbidden":
            known = [prefix + name for name in schema.model_fields]
            raise UserError(f"unknown key {key} ({origin}){did_you_mean(key, known)}") from None
        is_said = isinstance(first["input"], dict) or repr(first["input"]) in message
        got = "" if is_said else f", not {first['input']!r}"
        raise UserError(f"{key} ({origin}): {message[:1].lower()}{message[1:]}{got}") from None


def name_of(method: str) -> str:
    """Return the name of a method given by its name or FILE.py."""
    return Path(method).stem if method.endswith(".py") else method
