"""Write headings, facts and tables: by rich on a terminal, else as plain aligned lines.

Plain lines are never cut or wrapped, whatever their width, so that pipes see everything. No
text is taken as markup, and control characters are written escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pmemfs.inspect.text import printable

MAX_RICH_ROWS = 2000

Row = Sequence[Any]


def heading(text: str) -> None:
    """Write a heading with an empty line before it."""
    click.echo()
    click.echo(click.style(printable(text), bold=True))


def line(text: str) -> None:
    """Write one line."""
    click.echo(printable(text))


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Write labels and what belongs to them, in two columns."""
    rows = [(label, _cell(value)) for label, value in pairs]
    width = max((len(label) for label, _ in rows), default=0)
    for label, value in rows:
        click.echo(f"  {label.ljust(width)}  {value}".rstrip())


def table(columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a table; a column whose name starts with ``>`` is set to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    names = [name.lstrip(">") for name in columns]
    rights = [name.startswith(">") for name in columns]
    if sys.stdout.isatty() and len(cells) <= MAX_RICH_ROWS:
        _rich_table(names, rights, cells)
    else:
        _plain_table(names, rights, cells)


def _cell(value: Any) -> str:
    return "-" if value is None else printable(str(value))


def _rich_table(names: list[str], rights: list[bool], cells: list[list[str]]) -> None:
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, right in zip(names, rights):
        out.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in cells:
        out.add_row(*(Text(cell) for cell in row))
    console = Console(markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(out)
    click.echo(capture.get(), nl=False)


def _plain_table(names: list[str], rights: list[bool], cells: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(names, *cells)]
    click.echo("\n".join(_plain_line(row, widths, rights) for row in [names, *cells]))


def _plain_line(cells: list[str], widths: list[int], rights: list[bool]) -> str:
    parts = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, rights)
    )
    return "  " + "  ".join(parts).rstrip()
