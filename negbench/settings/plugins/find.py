"""Find plug-ins, negbench's own and other packages', and studies.

Methods, data sets, backbones, protocols, loggers and figures of reports are plug-ins: files in the folder of
their kind, or modules that another package names as entry points of its group.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

from negbench.runtime.errors import UserError
from negbench.runtime.words import did_you_mean
from negbench.settings.plugins.facts import Backbone, DataSet, Figure, PluginFacts, Protocol

OLD_NAMES = "negbench.contrast.old_names:install"  # for method files of earlier versions
_PLAIN = "rename it: names have letters, digits, _ and -, and begin with a letter"


@dataclass(frozen=True)
class Kind:
    """What all plug-ins of a kind have in common."""

    word: str
    package: str  # the folder of negbench's own
    group: str  # the entry points of other packages
    parts: tuple[str, ...]  # what a file must define
    facts: type[PluginFacts] | None = None  # what it begins with; methods and loggers begin with a docstring instead
    others: tuple[str, ...] = ("__init__",)  # files of the folder that are no plug-ins


METHOD = Kind("method", "negbench.methods", "negbench.methods", ("Config", "build"))
PROTOCOL = Kind("protocol", "negbench.evaluate.protocols", "negbench.protocols", ("evaluate",), Protocol)
DATASET = Kind("data set", "negbench.data.datasets", "negbench.datasets", ("load",), DataSet)
BACKBONE = Kind("backbone", "negbench.models.backbones", "negbench.backbones", ("build",), Backbone)
FIGURE = Kind("figure", "negbench.report.figures", "negbench.figures", ("drawing",), Figure)
_BESIDE = ("__init__", "base", "console", "records")
LOGGER = Kind("logger", "negbench.train.loggers", "negbench.loggers", ("build",), others=_BESIDE)


@dataclass(frozen=True)
class PluginFile:
    kind: Kind
    name: str
    path: Path
    module: str | None  # None for a file given by its path
    giver: str = "negbench"  # the package that it comes from
    facts: Any = None  # of the kind's type
    problem: str = ""  # why it cannot be used, as a sentence

    @property
    def docstring(self) -> str:
        """Read without importing the file."""
        return ast.get_docstring(ast.parse(self.path.read_bytes())) or ""


def package_folder(package: str) -> Path:
    """Return the folder of `negbench.methods` or `negbench.configs`, which is another in a checkout than in a wheel."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def list_plugins(kind: Kind) -> dict[str, PluginFile]:
    """Return every plug-in of a kind that can be used, by name: negbench's own, then those of other packages."""
    return {name: file for name, file in _found(kind).items() if not file.problem}


def problems_of(kind: Kind) -> list[str]:
    """Return a sentence for every plug-in of a kind that cannot be used."""
    return [file.problem for file in _found(kind).values() if file.problem]


def find_plugin(kind: Kind, name: str, known: Iterable[str] | None = None, or_else: str = "") -> PluginFile:
    """Return the plug-in called `name`. UserError if it is none of the `known` (default: all), or if it has a problem.

    The sentence of an unknown name lists the known ones, and `or_else` after them.
    """
    found, known = _found(kind), list(list_plugins(kind) if known is None else known)
    if name in found and found[name].problem:
        raise UserError(found[name].problem)
    if name not in known:
        raise UserError(f"unknown {kind.word} {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}{or_else}")
    return found[name]


def facts_of(kind: Kind) -> dict[str, Any]:
    """Return the facts of every plug-in of a kind by name; of an ambiguous name, negbench's."""
    return {name: file.facts for name, file in _found(kind).items() if file.facts is not None}


def import_plugin(file: PluginFile) -> ModuleType:
    """Import a file and check that it defines its kind's parts. UserError if the user's is broken."""
    try:
        module = importlib.import_module(file.module) if file.module is not None else _execute(file)
    except Exception as error:
        if file.giver != "negbench":
            raise UserError(_unusable(file.kind, file.name, file.giver, error)) from None
        if file.module is not None or not isinstance(error, SyntaxError | ImportError | NameError):
            raise
        line = f" line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"{file.kind.word} file {file.path} cannot be imported:{line} {error}") from None
    missing = [part for part in file.kind.parts if not hasattr(module, part)]
    if missing:
        raise UserError(f"{file.kind.word} file {file.path} lacks {' and '.join(missing)}; see CONTRIBUTING.md")
    return module


def list_methods() -> dict[str, PluginFile]:
    """Return every method by name."""
    return list_plugins(METHOD)


