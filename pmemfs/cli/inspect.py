"""``pmemfs inspect VIEW IMAGE [ARG] [--json]``: arguments in, a view of `pmemfs.inspect` out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from pmemfs import inspect
from pmemfs.cli import inspect_device, inspect_maps, inspect_text, inspect_top
from pmemfs.cli.numbers import NumberRange
from pmemfs.inspect.collect import View
from pmemfs.inspect.extents import SORT_KEYS
from pmemfs.inspect.heads import KIND_NAMES
from pmemfs.inspect.map import MOST_CELLS

Command = Callable[..., Any]
Render = Callable[[dict[str, Any]], None]


class Number(click.ParamType[int]):
    """A whole number, decimal or as 0x... ."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; fails with a sentence."""
        try:
            return value if isinstance(value, int) else int(value, 0)
        except ValueError:
            self.fail(f"'{value}' is not a number: write 1234 or 0x4d2", param, ctx)


@click.group("inspect", short_help="Look into an image, mounted or not.")
def inspect_command() -> None:
    """Look into an image, mounted or not; never writes.

    While the image is mounted the live descriptors are shown. With no daemon alive, no page
    descriptor counts: they are never trusted after a restart.

    \b
    Examples:
      pmemfs inspect usage disk.img
      pmemfs inspect map disk.img
      pmemfs inspect extents disk.img --kind small --sort wear
      pmemfs inspect file disk.img /home/notes.txt
      pmemfs inspect page disk.img 0x2a01 --json
    """


def _view(command: Command) -> Command:
    image = click.argument("image", type=click.Path(readable=False))
    as_json = click.option("--json", "as_json", is_flag=True, help="Raw integers, as JSON.")
    return image(as_json(command))


def _picture(command: Command) -> Command:
    path = click.Path(dir_okay=False, writable=True)
    return click.option(
        "--png", type=path, metavar="FILE", help="Write a picture; with --json as well."
    )(command)


def _most_cells(as_json: bool, png: str | None, fitting: int) -> int:
    """Return how many cells to ask for: what fits, or what a program or a picture can take."""
    if png:
        return 1 << 16
    return MOST_CELLS if as_json else fitting


def _drawing(png: str | None, view: str) -> Render | None:
    """Return what writes the picture, if one is wanted and can be written."""
    if png is None:
        return None
    # imported late: only pictures need what draws them
    from pmemfs.bench.picture import validate_picture
    from pmemfs.cli import inspect_plots

    path = Path(png)
    validate_picture(path)
    write = {"map": inspect_plots.write_map, "wear": inspect_plots.write_wear}[view]
    return lambda data: write(data, path)


def _show(image: str, as_json: bool, view: View, render: Render) -> None:
    data = _collect(image, view)
    if as_json:
        _print_json(data)
    else:
        render(data)
        inspect_text.render_state(data)


def _show_or_draw(
    image: str, as_json: bool, png: str | None, name: str, view: View, render: Render
) -> None:
    """Show a view; or draw it, and as JSON as well if that is asked for."""
    draw = _drawing(png, name)
    if draw is None:
        return _show(image, as_json, view, render)
    data = _collect(image, view)
    if as_json:
        _print_json(data)
    draw(data)
    click.echo(png, err=as_json)
    if not as_json:
        inspect_text.render_state(data)


def _collect(image: str, view: View) -> dict[str, Any]:
    with inspect.Reader(image) as reader:
        return inspect.collect(reader, view)


def _print_json(data: dict[str, Any]) -> None:
    click.echo(json.dumps(data, indent=2))


@inspect_command.command("usage")
@_view
def usage_command(image: str, as_json: bool) -> None:
    """Show what files, extents and descriptors take.

    Files counts all inodes in use but the root, directories among them. Free counts what is
    returned, too. Page descriptors are counted by touched ones and by whole tables.

    \b
    Examples:
      pmemfs inspect usage disk.img
      pmemfs inspect usage disk.img --json | jq .split_extents
    """
    _show(image, as_json, inspect.usage, inspect_text.render_usage)


@inspect_command.command("map", short_help="Draw the device, a cell for each extent.")
@_view
@_picture
@click.option("--letters", is_flag=True, help="Letters instead of coloured blocks.")
@click.option("--cells", type=click.IntRange(1, 1 << 20), metavar="N", help="At most N cells.")
def map_command(
    image: str, as_json: bool, png: str | None, letters: bool, cells: int | None
) -> None:
    """Draw the device: a cell for each extent, or for each group of 2, 4, 8, ... neighbours.

    As many cells as fit into the terminal; in colour there, shaded by how full they are, and in
    letters in a pipe (or if NO_COLOR is set; FORCE_COLOR=1 wants colour there, too).

    \b
    Examples:
      pmemfs inspect map disk.img
      pmemfs inspect map disk.img --letters --cells 512
      pmemfs inspect map disk.img --png disk.png
      watch pmemfs inspect map disk.img
      FORCE_COLOR=1 pmemfs inspect map disk.img | less -R
    """
    per_row, rows = inspect_device.canvas()
    most = cells or _most_cells(as_json, png, per_row * rows)
    plain = letters or not inspect_device.uses_colour()
    render = partial(inspect_device.render_map, letters=plain)
    view = partial(inspect.device_map, most_cells=most)
    _show_or_draw(image, as_json, png, "map", view, render)


@inspect_command.command("wear", short_help="Show where the device is written.")
@_view
@_picture
@click.option("--letters", is_flag=True, help="Characters instead of colours.")
@click.option("--top", type=click.IntRange(0, 1000), default=10, show_default=True,
              help="How many of the hottest extents.")  # fmt: skip
