"""Tables as CSV, Markdown and LaTeX."""

import re
from pathlib import Path

import pandas as pd

from negbench.report.tables.base import Table
from negbench.runtime import words

WIDE = 6  # columns from which on a table spans both columns of a page
_MARKDOWN = re.compile(r"([\\`*<>|\[\]])")
_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }
)
_SYMBOLS = {"−": "$-$", "±": r"$\pm$", "∞": r"$\infty$", "–": "--"}  # that no input encoding is needed for


def write_table(table: Table, folder: Path) -> None:
    """Write `SLUG.csv`, the numbers, and `SLUG.md` and `SLUG.tex`, what a reader sees."""
    write_csv(table.data, folder / f"{table.slug}.csv")
    (folder / f"{table.slug}.md").write_text(to_markdown(table), encoding="utf-8")
    (folder / f"{table.slug}.tex").write_text(to_latex(table), encoding="utf-8")


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as CSV, of whose texts no spreadsheet makes formulas."""
    safe = frame.copy()
    for name in frame:
        values = [words.inert(value) if isinstance(value, str) else value for value in frame[name]]
        if any(isinstance(value, str) for value in values):
            safe[name] = pd.Series(values, frame.index, dtype=object)
    safe.rename(columns=words.inert).to_csv(path, index=False)


def to_markdown(table: Table) -> str:
    def escaped(text: str, bold: bool = False) -> str:
        inside = _MARKDOWN.sub(r"\\\1", text)
        return f"**{inside}**" if bold else inside

    rows = [[escaped(cell.text, cell.bold) for cell in row] for row in table.rows]
    grid = pd.DataFrame(rows, columns=list(map(escaped, table.columns))).to_markdown(index=False, disable_numparse=True)
    return f"{escaped(table.title, bold=True)}\n\n{grid}\n\n{escaped(table.note).strip()}\n"


def to_latex(table: Table) -> str:
    """Return a floating table with booktabs' rules."""
    frame = pd.DataFrame([[cell.text for cell in row] for row in table.rows], columns=list(table.columns))
    bold = pd.DataFrame(
        [["textbf:--rwrap" if c.bold else "" for c in row] for row in table.rows], columns=frame.columns
    )
    styler = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    latex: str = styler.apply(lambda _: bold, axis=None).to_latex(
        hrules=True,
        column_format="l" + "r" * (len(frame.columns) - 1),
        caption=table.title.translate(_LATEX),
        label=f"tab:{table.slug}",
        position="t",
        environment="table*" if len(frame.columns) > WIDE else None,
    )
    note = f"\\par\\smallskip\\footnotesize {table.note.strip().translate(_LATEX)}"
    latex = latex.replace("\\begin{tabular}", "\\footnotesize\n\\begin{tabular}")
    latex = latex.replace("\\end{tabular}", f"\\end{{tabular}}\n{note}")
    for symbol, command in _SYMBOLS.items():
        latex = latex.replace(symbol, command)
    return latex
