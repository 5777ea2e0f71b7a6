"""A table of text cells, and the three files it is written to: CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Column:
    """A column's heading, and the group it stands in ("" for none)."""

    group: str
    heading: str

    @property
    def full(self) -> str:
        """Heading with its group, for formats that have one header line."""
        return f"{self.group}: {self.heading}" if self.group else self.heading


@dataclass(frozen=True)
class Table:
    """A finished table: all numbers are already written out, so that every format shows the same ones.

    Args:
        name: stem of its files.
        title: one line.
        columns: headings.
        rows: cells, one for each column.
        notes: sentences printed below.
        data_note: what must be said of the real data wherever a figure stands, also in the CSV file; "" for nothing.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    data_note: str = ""

    @property
    def footnotes(self) -> tuple[str, ...]:
        """All that is printed below: the notes, and after them that of the real data."""
        return (*self.notes, self.data_note) if self.data_note else self.notes

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns of one group: (group, how many)."""
        return [(group, len(list(columns))) for group, columns in groupby(self.columns, lambda c: c.group)]


def table_csv(table: Table) -> str:
    """The table as CSV: one header line, then the rows; a last column `note` has the note of the real data, if any."""
    text = io.StringIO()
    heading, cell = (("note",), (table.data_note,)) if table.data_note else ((), ())
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*(column.full for column in table.columns), *heading))
    writer.writerows((*row, *cell) for row in table.rows)
    return text.getvalue()


def table_markdown(table: Table) -> str:
    """The table as GitHub Markdown, with title and notes."""
    lines = [f"**{_markdown(table.title)}**", "", _pipes(column.full for column in table.columns)]
    lines.append("|" + "---|" * len(table.columns))
    lines += [_pipes(row) for row in table.rows]
    lines += ["", *(f"- {_markdown(note)}" for note in table.footnotes)]
    return "\n".join(lines) + "\n"


def table_latex(table: Table) -> str:
    r"""The table as LaTeX (needs \usepackage{booktabs,graphicx}), ASCII only, scaled to the text width."""
    spans, start = [], 1
    headings = []
    for group, width in table.groups:
        headings.append(rf"\multicolumn{{{width}}}{{c}}{{{_latex(group)}}}")
        if group:
            spans.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\resizebox{{\textwidth}}{{!}}{{\begin{{tabular}}{{{'l' * len(table.columns)}}}",
        r"\toprule",
        *([" & ".join(headings) + r" \\", *spans] if spans else []),
        " & ".join(_latex(column.heading) for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(_latex(cell) for cell in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip{{\footnotesize {_latex(note)}}}" for note in table.footnotes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_markdown(cell) for cell in cells) + " |"


def _markdown(text: str) -> str:
    escaped = re.sub(r"([\\`*|]|(?<=\])\()", r"\\\1", text)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",
    "]": "{]}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
    "ρ": r"$\rho$",
    "Δ": r"$\Delta$",
    "é": r"\'e",
}


def _latex(text: str) -> str:
    negative = re.sub(r"(?<![\w.\-])-(?=\d)", "−", text)
    written = "".join(_LATEX.get(character, character) for character in negative)
    # Anything else outside ASCII would need an engine or packages we cannot count on.
    return written.encode("ascii", "replace").decode("ascii").replace("\n", " ")
