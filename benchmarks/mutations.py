"""The mutants of a module's text: what `python -m benchmarks.mutants --draw` draws from.

Swapped operators; numbers, flags and keys; conditions that always or never hold; statements, decorators and keyword
arguments left out; open slices; functions for their opposites. Docstrings, annotations, texts (strings with a space,
f-strings, whatever stands in a `raise`) and `__all__` are left alone.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    getattr(ast, name): (old, new)
    for name, old, new in (
        *(("Add", "+", "-"), ("Sub", "-", "+"), ("Mult", "*", "/"), ("Div", "/", "*"), ("FloorDiv", "//", "/")),
        *(("Mod", "%", "*"), ("Pow", "**", "*"), ("BitAnd", "&", "|"), ("BitOr", "|", "&")),
        *(("Lt", "<", "<="), ("LtE", "<=", "<"), ("Gt", ">", ">="), ("GtE", ">=", ">")),
        *(("Eq", "==", "!="), ("NotEq", "!=", "=="), ("Is", "is", "is not"), ("IsNot", "is not", "is")),
        *(("In", "in", "not in"), ("NotIn", "not in", "in"), ("And", "and", "or"), ("Or", "or", "and")),
    )
}
PAIRS = (("min", "max"), ("any", "all"), ("sum", "mean"), ("floor", "ceil"), ("argmax", "argmin"), ("amax", "amin"))
OPPOSITES = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}


class Edit(NamedTuple):
    """Of the bytes of a text."""

    start: int
    end: int
    new: str


class Change(NamedTuple):
    """Whole lines that occur once in a module, and what stands there instead."""

    function: str
    before: str
    after: str


def changes(text: str) -> Iterator[Change]:
    """All mutants of the module `text`."""
    module = _Module(text)
    for function, edit in module.edits(ast.parse(text)):
        change = module.change(function, edit)
        try:
            ast.parse(text.replace(change.before, change.after))
        except SyntaxError:
            continue
        yield change


class _Module:
    def __init__(self, text: str) -> None:
        self.content = text.encode()
        self.starts = [0, *(match.end() for match in re.finditer(b"\n", self.content))]

    def edits(self, node: ast.AST, within: tuple[str, ...] = ()) -> Iterator[tuple[str, Edit]]:
        """Those of `node` and of what it holds, each with the name of its function."""
        for edit in self._edits_at(node):
            yield ".".join(within), Edit(*edit)
        if isinstance(node, ast.Raise):
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            within = (*within, node.name)
        for field, value in ast.iter_fields(node):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and field not in ("annotation", "returns", "msg") and not _is_text(child):
                    yield from self.edits(child, within)

    def change(self, function: str, edit: Edit) -> Change:
        first = self.content.rfind(b"\n", 0, edit.start) + 1
        last = self.content.index(b"\n", edit.end)
        while self.content.count(self.content[first:last]) > 1:
            first = self.content.rindex(b"\n", 0, first - 1) + 1
        after = self.content[first : edit.start] + edit.new.encode() + self.content[edit.end : last]
        return Change(function, self.content[first:last].decode(), after.decode())

    def _span(self, node: Any) -> tuple[int, int]:
        start, end = self.starts[node.lineno - 1], self.starts[node.end_lineno - 1]
        return start + node.col_offset, end + node.end_col_offset

    def _edits_at(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        match node:
            case ast.BinOp(left, operator, right):
                yield from self._swapped([left, right], [operator])
            case ast.BoolOp(operator, values):
                yield from self._swapped(values, [operator] * len(values))
            case ast.Compare(left, operators, comparators):
                yield from self._swapped([left, *comparators], operators)
            case ast.UnaryOp(ast.Not() | ast.Invert() | ast.USub(), operand):
                start, end = self._span(operand)
                yield *self._span(node), f"({self.content[start:end].decode()})"
            case ast.Constant(bool(value)):
                yield *self._span(node), str(not value)
            case ast.Constant(int(value)):
                yield *self._span(node), str(value + 1)
            case ast.Constant(float(value)):
                yield *self._span(node), repr(2 * value or 1.0)
            case ast.Constant(str(value)) if " " not in value:
                yield *self._span(node), repr(f"{value}XX")
            case ast.AugAssign(target, operator, value):
                yield from self._swapped([target, value], [operator])
                yield *self._span(node), "pass"
            case ast.Expr(ast.Call()) | ast.Assign([ast.Attribute() | ast.Subscript()]) | ast.Raise():
                yield *self._span(node), "pass"
            case ast.Break() | ast.Continue():
                yield *self._span(node), "pass"
            case ast.If(test) | ast.IfExp(test):
                yield from ((*self._span(test), answer) for answer in ("True", "False"))
            case ast.comprehension(ifs=tests):
                yield from ((*self._span(test), "True") for test in tests)
            case ast.Call(function, _, keywords):
                yield from ((*self._argument(keyword), "") for keyword in keywords if keyword.arg)
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                if name in OPPOSITES:
                    end = self._span(function)[1]
                    yield end - len(name), end, OPPOSITES[name]
            case ast.Slice(lower, upper):
                yield from ((*self._span(bound), "") for bound in (lower, upper) if bound is not None)
            case ast.FunctionDef() | ast.ClassDef():
                for start, end in map(self._span, node.decorator_list):
                    yield start - 1, end, ""

    def _swapped(self, operands: Sequence[ast.AST], operators: Sequence[ast.AST]) -> Iterator[tuple[int, int, str]]:
        for (left, right), operator in zip(pairwise(operands), operators, strict=False):
            if type(operator) in OPERATORS:
                start, end = self._span(left)[1], self._span(right)[0]
                yield start, end, self.content[start:end].decode().replace(*OPERATORS[type(operator)], 1)

    def _argument(self, keyword: ast.keyword) -> tuple[int, int]:
        """With a comma beside it."""
        start, end = self._span(keyword)
        before = self.content[:start].rstrip()
        if before.endswith(b","):
            return len(before) - 1, end
        after = self.content[end:].lstrip()
        return start, len(self.content) - len(after.removeprefix(b",").lstrip())


def _is_text(node: ast.AST) -> bool:
    match node:
        case ast.JoinedStr() | ast.Import() | ast.ImportFrom() | ast.Expr(ast.Constant()):
            return True
        case ast.If(ast.Name("TYPE_CHECKING")) | ast.Assign([ast.Name("__all__")]):
            return True
    return False
