"""The twelve rooms of negbench/: a room imports from rooms below it alone, and no file, by way of others, itself."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "negbench"
ROOMS = (  # from the highest to the lowest
    *("cli", "launch", "cost", "train", "evaluate", "contrast"),
    *("models", "report", "data", "records", "settings", "runtime"),
)
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imports(module: str) -> set[str]:
    """The modules of negbench that one imports, at any place in its file and for types too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}", f"{node.module}.__init__", *(f"{node.module}.{a.name}" for a in node.names)]
        found |= {name for name in names if name in FILES}
    return found


def test_a_room_imports_from_rooms_below_it() -> None:
    for module in FILES:
        room = module.split(".")[1]
        for other in imports(module) - {"negbench.__init__"}:
            assert ROOMS.index(room) <= ROOMS.index(other.split(".")[1]), f"{module} imports {other}"


def test_no_file_imports_itself_by_way_of_others() -> None:
    tuple(graphlib.TopologicalSorter({module: imports(module) for module in FILES}).static_order())


def test_settings_records_reports_and_the_tests_of_minimums_need_no_torch() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ntest-minimums: ")[2].partition("\n\n")[0]
    tests = {path.replace("/", ".") for path in re.findall(r"(tests/\S+)\.py", recipe)}
    light = [m for m in FILES if m.split(".")[1] in ("settings", "records", "report") and not m.endswith("checkpoint")]
    names = ", ".join(name.removesuffix(".__init__") for name in [*light, "negbench.cli.main", *sorted(tests)])
    code = f"import sys, {names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
