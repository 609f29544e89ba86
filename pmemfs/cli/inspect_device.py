"""The views that draw the whole device in a terminal: map, wear.

On a terminal a cell is a coloured block, shaded by how full it is; in a pipe, without colour
(``NO_COLOR``) or when asked, it is a letter. ``FORCE_COLOR`` wants colour in a pipe, too.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

import click

from pmemfs.cli.frame import first_columns, words, wrap
from pmemfs.cli.stdout import forces_colour
from pmemfs.cli.table import facts, heading, line, table
from pmemfs.inspect.map import CLASSES
from pmemfs.units import count, format_size

Data = dict[str, Any]

LETTERS = dict(zip(CLASSES, ".-WsSDM"))
COLOURS = {
    "free": (90, 90, 90),
    "returned": (150, 150, 150),
    "whole": (60, 130, 220),
    "small": (80, 175, 90),
    "split": (240, 200, 60),
    "descriptor": (225, 80, 70),
    "metadata": (165, 105, 200),
}
MEANINGS = {
    "free": "nobody's, reads as zeros",
    "returned": "free, not given back to the host",
    "whole": "one file's alone",
    "small": "pages of many files, not split",
    "split": "the same, with page descriptors",
    "descriptor": "split tables",
    "metadata": "inodes, directories, maps, fixed",
}
_SHADES = " ░▒▓█"
_HEAT = " .:-=+*#%@"
_HEAT_COLOURS = (
    (60, 60, 60), (60, 90, 160), (60, 140, 180), (70, 175, 120), (150, 190, 70),
    (225, 200, 60), (240, 160, 50), (235, 110, 50), (225, 65, 60), (255, 40, 90),
)  # fmt: skip
_COUNTED = (
    "Counted are flushed lines of file data. A page of a small file that is overwritten in place "
    "counts once it is made durable (fsync, idle time, unmounting), however often it was stored. "
    "Metadata, owner pages, descriptors and the journal do not count."
)
_MIN_CELLS, _ROW_STEP = 16, 16
_OTHER_LINES = 15
_PAGE = (100, 48)
_BAR = 24


def uses_colour() -> bool:
    """Tell whether stdout is a terminal that wants colour, or colour is wanted anyhow."""
    return forces_colour() or (sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def _room() -> tuple[int, int]:
    if sys.stdout.isatty():
        return shutil.get_terminal_size()
    return shutil.get_terminal_size(_PAGE) if forces_colour() else _PAGE  # COLUMNS may say how wide


def width() -> int:
    """Return how many columns a line may have."""
    return _room()[0]


def canvas() -> tuple[int, int]:
    """Return the cells of a row and the rows that fit into the terminal, or into a page."""
    columns, rows = _room()
    cells = max(_MIN_CELLS, (columns - 12) // _ROW_STEP * _ROW_STEP)
    return cells, max(8, rows - _OTHER_LINES)


# -- map -------------------------------------------------------------------------------------


def render_map(data: Data, *, letters: bool) -> None:
    """Write the view ``map``."""
    per_row, _ = canvas()
    group, cells = data["group_extents"], data["cells"]
    what = "an extent of 2 MiB" if group == 1 else f"{group} extents, {format_size(group << 21)}"
    state = " (mounted)" if data["live"] else ""
    heading(f"{data['image']}: {format_size(data['n_extents'] << 21)}{state}, a cell is {what}")
    draw = _letter if letters else _block
    for start in range(0, len(cells), per_row):
        row = "".join(draw(cell) for cell in cells[start : start + per_row])
        click.echo(f"{cells[start]['extent']:>9}  {row}")
    click.echo()
    _render_legend(data, letters)
    if group > 1:
        line("  A cell shows what most of its used extents are.")


def _letter(cell: Data) -> str:
    return LETTERS[cell["shows"]]


def _block(cell: Data) -> str:
    shows = cell["shows"]
    if shows == "free":
        return click.style("·", fg=COLOURS["free"])
    if shows == "returned":
        return click.style("▫", fg=COLOURS["returned"])
    shade = _SHADES[max(1, min(4, -(-int(cell["fill"] * 1000) // 250)))]
    return click.style(shade, fg=COLOURS[shows])


def _render_legend(data: Data, letters: bool) -> None:
    """Write one line for each class: its mark, extents, share, size, meaning."""
    marks = LETTERS if letters else {"free": "·", "returned": "▫"}
    n = data["n_extents"]
    for name in CLASSES:
        total = data["totals"][name]
        mark = marks.get(name, "█")
        columns = (f"{total:>9,}", f"{total / n:>7.1%}", f"{format_size(total << 21):>11}")
        begin = f"  {mark if letters else click.style(mark, fg=COLOURS[name])}  {name:<10}"
        click.echo(first_columns(begin, [*columns, f" {MEANINGS[name]}"], " ", width()))


# -- wear ------------------------------------------------------------------------------------


def render_wear(data: Data, *, letters: bool) -> None:
    """Write the view ``wear``."""
    per_row, _ = canvas()
    state = " (mounted)" if data["live"] else ""
    heading(f"{data['image']}: wear{state}")
    facts(
        [
            ("lines flushed", f"{data['lines']:,} of 64 bytes, {format_size(data['lines'] * 64)}"),
            ("in extents", f"{data['worn_extents']:,} of {data['n_extents']:,}"),
            ("that is", f"{data['turns']:.3f} times all lines of the device"),
            ("not flushed", f"{data['unflushed_pages']:,} pages of small files, overwritten"),
            ("hottest", hottest_sentence(data)),
        ]
    )
    if not data["lines"]:
        line("")
        line("Nothing has been flushed to file data yet.")
        return
    _render_heat(data, per_row, letters)
    heading("Extents by lines flushed")
    table([">from", ">below", ">extents", ">lines", ""], _histogram_rows(data["histogram"]))
    heading("By kind, as the extents are now")
    table(
        ["kind", ">extents", ">lines"],
        [(k, f"{v['extents']:,}", f"{v['lines']:,}") for k, v in data["by_kind"].items()],
    )
    heading("Hottest extents")
    table(
        [">extent", "kind", ">lines", ">times over"],
        [(h["extent"], h["kind"], f"{h['lines']:,}", f"{h['turns']:.2f}") for h in data["hottest"]],
    )
    line("")
    for text in words(_COUNTED, width()):
        line(text)


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def hottest_sentence(data: Data) -> str:
    """Return what the hottest hundredth took, of at least one extent."""
    n, worn = data["hottest_1_percent_extents"], data["worn_extents"]
    share = data["hottest_1_percent_share"]
    return f"{count(n, 'extent', 'extents')} ({_percent(n, worn)} of those) took {share:.1%}"


def _render_heat(data: Data, per_row: int, letters: bool) -> None:
    cells, group = data["cells"], data["group_extents"]
    most = max(cells)
    which = "" if group == 1 else f", the hottest of {group} in each cell"
    heading(f"Where{which}")
    last = max(place for place, lines in enumerate(cells) if lines)
    for start in range(0, last + 1, per_row):
        row = "".join(_heat(lines, most, letters) for lines in cells[start : start + per_row])
        click.echo(f"{start * group:>9}  {row}".rstrip())
    if last + 1 < len(cells):
        line("           nothing behind")
    for text in _heat_legend(most, letters):
        click.echo(text)


def _heat_legend(most: int, letters: bool) -> list[str]:
    """Return each mark with the fewest lines that it stands for, and the most there are."""
    least: dict[int, int] = {}
    for bits in range(most.bit_length()):
        least.setdefault(_level(1 << bits, most), 1 << bits)
    marks = [f"{_heat(0, most, letters)} 0"] if not letters else []
    marks += [f"{_heat(lines, most, letters)} {lines:,}" for lines in least.values()]
    return wrap("  lines, from: ", [*marks, f"to {most:,}"], "  ", width())


def _level(lines: int, most: int) -> int:
    steps = len(_HEAT) - 1
    return 1 + min(steps - 1, lines.bit_length() * steps // (most.bit_length() + 1))


def _heat(lines: int, most: int, letters: bool) -> str:
    level = _level(lines, most) if lines else 0
    if letters:
        return _HEAT[level]
    return click.style("█" if level else "·", fg=_HEAT_COLOURS[level])


def _histogram_rows(histogram: list[Data]) -> list[tuple[Any, ...]]:
    most = max(bucket["extents"] for bucket in histogram)
    return [
        (
            f"{bucket['min_lines']:,}",
            f"{bucket['below_lines']:,}",
            f"{bucket['extents']:,}",
            f"{bucket['lines']:,}",
            "#" * -(-bucket["extents"] * _BAR // most),
        )
        for bucket in histogram
    ]
