"""Find methods, loggers and studies: built-in files, the user's, and other packages' entry points. Imports no torch."""

import ast
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType

from negbench.runtime.errors import UserError

ENTRY_POINT_GROUP = "negbench.methods"
LOGGERS = "negbench.loggers"  # the group of entry points
NO_CHOICE = ("__init__", "base", "console", "records")  # files of train/loggers/ that no run names
OLD_NAMES = "negbench.contrast.old_names:install"  # for method files of earlier versions


@dataclass(frozen=True)
class MethodFile:
    name: str
    path: Path
    module: str | None  # None for a file given by its path

    @property
    def docstring(self) -> str:
        """Read without importing the file."""
        return ast.get_docstring(ast.parse(self.path.read_text())) or ""


def package_folder(package: str) -> Path:
    """Where `negbench.methods` or `negbench.configs` lie; they have other places in a checkout than in a wheel."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def list_methods() -> dict[str, MethodFile]:
    """Every method by name: the files of `methods/`, then entry points of other packages."""
    files = sorted(path for path in package_folder("negbench.methods").glob("*.py") if path.stem != "__init__")
    methods = {path.stem: MethodFile(path.stem, path, f"negbench.methods.{path.stem}") for path in files}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = importlib.util.find_spec(point.module)
        except ImportError:  # a broken package must not take the others along
            continue
        if spec is not None and spec.origin:
            methods.setdefault(point.name, MethodFile(point.name, Path(spec.origin), point.module))
    return methods


def find_method(name: str) -> MethodFile:
    """The method called `name`, or the file that `name` is a path of. UserError if there is neither."""
    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"there is no method file {name}")
        return MethodFile(path.stem, path, None)
    methods = list_methods()
    if name not in methods:
        raise UserError(f"unknown method {name!r}{nearest(name, methods)}; known: {', '.join(methods)}, or a FILE.py")
    return methods[name]


def import_method(file: MethodFile) -> ModuleType:
    """Import a method file and check that it holds `Config` and `build`. UserError if the user's cannot be used."""
    resolve_name(OLD_NAMES)()
    if file.module is not None:
        module = importlib.import_module(file.module)
    else:
        name = f"negbench_user_method_{file.name}"
        spec = importlib.util.spec_from_file_location(name, file.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (SyntaxError, ImportError, NameError) as error:
            line = f" line {error.lineno}" if isinstance(error, SyntaxError) else ""
            raise UserError(f"method file {file.path} cannot be imported:{line} {error}") from None
    missing = [part for part in ("Config", "build") if not hasattr(module, part)]
    if missing:
        raise UserError(f"method file {file.path} lacks {' and '.join(missing)}; see CONTRIBUTING.md")
    return module


def list_loggers() -> dict[str, str]:
    """Return the module of each logger that a run can name: files of `train/loggers/`, then other packages' modules."""
    folder = "negbench.train.loggers"
    files = sorted(path.stem for path in package_folder(folder).glob("*.py") if path.stem not in NO_CHOICE)
    loggers = {name: f"{folder}.{name}" for name in files}
    for point in entry_points(group=LOGGERS):
        loggers.setdefault(point.name, point.module)
    return loggers


def find_logger(name: str) -> str:
    """Return the module of the logger called `name`. UserError if there is none."""
    loggers = list_loggers()
    if name not in loggers:
        raise UserError(f"unknown logger {name!r}{nearest(name, loggers)}; known: {', '.join(loggers) or 'none'}")
    return loggers[name]


def import_logger(name: str) -> ModuleType:
    """Import the logger's module, which holds `build`. UserError if it cannot be used."""
    module_name = find_logger(name)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"logger {name} cannot be imported from {module_name}: {error}") from None
    if not hasattr(module, "build"):
        raise UserError(f"logger {name} lacks build() in {module_name}; see negbench/train/loggers/base.py")
    return module


def list_studies() -> dict[str, Path]:
    """Every study of `configs/` by name: `cifar10`, or with its folder, `paper/adco-imagenet-200`."""
    folder = package_folder("negbench.configs")
    studies = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return dict(sorted(studies.items()))


def find_study(name: str) -> Path:
    """The study called `name` in `configs/`, or the YAML file at the path `name`. UserError if there is neither."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"there is no study file {name}")
        return path
    studies = list_studies()
    if name not in studies:
        raise UserError(f"unknown study {name!r}{nearest(name, studies)}; known: {', '.join(studies)}, or a FILE.yaml")
    return studies[name]


def nearest(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the known word nearest to `word`, or nothing."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""
