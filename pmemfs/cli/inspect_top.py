"""``pmemfs inspect top``: what a live mount is doing, drawn again and again.

A frame is never wider or higher than the terminal, so that it is drawn in place: what does not
fit is left out, the hottest extents first.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import click

from pmemfs import inspect
from pmemfs.cli.frame import Block, cut, end_of, first_columns, fit, wrap
from pmemfs.cli.inspect_device import COLOURS, LETTERS, uses_colour
from pmemfs.inspect.activity import Sample, activity, rates
from pmemfs.inspect.map import CLASSES
from pmemfs.inspect.text import printable
from pmemfs.units import format_size

_BARS = "▁▂▃▄▅▆▇█"
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _LINE_END, _REST = "\x1b[H", "\x1b[K", "\x1b[J"
_KEPT = 40
_WAITS = 3
_IDLE_AFTER_S = 2.5
_PAGE_WIDTH = 120
_LEAST_ROWS = 3

# what a frame needs most, first: of blocks that do not fit all, those with a high number go
HEAD, RATES, BAR, REQUESTS, LEGEND, DEVICE, HOTTEST, SPACE, MORE_REQUESTS, MORE_HOTTEST = range(10)


class Top:
    """Samples of one image, and the history that is drawn beside the newest."""

    def __init__(self, reader: inspect.Reader, interval_s: float, hottest: int) -> None:
        self._reader = reader
        self._interval_s = interval_s
        self._hottest = hottest
        self._before = self._sample()
        self._taken_s = time.monotonic()
        self._counted: Sample | None = None
        self._history: dict[str, deque[float]] = {
            name: deque(maxlen=_KEPT) for name in ("requests", "splits", "unsplits")
        }

    def _sample(self) -> Sample:
        return inspect.collect(self._reader, partial(activity, now_s=int(time.time())))

    def next(self) -> Sample:
        """Wait for the interval; return the newest sample with ``rates`` since the last.

        Where the daemon has not stored its counters meanwhile, and not because it is idle, those
        of the last time are given again; there being none, it is waited for.
        """
        time.sleep(self._interval_s)
        after = self._sample()
        if self._counted is None:
            for _ in range(_WAITS):
                if not self._is_late(after):
                    break
                time.sleep(1.0)
                after = self._sample()
        now = time.monotonic()
        found = rates(self._before, after, now - self._taken_s, hottest=self._hottest)
        if self._counted is not None and self._is_late(after):
            found |= {name: self._counted[name] for name in ("counters", "requests")}
        self._counted = found
        self._before, self._taken_s = after, now
        self._history["requests"].append(sum(found["requests"].values()))
        for name in ("splits", "unsplits"):
            self._history[name].append(found["counters"][name])
        return after | {"rates": found}

    def _is_late(self, after: Sample) -> bool:
        """Tell whether the counters are as before, but so new that they will change soon."""
        stored_ns = after["stored_ns"]
        if stored_ns is None or stored_ns != self._before["stored_ns"]:
            return False
        return time.time() - stored_ns / 1e9 < _IDLE_AFTER_S

    def lines(self, data: Sample, width: int, rows: int = sys.maxsize) -> list[str]:
        """Return the picture of a sample, with colours: at most ``rows`` lines of ``width`` cells.

        What a frame needs least is left out.
        """
        space: Block = (SPACE, [""])
        blocks = [
            *((HEAD, [line]) for line in _head_lines(data, width)),
            space,
            (BAR, [_bar(data["extents"], width)]),
            (LEGEND, _class_lines(data["extents"], width)),
            space,
            *self._rate_blocks(data["rates"], width),
            space,
            *_request_blocks(data, width),
            space,
            *_hottest_blocks(data["rates"]["hottest"], width),
        ]
        return [cut(line, width) for line in fit(blocks, rows)]

    def _rate_blocks(self, found: Sample, width: int) -> Iterator[Block]:
        counters = found["counters"]
        values = {"requests": sum(found["requests"].values())}
        values |= {name: counters[name] for name in ("splits", "unsplits")}
        for name, value in values.items():
            spark = _spark(self._history[name], width - 27)
            yield RATES, [f"  {name + '/s':<12} {value:>10,.1f}  {spark}".rstrip()]
        device = (
            f"{counters['stores']:,.0f} stores,",
            f"{format_size(int(counters['bytes_stored']))},",
            f"{counters['lines_flushed']:,.0f} lines flushed,",
            f"{counters['fences']:,.0f} fences,",
            f"{found['transactions']:,.0f} transactions",
        )
        yield DEVICE, wrap("  device/s     ", device, " ", width)


# -- the parts -------------------------------------------------------------------------------


def _head_lines(data: Sample, width: int) -> list[str]:
    state = "mounted" if data["live"] else "not mounted: nothing happens"
    rest = f": {state}, {time.strftime('%H:%M:%S')}"
    name = end_of(printable(str(data["image"])), max(8, width - len(rest)))
    lines = [click.style(name, bold=True) + rest]
    if data["live"] and data["stored_ns"] is None:
        lines.append("The daemon has shown no counters yet.")
    return lines


def _bar(totals: dict[str, int], width: int) -> str:
    """Return a bar of the extents by class; every class that is there gets a place in it."""
    cells, total = max(20, width - 4), sum(totals.values())
    parts = {name: max(1, round(n / total * cells)) for name, n in totals.items() if n}
    largest = max(parts, key=lambda name: parts[name])
    parts[largest] = max(1, parts[largest] - (sum(parts.values()) - cells))
    used = [name for name in (*CLASSES[1:], "free") if name in parts]
    return "  " + "".join(click.style(_mark(name) * parts[name], fg=COLOURS[name]) for name in used)


def _mark(name: str) -> str:
    """Return what stands for a class: a block to be coloured, or a letter where that is not."""
    if not uses_colour():
        return LETTERS[name]
    return "·" if name == "free" else "█"


def _class_lines(totals: dict[str, int], width: int) -> list[str]:
    classes = (
        f"{click.style(_mark(name), fg=COLOURS[name])} {name} {totals[name]:,}" for name in CLASSES
    )
    return wrap("  ", classes, "  ", width)


def _spark(values: deque[float], cells: int) -> str:
    """Return the newest values as bars, the highest of those kept being full."""
    most = max(values, default=0.0)
    if not most:
        return ""
    top = len(_BARS) - 1
    newest = list(values)[-max(1, cells) :]
    text = "".join(_BARS[round(value / most * top)] if value else " " for value in newest)
    return click.style(text, fg=COLOURS["whole"])


def _request_blocks(data: Sample, width: int) -> list[Block]:
    per_s, total = data["rates"]["requests"], data["requests"]
    shown = sorted(
        (name for name in total if total[name]), key=lambda n: (per_s[n], total[n]), reverse=True
    )
    if not shown:
        return [(REQUESTS, ["  no requests yet"])]
    most = max(per_s.values()) or 1.0
    cells = max(0, min(40, width - 45))
    lines = [f"  {'request':<12} {'per second':>10} {'in all':>14}"] + [
        f"  {name:<12} {per_s[name]:>10,.1f} {total[name]:>14,}  "
        + click.style("█" * round(per_s[name] / most * cells), fg=COLOURS["small"])
        for name in shown
    ]
    return _list_blocks(lines, REQUESTS, MORE_REQUESTS)


def _hottest_blocks(hottest: list[dict[str, Any]], width: int) -> list[Block]:
    if not hottest:
        return [(HOTTEST, ["  no extent has been accessed just now"])]
    names = (
        f"{'kind':<10}", f"{'lines/s':>10}", f"{'dirty':>6}", f"{'pages just now':>14}",
        f"{'wear':>14}",
    )  # fmt: skip
    lines = [first_columns(f"  {'extent':>9}", names, " ", width)]
    for entry in hottest:
        pages, dirty = (
            "-" if entry[name] is None else f"{entry[name]:,}" for name in ("pages", "dirty")
        )
        cells = (
            click.style(f"{entry['kind']:<10}", fg=COLOURS.get(entry["kind"])),
            f"{entry['lines_per_s']:>10,.0f}",
            f"{dirty:>6}",
            f"{pages:>14}",
            f"{entry['lines']:>14,}",
        )
        lines.append(first_columns(f"  {entry['extent']:>9}", cells, " ", width))
    return _list_blocks(lines, HOTTEST, MORE_HOTTEST)


def _list_blocks(lines: list[str], first: int, more: int) -> list[Block]:
    """Return a heading together with its first line, then a block for each other line."""
    blocks = [(first, lines[:2])]
    for place, line in enumerate(lines[2:], 2):
        blocks.append((first if place <= _LEAST_ROWS else more, [line]))
    return blocks


# -- the loop --------------------------------------------------------------------------------


def run(image: str, *, interval_s: float, count: int | None, hottest: int, as_json: bool) -> None:
    """Show samples until Ctrl-C, ``count`` of them, or one in a pipe."""
    is_screen = sys.stdout.isatty() and not as_json
    with inspect.Reader(image) as reader:
        top = Top(reader, interval_s, hottest)
        number = count if count is not None else None if sys.stdout.isatty() else 1
        show = _show_json if as_json else partial(_show_text, top)
        if is_screen and number is None:
            with _screen():
                _loop(top, partial(_show_screen, top), None)
        else:
            _loop(top, show, number)


def _loop(top: Top, show: Callable[[Sample], None], count: int | None) -> None:
    while count is None or count > 0:
        show(top.next())
        count = None if count is None else count - 1


def _show_json(data: Sample) -> None:
    click.echo(json.dumps(data))


def _show_text(top: Top, data: Sample) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _PAGE_WIDTH
    for line in top.lines(data, width):
        click.echo((line if uses_colour() else click.unstyle(line)).rstrip())


def _show_screen(top: Top, data: Sample) -> None:
    width, height = shutil.get_terminal_size()
    lines = top.lines(data, width, max(1, height - 1))  # below the last one stands the cursor
    if not uses_colour():
        lines = [click.unstyle(line) for line in lines]
    click.echo(_HOME + "".join(line + _LINE_END + "\n" for line in lines) + _REST, nl=False)
    sys.stdout.flush()


@contextmanager
def _screen() -> Iterator[None]:
    click.echo(_ENTER, nl=False)
    try:
        yield
    except KeyboardInterrupt:  # the way to end it
        pass
    finally:
        click.echo(_LEAVE, nl=False)
        sys.stdout.flush()
