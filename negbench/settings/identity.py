"""The id of a run: study, method, seed, and a hash of all else that can change a result. Runs no method's code."""

import ast
import hashlib
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from negbench.settings.keys import Flat, is_scientific, leaves, plain
from negbench.settings.plugins.find import package_folder
from negbench.settings.schema import SharedConfig

METHOD_FILE = "method file"  # in the hash, the digest of a file given by its path


def make_run_id(study: str, method: str, seed: int, differences: Flat, method_file: bytes | None = None) -> str:
    """Return the id of the run whose settings that can change a result have these `differences` to their defaults.

    `method_file` is the content of a method's file that is given by its path.
    """
    content = {key: value for key, value in differences.items() if key != "seed"}
    if method_file is not None:
        content[METHOD_FILE] = hashlib.sha256(method_file).hexdigest()
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return f"{study}-{method}-s{seed}-{digest}"


def recorded_differences(settings: Flat, method: bytes) -> Flat | None:
    """Return the `differences` of settings on disk. `method` is the source that declares the method's own settings.

    None if a key is not declared now, or its default is no plain value in the file.
    """
    declared = {**_shared(), **(_declared(method, "Config") or {})}
    if not settings.keys() <= declared.keys():
        return None
    scientific = {key: default for key, (default, can_change_a_result) in declared.items() if can_change_a_result}
    return {key: value for key, value in settings.items() if key in scientific and value != scientific[key]}


@cache
def _shared() -> dict[str, tuple[Any, bool]]:
    """The defaults of all but the method's own settings, and whether they can change a result."""
    found = {key: (plain(field.default), is_scientific(field)) for key, field in leaves(SharedConfig)}
    return found | {"method.name": (None, True)}


@cache
def _declared(source: bytes, name: str) -> dict[str, tuple[Any, bool]] | None:
    """As `_shared`, of a class of settings in a source; None if it does more than declare plain values."""
    known: dict[str, Callable[[], dict[str, tuple[Any, bool]]]] = {"MethodConfig": dict, "MomentumConfig": _momentum}
    try:
        classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
        (made,) = [node for node in classes if node.name == name]
        (base,) = made.bases
        found = known[ast.unparse(base)]()
        for node in made.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                call = node.value if isinstance(node.value, ast.Call) else None
                keywords = {keyword.arg: keyword.value for keyword in call.keywords} if call else {}
                default = ast.literal_eval(call.args[0] if call else node.value)
                is_of_id = ast.literal_eval(keywords.get("scientific", ast.Constant(True)))
                found[f"method.{node.target.id}"] = (plain(default), is_of_id)
    except (SyntaxError, ValueError, LookupError):
        return None
    return found


def _momentum() -> dict[str, tuple[Any, bool]]:
    return dict(_declared((package_folder("negbench.contrast") / "momentum.py").read_bytes(), "MomentumConfig") or {})
