"""The keys of `summary.json`: what reads them, and their list in the docs."""

import ast
import re
from pathlib import Path

from negbench.records.run.summary import FIELDS
from negbench.settings.plugins.protocols import NAMED
from tests.test_rooms import FILES

DOCS = Path(__file__).parents[2] / "docs"


def keys_read(path: Path) -> set[str]:
    """The keys that a file takes from something called `summary`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        key: ast.expr
        match node:
            case (
                ast.Subscript(value=record, slice=key)
                | ast.Call(func=ast.Attribute(value=record, attr="get"), args=[key, *_])
            ):
                name = getattr(record, "attr", getattr(record, "id", ""))
                if name == "summary" and isinstance(key, ast.Constant):
                    found.add(str(key.value))
    return found


def test_every_key_that_is_read_is_defined() -> None:
    read = {key for path in FILES.values() for key in keys_read(path)}
    assert len(read) > 20
    assert read <= FIELDS.keys()


def test_a_protocols_figure_has_a_key_of_its_own() -> None:
    figures = [protocol.figure for protocol in NAMED.values()]
    assert len({*figures, *FIELDS}) == len(figures) + len(FIELDS)


def test_the_docs_list_every_key_with_its_unit_and_meaning() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", (DOCS / "measured.md").read_text(), re.MULTILINE)
    known = [
        (name, field.unit, "or null" if field.may_be_unknown else "", field.meaning) for name, field in FIELDS.items()
    ]
    assert listed == known
