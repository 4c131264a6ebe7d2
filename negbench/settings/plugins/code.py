"""The code of a method, as a digest that changes with what it does and not with how it is written down."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from negbench.settings.plugins.find import METHOD, PluginFile, package_folder

_INSTALLED = {"site-packages", "dist-packages"}  # folders of packages, of this environment or one that it extends


def code_digest(method: PluginFile) -> str:
    """Return a digest of a method's file and of the user's files that it imports: of what their syntax trees say.

    Comments, docstrings and formatting do not count. Files of negbench but for its methods do not either, nor those of
    installed packages but for the method's own.
    """
    digest = hashlib.sha256()
    for name, _, tree in sorted(_files(method), key=lambda file: file[0]):
        digest.update(f"{name}\0{ast.unparse(_Bare().visit(tree))}\0".encode())
    return digest.hexdigest()[:16]


def code_files(method: PluginFile) -> dict[str, Path]:
    """Return the files that `code_digest` is of by their paths below a folder that Python would import them from.

    A method's file that is given by its path is `NAME.py`; negbench's methods are in `methods/`.
    """
    files = {}
    for name, path, _ in _files(method):
        parts = (name or method.module or method.name).removeprefix("negbench.").split(".")
        parts += ["__init__"] if path.name == "__init__.py" else []
        files[f"{'/'.join(parts)}.py"] = path
    return files


def _files(method: PluginFile) -> Iterator[tuple[str, Path, ast.Module]]:
    """Yield name, path and tree of each file; the name of the method's own is empty, since it may lie anywhere."""
    package = (method.module or "").partition(".")[0]
    waiting, seen = [("", method.module, method.path)], {method.path.resolve()}
    while waiting:
        name, module, path = waiting.pop()
        tree = ast.parse(path.read_bytes())
        for imported in _with_packages(_imports(tree, module)):
            found = _origin(imported, path.parent, package)
            if found is not None and found.resolve() not in seen:
                seen.add(found.resolve())
                waiting.append((imported, imported, found))
        yield name, path, tree


def _imports(tree: ast.Module, module: str | None) -> Iterator[str]:
    """The modules that a file may import: `from a import b` may mean `a.b`."""
    package = (module or "").rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(filter(None, (*above, node.module)))
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def _with_packages(modules: Iterable[str]) -> Iterator[str]:
    """Yield each module after the packages that it is in, whose code is executed first."""
    for module in modules:
        parts = module.split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _origin(module: str, beside: Path, package: str) -> Path | None:
    """Return the file of a module whose code counts, as Python would find it or beside the file that imports it.

    Nothing is imported for it.
    """
    top, *rest = module.split(".")
    if module.startswith(f"{METHOD.package}."):
        place, rest = package_folder(METHOD.package), rest[1:]
    elif not top or top == "negbench" or top in sys.stdlib_module_names:
        return None
    else:
        spec = importlib.util.find_spec(top)
        installed = spec is not None and spec.origin is not None and _INSTALLED & {*Path(spec.origin).parts}
        if installed and top != package:
            return None
        folders = spec.submodule_search_locations if spec is not None else None
        single = Path(spec.origin).with_suffix("") if spec is not None and spec.origin else beside / top
        place = Path(folders[0]) if folders else single
    path = place.joinpath(*rest)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


class _Bare(ast.NodeTransformer):
    """Leaves out docstrings. What a body then lacks, `ast.unparse` does not ask for."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        return node