def wear_command(image: str, as_json: bool, png: str | None, letters: bool, top: int) -> None:
    """Show where the device is written: lines of 64 bytes flushed, extent by extent.

    Counted is file data. New pages, and stores to whole extents, count with their write, and so
    does what promotion and compaction copy. A page of a small file that is overwritten in place
    counts when it is flushed: at fsync, when its extent is unsplit (idle), at unmounting; by all
    its 64 lines, and once, however often it was stored before. Until then it is among the pages
    not flushed.

    Not counted are metadata, inodes, owner pages, the head table, split tables and the
    journal. The sum is a lower bound: a crash loses what the heads had not been told yet.

    \b
    Examples:
      pmemfs inspect wear disk.img
      pmemfs inspect wear disk.img --png wear.png
      pmemfs inspect wear disk.img --json | jq .hottest
    """
    per_row, rows = inspect_device.canvas()
    most = _most_cells(as_json, png, per_row * max(4, rows // 3))
    plain = letters or not inspect_device.uses_colour()
    render = partial(inspect_device.render_wear, letters=plain)
    view = partial(inspect.wear, hottest=top, most_cells=most)
    _show_or_draw(image, as_json, png, "wear", view, render)


@inspect_command.command("top", short_help="Watch what a mount is doing.")
@_view
@click.option("--interval", "interval_s", type=NumberRange(0.1, 3600), default=1.0,
              show_default=True, metavar="SECONDS", help="Between two samples.")  # fmt: skip
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N samples.")
@click.option("--top", type=click.IntRange(0, 1000), default=10, show_default=True,
              help="How many of the hottest extents.")  # fmt: skip
def top_command(image: str, as_json: bool, interval_s: float, count: int | None, top: int) -> None:
    """Watch a mount: requests by kind, splits and unsplits, active tables, the hottest extents.

    Lines are counted as by pmemfs inspect wear: overwrites of small files when they are flushed;
    until then their pages are dirty. Device/s counts all stores, metadata and descriptors as well.

    Refreshes until Ctrl-C on a terminal; in a pipe, one sample is taken. JSON is one object on a
    line for each. The daemon shows its counters once per second, at most.

    \b
    Examples:
      pmemfs inspect top disk.img
      pmemfs inspect top disk.img --interval 5
      pmemfs inspect top disk.img --json --count 60 > minute.jsonl
    """
    inspect_top.run(image, interval_s=interval_s, count=count, hottest=top, as_json=as_json)


@inspect_command.command("super")
@_view
def super_command(image: str, as_json: bool) -> None:
    """Show the superblock, the control page, and where things are.

    \b
    Example:
      pmemfs inspect super disk.img
    """
    _show(image, as_json, inspect.superblock, inspect_text.render_super)


@inspect_command.command("extents")
@_view
@click.option("--all", "all_rows", is_flag=True, help="One row for each extent ever used.")
@click.option("--sort", type=click.Choice(SORT_KEYS), default="extent", help="Largest first.")
@click.option("--kind", type=click.Choice(list(KIND_NAMES.values())), help="Only this kind.")
def extents_command(image: str, as_json: bool, all_rows: bool, sort: str, kind: str | None) -> None:
    """Show the extents, as ranges of equal ones.

    \b
    Examples:
      pmemfs inspect extents disk.img
      pmemfs inspect extents disk.img --all --sort wear | head
      pmemfs inspect extents disk.img --kind small --json
    """
    view = partial(inspect.extents, all_rows=all_rows, sort=sort, kind=kind)
    _show(image, as_json, view, inspect_text.render_extents)


@inspect_command.command("extent", short_help="Show one extent, page by page.")
@_view
@click.argument("number", metavar="N", type=Number())
def extent_command(image: str, as_json: bool, number: int) -> None:
    """Show one extent: its head, and page by page its split table or owner page.

    \b
    Example:
      pmemfs inspect extent disk.img 4
    """
    view = partial(inspect.extent, number=number)
    _show(image, as_json, view, inspect_maps.render_extent)


@inspect_command.command("page", short_help="Look a page up, and show how.")
@_view
@click.argument("pfn", type=Number())
def page_command(image: str, as_json: bool, pfn: int) -> None:
    """Show what the two-level lookup finds for a page, and how it got there.

    \b
    Examples:
      pmemfs inspect page disk.img 2049
      pmemfs inspect page disk.img 0x801
    """
    _show(image, as_json, partial(inspect.page, pfn=pfn), inspect_maps.render_page)


@inspect_command.command("file")
@_view
@click.argument("path")
def file_command(image: str, as_json: bool, path: str) -> None:
    """Show where a file lies, piece by piece of 2 MiB.

    PATH is a path inside the image, or '<17>' for inode 17. Symbolic links are not followed.

    \b
    Examples:
      pmemfs inspect file disk.img /home/notes.txt
      pmemfs inspect file disk.img '<17>' --json
    """
    view = partial(inspect.file, path=os.fsencode(path))
    _show(image, as_json, view, inspect_maps.render_file)


@inspect_command.command("free", short_help="Show free space by size and alignment.")
@_view
def free_command(image: str, as_json: bool) -> None:
    """Show the free space by size of its runs and by 2 MiB alignment.

    \b
    Example:
      pmemfs inspect free disk.img
    """
    _show(image, as_json, inspect.free, inspect_text.render_free)


@inspect_command.command("journal", short_help="Show what is committed, and both slots.")
@_view
def journal_command(image: str, as_json: bool) -> None:
    """Show what is committed, whether a mount would replay it, and both journal slots.

    \b
    Example:
      pmemfs inspect journal disk.img
    """
    _show(image, as_json, inspect.journal, inspect_text.render_journal)