def find_method(name: str) -> PluginFile:
    """Return the method called `name`, or in the file at the path `name`. UserError if there is neither."""
    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"there is no method file {name}")
        if not _is_plain(path.stem):
            raise UserError(f"the method file {path} makes a method of the name {path.stem!r}; {_PLAIN}")
        return PluginFile(METHOD, path.stem, path, None)
    return find_plugin(METHOD, name, or_else=", or a FILE.py")


def import_method(file: PluginFile) -> ModuleType:
    """Import a method file, which may use names of earlier versions. UserError as `import_plugin`."""
    resolve_name(OLD_NAMES)()
    return import_plugin(file)


@cache
def _found(kind: Kind) -> dict[str, PluginFile]:
    """Return every plug-in of a kind by name; one that cannot be used has a `problem`."""
    found: dict[str, PluginFile] = {}
    for path in sorted(package_folder(kind.package).glob("*.py")):
        if path.stem not in kind.others:
            name = path.stem if kind.facts is None else path.stem.replace("_", "-")
            facts = _read_facts(kind, name, path)
            found[name] = PluginFile(kind, name, path, f"{kind.package}.{path.stem}", facts=facts)
    for point in sorted(entry_points(group=kind.group), key=lambda point: point.name):
        file = _of_other_package(kind, point)
        if first := found.get(point.name):
            both = f"both {first.giver} and {file.giver} have a {kind.word} {point.name!r}; uninstall or rename one"
            file = replace(first, problem=both)
        found[point.name] = file
    return {name: _refused_unless_plain(file) for name, file in found.items()}


def _refused_unless_plain(file: PluginFile) -> PluginFile:
    """Return the file; that of a method whose name cannot stand in folders, tables and commands has a problem."""
    if file.kind is not METHOD or _is_plain(file.name):
        return file
    return replace(file, problem=f"the method {file.name!r} of the package {file.giver} cannot be used; {_PLAIN}")


def _of_other_package(kind: Kind, point: EntryPoint) -> PluginFile:
    giver = point.dist.name if point.dist else point.module
    try:
        spec = importlib.util.find_spec(point.module)
        if spec is None or not spec.origin:
            raise ImportError(f"there is no module {point.module}")
        path = Path(spec.origin)
        return PluginFile(kind, point.name, path, point.module, giver, _read_facts(kind, point.name, path))
    except Exception as error:  # a broken package must not make the others unusable
        problem = _unusable(kind, point.name, giver, error)
        return PluginFile(kind, point.name, Path(), point.module, giver, problem=problem)


def _is_plain(name: str) -> bool:
    return name.replace("-", "_").isidentifier() and not name.startswith("-")


def _unusable(kind: Kind, name: str, giver: str, error: Exception) -> str:
    return f"{kind.word} {name!r} of the package {giver} cannot be used: {' '.join(str(error).split())}"


def _read_facts(kind: Kind, name: str, path: Path) -> PluginFacts | None:
    """Return the facts that a file of a kind begins with, read without importing it."""
    if kind.facts is None:
        return None
    constant = kind.facts.__name__.upper()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == constant:
            assert isinstance(node.value, ast.Call), f"{constant} is no call"
            return kind.facts(name=name, **{str(k.arg): ast.literal_eval(k.value) for k in node.value.keywords})
    raise UserError(f"{path} lacks {constant} = {kind.facts.__name__}(...)")


def _execute(file: PluginFile) -> ModuleType:
    name = f"negbench_user_{file.kind.word}_{file.name}"
    spec = importlib.util.spec_from_file_location(name, file.path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def find_logger(name: str) -> PluginFile:
    """Return the logger called `name`. UserError as `find_plugin`."""
    return find_plugin(LOGGER, name, or_else="" if list_plugins(LOGGER) else "none")


def list_studies() -> dict[str, Path]:
    """Return every study of `configs/` by name: `cifar10`, or with its folder, `paper/adco-imagenet-200`."""
    folder = package_folder("negbench.configs")
    studies = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return dict(sorted(studies.items()))


def find_study(name: str) -> Path:
    """Return the study called `name` in `configs/`, or the YAML file at that path. UserError if there is neither."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"there is no study file {name}")
        return path
    studies = list_studies()
    if name not in studies:
        raise UserError(
            f"unknown study {name!r}{did_you_mean(name, studies)}; known: {', '.join(studies)}, or a FILE.yaml"
        )
    return studies[name]
