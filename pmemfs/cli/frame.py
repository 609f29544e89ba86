"""Fit lines into a terminal: what is too wide is wrapped or cut, what is too much is left out.

Lines may have colours; widths are in cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
from rich.cells import cell_len

Block = tuple[int, list[str]]
"""Lines that are shown together or not at all, and their rank: 0 is needed most."""


def fit(blocks: Sequence[Block], rows: int) -> list[str]:
    """Return the lines of the blocks that are needed most and fit, in their order."""
    kept = set()
    for place in sorted(range(len(blocks)), key=lambda place: blocks[place][0]):
        size = len(blocks[place][1])
        if size <= rows:
            kept.add(place)
            rows -= size
    lines = [line for place in sorted(kept) for line in blocks[place][1]]
    return [line for line, next_ in zip(lines, [*lines[1:], ""]) if line or next_]


def wrap(begin: str, items: Iterable[str], gap: str, width: int) -> list[str]:
    """Return the items behind ``begin``, on as many lines as they need; none is broken inside."""
    first, *others = items
    lines = [begin + first]
    for item in others:
        if cells(lines[-1] + gap + item) <= width:
            lines[-1] += gap + item
        else:
            lines.append(" " * len(begin) + item)
    return lines


def first_columns(begin: str, columns: Iterable[str], gap: str, width: int) -> str:
    """Return a row with as many whole columns as fit."""
    return wrap(begin, ["", *columns], gap, width)[0]


def words(text: str, width: int) -> list[str]:
    """Return a text on as many lines as it needs, broken between words, indented as it begins."""
    if cells(text) <= width or not text.strip():
        return [text]
    indent = text[: len(text) - len(text.lstrip())]
    return wrap(indent, text.split(), " ", width)


def cells(line: str) -> int:
    """Return the width of a line on a terminal, without its colours."""
    return cell_len(click.unstyle(line))


def cut(line: str, width: int) -> str:
    """Return a line that is too wide without its end, and without colours."""
    if cells(line) <= width:
        return line
    line = click.unstyle(line)
    while cell_len(line) > width:
        line = line[:-1]
    return line


def end_of(name: str, width: int) -> str:
    """Return a name, or ``...`` and as much of its end as fits."""
    if cell_len(name) <= width:
        return name
    while name and cell_len(name) > width - 3:
        name = name[1:]
    return f"...{name}"
