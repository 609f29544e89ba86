"""Write headings, facts and tables: by rich on a terminal, else as plain aligned lines.

Plain lines are never cut or wrapped, whatever their width, so that pipes see everything. On a
terminal text is wrapped between words; a table that is too wide even so is written as several,
one below the other, each with the first column. No number and no word is broken, unless it alone
is wider than the terminal. No text is taken as markup, and control characters are written escaped.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from pmemfs.cli.frame import words, wrap
from pmemfs.inspect.text import printable

MAX_RICH_ROWS = 2000
_LEAST_PROSE = 16
_NARROWEST = 20
_EDGES, _GAP = 2, 2

Row = Sequence[Any]


def heading(text: str) -> None:
    """Write a heading with an empty line before it."""
    click.echo()
    for part in words(printable(text), _width()):
        click.echo(click.style(part, bold=True))


def line(text: str) -> None:
    """Write one line, or more on a terminal that is narrower."""
    for part in words(printable(text), _width()):
        click.echo(part)


def _width() -> int:
    """Return the width of the terminal; elsewhere lines may have any."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Write labels and what belongs to them, in two columns."""
    rows = [(label, _cell(value)) for label, value in pairs]
    width = max((len(label) for label, _ in rows), default=0)
    for label, value in rows:
        begin = f"  {label.ljust(width)}  "
        for text in wrap(begin, value.split(" "), " ", _width()):
            click.echo(text.rstrip())


def table(columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a table; a column whose name starts with ``>`` is set to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    names = [name.lstrip(">") for name in columns]
    rights = [name.startswith(">") for name in columns]
    if sys.stdout.isatty() and len(cells) <= MAX_RICH_ROWS:
        parts = zip(*cells) if cells else [()] * len(names)
        _rich_tables([_Column(*column) for column in zip(names, rights, parts)])
    else:
        _plain_table(names, rights, cells)


def _cell(value: Any) -> str:
    return "-" if value is None else printable(str(value))


# -- on a terminal ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    name: str
    is_right: bool
    cells: tuple[str, ...]

    @property
    def full(self) -> int:
        """The width at which nothing is wrapped."""
        return max(map(cell_len, (self.name, *self.cells)))

    @property
    def least(self) -> int:
        """The width below which a word is broken, a figure apart from its unit, or prose torn."""
        words = [word for text in (self.name, *self.cells) for word in text.split()]
        longest = max(map(cell_len, words), default=0)
        if self.is_right:
            return max([longest, *map(cell_len, self.cells)])
        return max(longest, min(self.full, _LEAST_PROSE))


def _rich_tables(columns: list[_Column]) -> None:
    console = Console(markup=False, highlight=False, emoji=False)
    console.width = max(_NARROWEST, console.width)
    with console.capture() as capture:
        for group in _groups(columns, console.width):
            console.print(_rich_table(group, console.width))
    click.echo(capture.get(), nl=False)


def _groups(columns: list[_Column], width: int) -> list[list[_Column]]:
    """Return the columns as tables that fit, each beginning with the first column."""
    first, *others = columns
    groups = [[first]]
    for column in others:
        wider = [*groups[-1], column]
        if len(wider) > 2 and sum(c.least for c in wider) > _room(wider, width):
            groups.append([first])
        groups[-1].append(column)
    return groups


def _room(columns: list[_Column], width: int) -> int:
    return width - _EDGES - _GAP * (len(columns) - 1)


def _widths(columns: list[_Column], width: int) -> list[int]:
    """Give each column what it needs at least, and what is left to those that want little more."""
    widths = [column.least for column in columns]
    spare = _room(columns, width) - sum(widths)
    while spare < 0 and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
        spare += 1
    wants = [column.full - given for column, given in zip(columns, widths)]
    for place in sorted(range(len(columns)), key=lambda place: wants[place]):
        more = max(0, min(spare, wants[place]))
        widths[place] += more
        spare -= more
    return widths


def _rich_table(columns: list[_Column], width: int) -> Table:
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column, cells in zip(columns, _widths(columns, width)):
        justify: JustifyMethod = "right" if column.is_right else "left"
        out.add_column(Text(column.name), justify=justify, overflow="fold", width=cells)
    for row in zip(*(column.cells for column in columns)):
        out.add_row(*map(Text, row))
    return out


# -- elsewhere -------------------------------------------------------------------------------


def _plain_table(names: list[str], rights: list[bool], cells: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(names, *cells)]
    click.echo("\n".join(_plain_line(row, widths, rights) for row in [names, *cells]))


def _plain_line(cells: list[str], widths: list[int], rights: list[bool]) -> str:
    parts = (
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, rights)
    )
    return "  " + "  ".join(parts).rstrip()
